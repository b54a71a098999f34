-- The line of progress.
local weft = require "weft"
local leaks = require "spec.support.leaks"

describe("weft.progress", function()
  before_each(leaks.before)
  after_each(leaks.after)

  local function written(use)
    local lines = {}
    local stream = {
      write = function(_, ...)
        lines[#lines + 1] = table.concat({ ... })
      end,
      flush = function() end,
    }
    use(stream)
    return lines
  end

  it("counts items and failures, and ends with a line", function()
    local lines = written(function(stream)
      local progress = weft.progress { total = 3, label = "batch", stream = stream, interval = 0 }
      progress:tick()
      progress:tick("no answer")
      progress:tick()
      progress:finish()
    end)
    assert.equal(4, #lines)
    assert.matches("^batch:  1/3  [%d.]+/s  %d+ s left\n$", lines[1])
    assert.matches("^batch:  2/3  [%d.]+/s  1 failed  %d+ s left\n$", lines[2])
    assert.matches("^batch:  3/3  [%d.]+/s  1 failed\n$", lines[4])
  end)

  it("writes no more often than its interval", function()
    local lines = written(function(stream)
      local progress = weft.progress.new { stream = stream, interval = 3600 }
      for _ = 1, 100 do
        progress:tick()
      end
      assert.matches("^progress:  100  [%d.]+/s$", progress:line())
      progress:finish()
    end)
    assert.equal(1, #lines)
  end)

  it("stays where it is", function()
    local progress = weft.progress {}
    local ok, err = pcall(weft.all, {
      a = function()
        progress:tick()
      end,
    })
    assert.is_false(ok)
    assert.matches("upvalue 'progress': table cannot be sent; a progress line belongs to its state", tostring(err))
  end)

  it("is called as its constructor", function()
    assert.has_error(function()
      weft.progress { totl = 3 }
    end)
    assert.equal(getmetatable(weft.progress.new {}), getmetatable(weft.progress {}))
  end)
end)

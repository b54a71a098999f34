--- A progress line for scripts: one line that is rewritten on a terminal, a few lines in a log.
-- @module weft.progress
local core = require "weft.core"
local check = require "weft.check"

local progress = {}
progress.__index = progress
progress.__weft_advice = "a progress line belongs to its state; count there what comes back, as from weft.stream"

local M = {}

local function check_options(options)
  local interval, label, stream = options.interval, options.label, options.stream
  if interval ~= nil and not (type(interval) == "number" and interval >= 0) then
    check.fail("weft.progress.new", "interval", "a number of seconds >= 0", interval)
  elseif label ~= nil and type(label) ~= "string" then
    check.fail("weft.progress.new", "label", "a string", label)
  elseif stream ~= nil and type(stream) ~= "userdata" and type(stream) ~= "table" then
    check.fail("weft.progress.new", "stream", "a file", stream)
  end
end

--- Makes a progress line. `weft.progress{…}` is the same call.
-- @tparam[opt] table options `total` (a count; unknown when nil), `label`, `stream` (default io.stderr),
--   `interval` (seconds between two lines; default 0.1 on a terminal, 5 elsewhere)
-- @treturn progress
-- @raise bad argument or unknown option
function M.new(options)
  options = check.options("weft.progress.new", options, { total = true, label = true, stream = true, interval = true })
  check.count("weft.progress.new", "total", options.total, 0)
  check_options(options)
  local stream = options.stream or io.stderr
  local is_terminal = stream == io.stderr and (os.execute("test -t 2") == true or os.execute("test -t 2") == 0)
  return setmetatable({
    total = options.total,
    label = options.label or "progress",
    stream = stream,
    is_terminal = is_terminal,
    interval = options.interval or (is_terminal and 0.1 or 5),
    done_count = 0,
    failed_count = 0,
    started = core.now(),
    shown = core.now(),
  }, progress)
end

--- What the line says now.
-- @function progress:line
-- @treturn string
function progress:line()
  check.self("progress:line", "progress", self, progress)
  local elapsed = core.now() - self.started
  local parts = {
    self.label .. ":",
    self.total and ("%d/%d"):format(self.done_count, self.total) or tostring(self.done_count),
    ("%.1f/s"):format(elapsed > 0 and self.done_count / elapsed or 0),
  }
  if self.failed_count > 0 then
    parts[#parts + 1] = self.failed_count .. " failed"
  end
  if self.total and self.done_count > 0 and self.done_count < self.total then
    parts[#parts + 1] = ("%.0f s left"):format(elapsed / self.done_count * (self.total - self.done_count))
  end
  return table.concat(parts, "  ")
end

--- Counts an item, and rewrites the line when it is time.
-- @function progress:tick
-- @param[opt] failed true when the item failed
function progress:tick(failed)
  check.self("progress:tick", "progress", self, progress)
  self.done_count = self.done_count + 1
  if failed then
    self.failed_count = self.failed_count + 1
  end
  if core.now() - self.shown >= self.interval then
    self.shown = core.now()
    self.stream:write(self.is_terminal and "\r\27[K" or "", self:line(), self.is_terminal and "" or "\n")
    self.stream:flush()
  end
end

--- Ends the line.
-- @function progress:finish
function progress:finish()
  check.self("progress:finish", "progress", self, progress)
  self.stream:write(self.is_terminal and "\r\27[K" or "", self:line(), "\n")
  self.stream:flush()
end

return setmetatable(M, {
  __call = function(_, options)
    return M.new(options)
  end,
})

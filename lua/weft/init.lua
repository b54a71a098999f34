--- weft: structured concurrency for Lua: closures that run on native threads, awaited as an errgroup.
--
-- This file is the public face and nothing else: each function is written where its subject is.
--
--     local weft = require "weft"
--     local results, err = weft.all(weft.background(), { a = fn, b = fn })
--
-- @module weft
local core = require "weft.core"

local weft = {
  _VERSION = "weft 0.1.0",
  inline = "inline", -- as a pool: run tasks in the calling state, where captured variables are shared
}

local internal = {
  host = true,
  methods = true,
  fail_at = true,
  new_error = true,
  raise = true,
  http_request = true,
  http_headers = true,
  http_timings = true,
  http_quota = true,
  health = true,
  class = true,
  null = true,
  own_folder = true,
  virtual_clock = true,
  ledger_open = true,
  ledger_close = true,
  ledger_list = true,
  descriptors = true,
  close_idle = true,
  span_begin = true,
  span_end = true,
  random = true,
}
for name, value in pairs(core) do
  if not internal[name] then
    weft[name] = value
  end
end

core.own_folder(debug.getinfo(1, "S").source)
core.methods.context.after = function(ctx, fn)
  return require("weft.after").after(ctx, fn)
end

core.methods.group.start = function(...)
  return require("weft.start").start(...)
end

--- Modules that add functions to weft, or are fields of it, loaded on first use.
local functions = {
  scope = "weft.scope",
  shield = "weft.scope",
  supervise = "weft.start",
  span = "weft.span",
  on_unseen = "weft.unseen",
  is = "weft.error",
  all = "weft.parallel",
  any = "weft.parallel",
  chain = "weft.parallel",
  map = "weft.map",
  stream = "weft.map",
  stage = "weft.stage",
  pipeline = "weft.pipeline",
  retry = "weft.retry",
  cache = "weft.cache",
  retry_budget = "weft.retry",
}
local modules = {
  http = "weft.http",
  model = "weft.model",
  json = "weft.json",
  progress = "weft.progress",
  ngx = "weft.ngx",
}

if core.host then
  weft.ngx = require "weft.ngx" -- blocking calls wait through it
end

return setmetatable(weft, {
  __index = function(_, name)
    local value
    if functions[name] then
      value = require(functions[name])[name]
    elseif modules[name] then
      value = require(modules[name])
    end
    rawset(weft, name, value)
    return value
  end,
})

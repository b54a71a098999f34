--- A bounded memory that tasks share: values by key, for a time.
-- @module weft.cache
local check = require "weft.check"
local core = require "weft.core"
local options = require "weft.options"

local cache = {}

local MAX = 1000

--- A cache, to be captured and sent.
-- @type cache
local Cache = core.class "weft.cache"
Cache.__index = Cache
Cache.__name = "weft.cache"

local fields = { ttl = options.seconds, max = options.count }

--- Makes a cache. When it is full, the entry that was made first goes. Models take it as `cache`.
-- @function weft.cache
-- @tparam[opt] table given
-- @tparam[opt] number given.ttl seconds after which an entry goes; default: never
-- @tparam[opt=1000] integer given.max entries at most
-- @treturn cache
-- @raise bad argument or unknown option
function cache.cache(given)
  given = given == nil and {} or given
  options.check("weft.cache", given, fields, 2)
  local ttl = given.ttl and given.ttl < math.huge and given.ttl or nil
  return setmetatable({ dict = core.dict({ ttl = ttl }), max = given.max or MAX }, Cache)
end

-- In the dict stand values by "=" .. key, keys by the number of their slot, and how many slots were given away.
local NEXT = "next"

local function check_key(what, self, key)
  if getmetatable(self) ~= Cache then
    check.self(what, "cache", self, Cache)
  elseif type(key) ~= "string" then
    check.fail(what, "key", "a string", key)
  end
end

--- A copy of the value under a key, or nil.
-- @tparam string key
-- @raise bad argument
function Cache:get(key)
  check_key("cache:get", self, key)
  return self.dict:get("=" .. key)
end

--- Keeps a copy of a value.
-- @tparam string key
-- @param value anything that can be sent; nil removes the entry
-- @raise bad argument; what cannot be sent, with its path
function Cache:set(key, value)
  check_key("cache:set", self, key)
  local dict, name = self.dict, "=" .. key
  local is_new = value ~= nil and dict:get(name) == nil
  dict:set(name, value)
  if is_new then
    local slot = dict:incr(NEXT) % self.max
    local oldest
    dict:update(slot, function(holder) -- in one step: of two that come for a slot each has another one to remove
      oldest = holder
      return name
    end)
    if oldest and oldest ~= name then
      dict:set(oldest, nil)
    end
  end
end

--- Forgets everything.
function Cache:clear()
  check.self("cache:clear", "cache", self, Cache)
  self.dict:clear()
end

function Cache:__tostring()
  return ("weft cache: at most %d entries"):format(self.max)
end

--- Whether a value is a cache, or a dict, which serves as one. Internal.
function cache.is_cache(value)
  return getmetatable(value) == Cache or type(value) == "userdata" and tostring(value):match "^weft dict:" ~= nil
end

return cache

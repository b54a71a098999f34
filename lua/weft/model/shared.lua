--- Answers that several calls share: a cache, and one request for equal calls at the same time. Internal.
local core = require "weft.core"

local shared = {}

-- Values as text, the same for equal tables in every state: keys are sorted.
local function put(out, value)
  if type(value) ~= "table" then
    out[#out + 1] = type(value) == "string" and ("%q"):format(value) or tostring(value)
    return
  end
  local keys = {}
  for key in pairs(value) do
    keys[#keys + 1] = key
  end
  table.sort(keys, function(a, b)
    if type(a) ~= type(b) then
      return type(a) == "number"
    end
    return a < b
  end)
  out[#out + 1] = "{"
  for _, key in ipairs(keys) do
    put(out, key) -- quoted, as values are: no name can look like a name and a value
    out[#out + 1] = "="
    put(out, value[key])
    out[#out + 1] = ","
  end
  out[#out + 1] = "}"
end

--- Whose answers they are: the same for clients that send the same headers to the same place by the same way. A cache
-- may be shared by many models, and its keys may be seen, so it is a name that does not tell what is in it.
-- @tparam table client
-- @treturn string
function shared.account(client)
  local out, headers = {}, {}
  for name, value in pairs(client.headers) do
    headers[name:lower()] = value
  end
  put(out, { client.base, client.query, headers, client.http })
  return core.fingerprint(table.concat(out))
end

--- What two calls must have in common to share an answer.
-- @tparam table client
-- @tparam string path
-- @tparam table body
-- @treturn string
function shared.key(client, path, body)
  local out = { client.account, " ", path, "\n" }
  put(out, body)
  return table.concat(out)
end

-- A result that was paid for already.
local function free_copy(result, mark)
  result.cost = result.cost and 0
  result.attempts = 0
  result[mark] = true
  return result
end

local function remember(client, key, result)
  if result and client.cache then
    client.cache:set(key, result) -- a full cache takes no more; that is no failure of the call
  end
end

--- Runs a call, unless its answer is known or on its way. A failure is not kept.
-- @tparam table client
-- @tparam string key
-- @tparam ?boolean is_fresh runs it in any case; the answer is kept all the same
-- @tparam function fn returns a result, or nil and an error
function shared.run(client, key, is_fresh, fn)
  if is_fresh then
    local result, err = fn()
    remember(client, key, result)
    return result, err
  end
  local known = client.cache and client.cache:get(key)
  if known then
    return free_copy(known, "cached")
  end
  local is_mine = false
  local function run()
    is_mine = true
    local result, err = fn()
    remember(client, key, result)
    return result, err
  end
  if not client.flights then
    return run()
  end
  local result, err = client.flights:run(key, run)
  if result and not is_mine then
    free_copy(result, "shared")
  end
  return result, err
end

--- Whether a client shares answers at all.
function shared.is_on(client)
  return client.cache ~= nil or client.flights ~= nil
end

return shared

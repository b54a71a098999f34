--- What models cost. Internal.
--
-- Prices are US dollars for a million tokens, which is micro-dollars for one. They are the list prices of
-- June 2025 and go out of date: give `prices` for what must be exact.
local prices = {}

local MILLION = 1e6

local function price(input, output, cached_input, cache_write)
  return { input = input, output = output, cached_input = cached_input, cache_write = cache_write }
end

local known = {
  openai = {
    ["gpt-4o"] = price(2.5, 10, 1.25),
    ["gpt-4o-mini"] = price(0.15, 0.6, 0.075),
    ["gpt-4.1"] = price(2, 8, 0.5),
    ["gpt-4.1-mini"] = price(0.4, 1.6, 0.1),
    ["gpt-4.1-nano"] = price(0.1, 0.4, 0.025),
    ["o3"] = price(2, 8, 0.5),
    ["o3-mini"] = price(1.1, 4.4, 0.55),
    ["o4-mini"] = price(1.1, 4.4, 0.275),
    ["text-embedding-3-small"] = price(0.02, 0),
    ["text-embedding-3-large"] = price(0.13, 0),
    ["text-embedding-ada-002"] = price(0.1, 0),
  },
  anthropic = {
    ["claude-opus-4"] = price(15, 75, 1.5, 18.75),
    ["claude-sonnet-4"] = price(3, 15, 0.3, 3.75),
    ["claude-3-7-sonnet"] = price(3, 15, 0.3, 3.75),
    ["claude-3-5-sonnet"] = price(3, 15, 0.3, 3.75),
    ["claude-3-5-haiku"] = price(0.8, 4, 0.08, 1),
    ["claude-3-opus"] = price(15, 75, 1.5, 18.75),
    ["claude-3-haiku"] = price(0.25, 1.25, 0.03, 0.3),
  },
  ollama = {},
}

local free = price(0, 0)

--- The price of a model: what the user gave, else what is known here, with or without a version at the end of the
-- name, such as "-2024-07-18" or "-latest". A model of Ollama's costs nothing.
-- @tparam string api
-- @tparam string model
-- @tparam[opt] table given by model
-- @treturn ?table `input`, `output`, maybe `cached_input`, `cache_write`
function prices.find(api, model, given)
  if given and given[model] then
    return given[model]
  end
  local base = model:gsub("%-latest$", ""):gsub("%-%d%d%d%d%-?%d%d%-?%d%d$", "")
  return known[api][model] or known[api][base] or api == "ollama" and free or nil
end

--- What tokens cost, in dollars.
-- @tparam table price_of
-- @tparam table usage
-- @treturn number
function prices.cost(price_of, usage)
  local cached, written = usage.cached_tokens or 0, usage.cache_write_tokens or 0
  local fresh = math.max(0, usage.prompt_tokens - cached - written)
  local sum = fresh * price_of.input
    + cached * (price_of.cached_input or price_of.input)
    + written * (price_of.cache_write or price_of.input)
    + usage.completion_tokens * price_of.output
  return sum / MILLION
end

--- How to give the price of a model, for errors.
function prices.advice(model)
  return ('no price is known for the model "%s": give prices = { ["%s"] = { input = usd, output = usd } }, for a million tokens'):format(
    model,
    model
  )
end

return prices

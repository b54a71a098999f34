--- What models cost. Internal.
--
-- Prices are US dollars for a million tokens, which is micro-dollars for one. They are list prices as the table of the
-- project litellm (model_prices_and_context_window.json) had them in July 2026, of older models when they were last
-- sold, for calls that are answered at once (no batches, no other tier of service). They go out of date: give `prices`
-- for what must be exact.
local prices = {}

local MILLION = 1e6

-- `max_output`: tokens that an answer may have. `long`: a prompt of more tokens costs twice as much, its answer half as
-- much again.
local function price(input, output, cached_input, max_output, long)
  return { input = input, output = output, cached_input = cached_input, max_output = max_output, long = long }
end

-- Anthropic's: reading from its cache is a tenth, writing to it a quarter more.
local function claude(input, output, max_output, long)
  local one = price(input, output, input / 10, max_output, long)
  one.cache_write = input * 1.25
  return one
end

local known = {
  openai = {
    ["gpt-5.5"] = price(5, 30, 0.5, 128000, 272000),
    ["gpt-5.4"] = price(2.5, 15, 0.25, 128000, 272000),
    ["gpt-5.2"] = price(1.75, 14, 0.175, 128000),
    ["gpt-5.1"] = price(1.25, 10, 0.125, 128000),
    ["gpt-5"] = price(1.25, 10, 0.125, 128000),
    ["gpt-5-mini"] = price(0.25, 2, 0.025, 128000),
    ["gpt-5-nano"] = price(0.05, 0.4, 0.005, 128000),
    ["gpt-4.1"] = price(2, 8, 0.5, 32768),
    ["gpt-4.1-mini"] = price(0.4, 1.6, 0.1, 32768),
    ["gpt-4.1-nano"] = price(0.1, 0.4, 0.025, 32768),
    ["gpt-4o"] = price(2.5, 10, 1.25, 16384),
    ["gpt-4o-2024-05-13"] = price(5, 15, nil, 4096),
    ["gpt-4o-mini"] = price(0.15, 0.6, 0.075, 16384),
    ["o3"] = price(2, 8, 0.5, 100000),
    ["o3-mini"] = price(1.1, 4.4, 0.55, 100000),
    ["o4-mini"] = price(1.1, 4.4, 0.275, 100000),
    ["text-embedding-3-small"] = price(0.02, 0),
    ["text-embedding-3-large"] = price(0.13, 0),
    ["text-embedding-ada-002"] = price(0.1, 0),
  },
  anthropic = {
    ["claude-opus-4-7"] = claude(5, 25, 128000),
    ["claude-opus-4-6"] = claude(5, 25, 128000),
    ["claude-opus-4-5"] = claude(5, 25, 64000),
    ["claude-opus-4-1"] = claude(15, 75, 32000),
    ["claude-opus-4"] = claude(15, 75, 32000),
    ["claude-sonnet-4-6"] = claude(3, 15, 64000),
    ["claude-sonnet-4-5"] = claude(3, 15, 64000, 200000),
    ["claude-sonnet-4"] = claude(3, 15, 64000, 200000),
    ["claude-haiku-4-5"] = claude(1, 5, 64000),
    ["claude-3-7-sonnet"] = claude(3, 15, 64000),
    ["claude-3-5-sonnet"] = claude(3, 15, 8192),
    ["claude-3-5-haiku"] = claude(0.8, 4, 8192),
    ["claude-3-haiku"] = { input = 0.25, output = 1.25, cached_input = 0.03, cache_write = 0.3, max_output = 4096 },
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

-- How many times the usual price: of what is read, and of what is written.
local function factors(price_of, prompt_tokens)
  if price_of.long and prompt_tokens > price_of.long then
    return 2, 1.5
  end
  return 1, 1
end

--- What tokens cost, in dollars.
-- @tparam table price_of
-- @tparam table usage
-- @treturn number
function prices.cost(price_of, usage)
  local cached, written = usage.cached_tokens or 0, usage.cache_write_tokens or 0
  local fresh = math.max(0, usage.prompt_tokens - cached - written)
  local reading, writing = factors(price_of, usage.prompt_tokens)
  local read = fresh * price_of.input
    + cached * (price_of.cached_input or price_of.input)
    + written * (price_of.cache_write or price_of.input)
  return (read * reading + usage.completion_tokens * price_of.output * writing) / MILLION
end

--- What so many tokens may cost at most.
-- @tparam table price_of
-- @tparam number prompt_tokens
-- @tparam number completion_tokens
-- @treturn number dollars
function prices.worst(price_of, prompt_tokens, completion_tokens)
  local reading, writing = factors(price_of, prompt_tokens)
  local dearest = math.max(price_of.input, price_of.cached_input or 0, price_of.cache_write or 0)
  return (prompt_tokens * dearest * reading + completion_tokens * price_of.output * writing) / MILLION
end

--- How to give the price of a model, for errors.
function prices.advice(model)
  return ('no price is known for the model "%s": give prices = { ["%s"] = { input = usd, output = usd } }, for a million tokens'):format(
    model,
    model
  )
end

--- How to bound an answer, for errors.
function prices.bound_advice(model)
  return ('the budget sets the worst case aside, and nothing says how long an answer of "%s" may be: give max_tokens, '
    .. 'to the call or the model, or prices = { ["%s"] = { max_output = tokens, … } }'):format(model, model)
end

return prices

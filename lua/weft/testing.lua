--- Helpers for tests of scripts that use weft.
-- @module weft.testing

local server = require "weft.testing.server"

local testing = {}

--- Starts a model server on 127.0.0.1: HTTP/1.1 in a thread of its own, answers in the shape of
-- OpenAI's chat completions, and the faults that real servers have.
--
-- `POST` to any path that ends in `/chat/completions` is answered by the model that the request
-- names, `GET /health` with "ok", any other path with status 404. The content of an answer is, in
-- this order: `replies[model]`; `reply`; what a built-in model says; `"echo: "` and the text of the
-- last message. The built-in models count keywords in the last message and answer in JSON:
-- `mock-sentiment` and `mock-topic` with a `label` and a `score`, `mock-summary` with a `summary`.
-- Tokens are counted as one for four bytes.
--
-- A fault is a table with at most one of `status`, `reset`, `truncate`, `stall`, `garbage`:
--
-- - `status` (400 to 599): an error status with an error body; `message` is the error's text and
--   `retry_after` (seconds) is sent as `Retry-After`, rounded up, and as `retry-after-ms`
-- - `reset = "before"`: a TCP reset before the first byte of the answer
-- - `truncate` (bytes): the full `Content-Length`, but only so much of the body, then a close
-- - `stall` (seconds): half of the body, silence, then a close; `math.huge`: until the client
--   closes
-- - `garbage = true`: status 200 with a body that is not JSON
-- - `delay` (seconds): a later answer; alone, or with any of the others
-- - `model`: it meets only requests for this model
-- - `times`: how many requests it meets (default 1; -1 or `math.huge`: all that match)
--
-- Faults meet only requests to models that are allowed in, each request at most one: the first
-- fault of the script that matches and is not used up, else the random one.
--
-- The server has `url` ("http://127.0.0.1:PORT/v1"), `port`, and the methods `requests()`,
-- `stats()`, `fault{…}`, `join([seconds])` and `close()`.
--
-- @function model_server
-- @tparam[opt] table options
-- @tparam[opt=0] int options.port 0: the system chooses a free one
-- @tparam[opt] string options.api_key without `Authorization: Bearer <api_key>`: status 401
-- @tparam[opt] string options.reply the content of every answer
-- @tparam[opt] table options.replies contents by model name
-- @tparam[opt=0] number options.latency seconds that each answer of a model takes
-- @tparam[opt=0] number options.jitter up to so many seconds more, at random
-- @tparam[opt=1] int options.seed of the jitter and of the random faults
-- @tparam[opt] {table,...} options.faults the script
-- @tparam[opt=0] number options.fault_rate 0 to 1: how often a request meets `fault`
-- @tparam[opt={status=503}] table options.fault the random fault; without `times`
-- @tparam[opt=1000] int options.record how many of the last requests `requests()` lists; at most
--   256 MiB of them are kept
-- @treturn[1] server it listens already; closed by `close()`, by `<close>` on Lua 5.4, or when it
--   is collected
-- @treturn[2] nil
-- @treturn[2] string why it could not start
-- @raise when an option is unknown or has a wrong value; the error names it
-- @usage
-- local models = assert(testing.model_server{ latency = 0.2, faults = {
--   { status = 429, retry_after = 1, times = 2 },
--   { reset = "before", model = "mock-topic" },
-- } })
-- print(models.url)
testing.model_server = server.start

return testing

// Talks to a model server with the clients of the three APIs, as their users do. Prints one line of JSON a
// check: { name, ok, error }. Started by spec/clients_spec.lua with the server's origin, in a folder where the
// clients are installed.
import assert from "node:assert/strict";
import OpenAI from "openai";
import Anthropic from "@anthropic-ai/sdk";
import { Ollama } from "ollama";

const origin = process.argv[2];
const key = { apiKey: "key-1" };
const openai = new OpenAI({ ...key, baseURL: `${origin}/v1`, maxRetries: 0 });
const anthropic = new Anthropic({ ...key, baseURL: origin, maxRetries: 0 });
const ollama = new Ollama({ host: origin, headers: { Authorization: "Bearer key-1" } });

const text = "Grüße, one two three four.";
const user = (content) => [{ role: "user", content }];
const chat = (model, more) => ({ model, messages: user("hello"), ...more });
const message = (model, more) => ({ model, max_tokens: 1000, messages: user("hello"), ...more });
const tools = [{ type: "function", function: { name: "weather", parameters: { type: "object" } } }];
const schema = { type: "json_schema", json_schema: { name: "label", strict: true, schema: { type: "object" } } };

async function failure(promise) {
  try {
    await promise;
  } catch (error) {
    return error;
  }
  throw new assert.AssertionError({ message: "it should have failed" });
}

async function drain(stream, get) {
  let all = "";
  for await (const part of await stream) all += get(part) ?? "";
  return all;
}

const contents = (model, more) =>
  drain(openai.chat.completions.create(chat(model, { stream: true, ...more })), (c) => c.choices[0]?.delta.content);

const deltas = (model) =>
  drain(anthropic.messages.create(message(model, { stream: true })), (e) => e.delta?.text);

const lines = (model) => drain(ollama.chat({ ...chat(model), stream: true }), (l) => l.message.content);

const checks = {
  async "openai: a completion"() {
    const reply = await openai.chat.completions.create(chat("poet"));
    assert.equal(reply.choices[0].message.content, text);
    assert.equal(reply.usage.total_tokens, reply.usage.prompt_tokens + reply.usage.completion_tokens);
    assert.match(reply._request_id, /^req_/);
  },
  async "openai: a stream with usage"() {
    let usage;
    const all = await drain(
      openai.chat.completions.create(chat("poet", { stream: true, stream_options: { include_usage: true } })),
      (chunk) => {
        usage = chunk.usage ?? usage;
        return chunk.choices[0]?.delta.content;
      },
    );
    assert.equal(all, text);
    assert.ok(usage.completion_tokens > 0);
  },
  async "openai: its stream helper"() {
    const stream = openai.chat.completions.stream(chat("poet"));
    assert.equal(await stream.finalContent(), text);
  },
  async "openai: calls of tools"() {
    const reply = await openai.chat.completions.create(chat("caller", { tools }));
    assert.equal(reply.choices[0].finish_reason, "tool_calls");
    const [call] = reply.choices[0].message.tool_calls;
    assert.deepEqual(JSON.parse(call.function.arguments), { city: "Zürich" });
  },
  async "openai: streamed calls of tools"() {
    const reply = await openai.chat.completions.stream(chat("caller", { tools })).finalChatCompletion();
    const [call] = reply.choices[0].message.tool_calls;
    assert.equal(call.function.name, "weather");
    assert.deepEqual(JSON.parse(call.function.arguments), { city: "Zürich" });
  },
  async "openai: a reply by a schema"() {
    const reply = await openai.chat.completions.parse(chat("labeler", { response_format: schema }));
    assert.deepEqual(JSON.parse(reply.choices[0].message.content), { label: "good", score: 0.5 });
  },
  async "openai: embeddings"() {
    const reply = await openai.embeddings.create({ model: "e", input: ["a b", "c"] });
    assert.equal(reply.data.length, 2);
    const floats = await openai.embeddings.create({ model: "e", input: "a b", encoding_format: "float" });
    const wanted = floats.data[0].embedding;
    assert.ok(wanted.length === 16 && wanted.every((x, i) => Math.abs(x - reply.data[0].embedding[i]) < 1e-5));
  },
  async "openai: models"() {
    const names = [];
    for await (const model of openai.models.list()) names.push(model.id);
    assert.ok(names.includes("poet"));
    assert.equal((await openai.models.retrieve("poet")).id, "poet");
  },
  async "openai: RateLimitError with retry-after"() {
    const error = await failure(openai.chat.completions.create(chat("limited")));
    assert.ok(error instanceof OpenAI.RateLimitError);
    assert.equal(error.headers.get("retry-after"), "7");
    assert.equal(error.code, "rate_limit_exceeded");
    assert.equal(error.message, "429 slow down");
  },
  async "openai: insufficient_quota"() {
    const error = await failure(openai.chat.completions.create(chat("broke")));
    assert.ok(error instanceof OpenAI.RateLimitError);
    assert.deepEqual([error.code, error.type], ["insufficient_quota", "insufficient_quota"]);
  },
  async "openai: errors by status"() {
    const wrong = new OpenAI({ apiKey: "key-2", baseURL: `${origin}/v1`, maxRetries: 0 });
    const cases = [
      [OpenAI.AuthenticationError, () => wrong.chat.completions.create(chat("poet"))],
      [OpenAI.NotFoundError, () => openai.chat.completions.create(chat("nobody"))],
      [OpenAI.BadRequestError, () => openai.chat.completions.create({ model: "poet", messages: [] })],
      [OpenAI.InternalServerError, () => openai.chat.completions.create(chat("broken"))],
      [OpenAI.APIConnectionError, () => openai.chat.completions.create(chat("reset"))],
    ];
    for (const [type, call] of cases) {
      const error = await failure(call());
      assert.ok(error instanceof type, `${type.name}: ${error}`);
    }
  },
  async "openai: its own retries"() {
    const patient = new OpenAI({ ...key, baseURL: `${origin}/v1`, maxRetries: 3 });
    const reply = await patient.chat.completions.create(chat("retried"));
    assert.equal(reply.choices[0].message.content, "3");
  },
  async "openai: x-should-retry ends them"() {
    const patient = new OpenAI({ ...key, baseURL: `${origin}/v1`, maxRetries: 3 });
    const error = await failure(patient.chat.completions.create(chat("final")));
    assert.ok(error instanceof OpenAI.InternalServerError);
  },
  async "openai: a timeout"() {
    const error = await failure(openai.chat.completions.create(chat("stalled"), { timeout: 200 }));
    assert.ok(error instanceof OpenAI.APIConnectionTimeoutError);
  },
  async "openai: an error inside of a stream"() {
    for (const model of ["inside", "inside-event", "inside-done"]) {
      const error = await failure(contents(model));
      assert.ok(error instanceof OpenAI.APIError, `${model}: ${error}`);
      assert.match(`${error.message} ${JSON.stringify(error.error ?? null)}`, /gone/);
    }
  },
  async "openai: a stream that is cut"() {
    await failure(contents("cut"));
  },
  async "openai: odd but valid streams"() {
    for (const model of ["crlf", "bytewise", "zipped", "interim"]) assert.equal(await contents(model), text, model);
  },
  async "openai: a thousand deltas"() {
    assert.equal((await contents("long")).length, 4 * 1000 - 1);
  },

  async "anthropic: a message"() {
    const reply = await anthropic.messages.create(message("poet"));
    assert.deepEqual(reply.content, [{ type: "text", text }]);
    assert.equal(reply.stop_reason, "end_turn");
    assert.match(reply._request_id, /^req_/);
  },
  async "anthropic: a stream"() {
    assert.equal(await deltas("poet"), text);
  },
  async "anthropic: its stream helper"() {
    const stream = anthropic.messages.stream(message("poet"));
    const last = await stream.finalMessage();
    assert.equal(last.content[0].text, text);
    assert.equal(last.stop_reason, "end_turn");
    assert.ok(last.usage.input_tokens > 0 && last.usage.output_tokens > 1);
  },
  async "anthropic: calls of tools, plain and streamed"() {
    const tool = { name: "weather", input_schema: { type: "object" } };
    const reply = await anthropic.messages.create(message("caller", { tools: [tool] }));
    const last = await anthropic.messages.stream(message("caller", { tools: [tool] })).finalMessage();
    for (const { content, stop_reason } of [reply, last]) {
      assert.equal(stop_reason, "tool_use");
      assert.deepEqual(content[0].input, { city: "Zürich" });
    }
  },
  async "anthropic: counts of tokens"() {
    const counted = await anthropic.messages.countTokens({ model: "poet", messages: user("hello") });
    assert.ok(counted.input_tokens > 0);
  },
  async "anthropic: models"() {
    const names = [];
    for await (const model of anthropic.models.list()) names.push(model.id);
    assert.ok(names.includes("poet"));
    assert.equal((await anthropic.models.retrieve("poet")).id, "poet");
  },
  async "anthropic: errors by status"() {
    const wrong = new Anthropic({ apiKey: "key-2", baseURL: origin, maxRetries: 0 });
    const cases = [
      [Anthropic.AuthenticationError, "authentication_error", () => wrong.messages.create(message("poet"))],
      [Anthropic.NotFoundError, "not_found_error", () => anthropic.messages.create(message("nobody"))],
      [Anthropic.BadRequestError, "invalid_request_error", () => anthropic.messages.create(message("poet", { messages: [] }))],
      [Anthropic.RateLimitError, "rate_limit_error", () => anthropic.messages.create(message("limited"))],
      [Anthropic.InternalServerError, "overloaded_error", () => anthropic.messages.create(message("overloaded"))],
    ];
    for (const [type, kind, call] of cases) {
      const error = await failure(call());
      assert.ok(error instanceof type, `${type.name}: ${error}`);
      assert.equal(error.error.error.type, kind);
    }
  },
  async "anthropic: retry-after and rate limits in headers"() {
    const error = await failure(anthropic.messages.create(message("limited")));
    assert.equal(error.headers.get("retry-after"), "7");
    const { response } = await anthropic.messages.create(message("poet")).withResponse();
    assert.equal(response.headers.get("anthropic-ratelimit-requests-limit"), "1000000");
    assert.ok(Date.parse(response.headers.get("anthropic-ratelimit-requests-reset")) > 0);
  },
  async "anthropic: overloaded inside of a stream"() {
    const error = await failure(deltas("inside-event"));
    assert.ok(error instanceof Anthropic.APIError, String(error));
    assert.match(JSON.stringify(error.error), /overloaded_error/);
  },
  async "anthropic: a stream that is cut"() {
    await failure(deltas("cut"));
  },
  async "anthropic: odd but valid streams"() {
    for (const model of ["crlf", "bytewise", "zipped"]) assert.equal(await deltas(model), text, model);
  },

  async "ollama: chat, generate, embed, plain and streamed"() {
    const reply = await ollama.chat(chat("poet"));
    assert.equal(reply.message.content, text);
    assert.ok(reply.done && reply.eval_count > 0);
    assert.equal(await lines("poet"), text);
    const generated = await ollama.generate({ model: "poet", prompt: "x" });
    assert.equal(generated.response, text);
    const embedded = await ollama.embed({ model: "e", input: ["a", "b"] });
    assert.equal(embedded.embeddings.length, 2);
    const { models } = await ollama.list();
    assert.ok(models.some((model) => model.name === "poet"));
  },
  async "ollama: calls of tools"() {
    const reply = await ollama.chat(chat("caller", { tools }));
    assert.deepEqual(reply.message.tool_calls[0].function.arguments, { city: "Zürich" });
  },
  async "ollama: errors, before and inside of a stream"() {
    const error = await failure(ollama.chat(chat("limited")));
    assert.match(error.message, /slow down/);
    assert.match((await failure(lines("inside"))).message, /gone/);
    assert.equal(await lines("bytewise"), text);
  },
};

for (const [name, check] of Object.entries(checks)) {
  let error;
  try {
    await check();
  } catch (caught) {
    error = String(caught?.stack ?? caught);
  }
  console.log(JSON.stringify({ name, ok: error === undefined, error }));
}
process.exit(0);

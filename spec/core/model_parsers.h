/* model_parsers.h: feeds bytes to the parsers of the model server, and what passes to its models,
 * and checks what must hold for any bytes. Shared by the test and the fuzz target.
 */
#ifndef WEFT_SPEC_MODEL_PARSERS_H
#define WEFT_SPEC_MODEL_PARSERS_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mem.h"
#include "model_http.h"
#include "model_json.h"
#include "model_random.h"
#include "model_reply.h"

/* Stops at once, so that a fuzzer keeps the input. */
#define MUST(condition)                                                                            \
  do {                                                                                             \
    if (!(condition)) {                                                                            \
      fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);                              \
      abort();                                                                                     \
    }                                                                                              \
  } while (0)

/* JSON ---------------------------------------------------------------------------------------- */

/* Reads a string, writes it, and reads it again: the same. */
static void parse_string(weft_json_value value) {
  weft_buf plain, written, again;
  weft_buf_init(&plain, 0);
  weft_buf_init(&written, 0);
  weft_buf_init(&again, 0);
  MUST(weft_json_unescape(weft_json_string(value), &plain) == WEFT_BUF_OK);
  weft_json_writer out = {&written, WEFT_BUF_OK};
  weft_json_put_string(&out, (const char *)plain.data, plain.size);
  size_t wrong;
  weft_json_value back = weft_json_check((const char *)written.data, written.size, &wrong);
  MUST(back.kind == WEFT_JSON_STRING && back.size == written.size);
  MUST(weft_json_unescape(weft_json_string(back), &again) == WEFT_BUF_OK);
  MUST(again.size == plain.size &&
       (plain.size == 0 || memcmp(again.data, plain.data, plain.size) == 0));
  weft_buf_free(&plain);
  weft_buf_free(&written);
  weft_buf_free(&again);
}

/* Every part of a valid document is a valid document. */
static void parse_value(weft_json_value value, int depth) {
  size_t wrong, count = 0;
  weft_json_value whole = weft_json_check(value.text, value.size, &wrong), part;
  weft_json_span key;
  MUST(whole.kind == value.kind && whole.size == value.size);
  if (value.kind == WEFT_JSON_STRING)
    parse_string(value);
  weft_json_number(value, 0);
  for (weft_json_walk walk = weft_json_walk_in(value); weft_json_next(&walk, &key, &part);) {
    MUST((key.text != NULL) == (value.kind == WEFT_JSON_OBJECT));
    MUST(part.text > value.text && part.text + part.size < value.text + value.size);
    if (++count < 16 && depth < 4)
      parse_value(part, depth + 1);
  }
  MUST(weft_json_count(value) == count);
}

static void parse_json(const char *text, size_t size) {
  static const char *const names[] = {"model", "messages", NULL};
  weft_json_value members[2];
  size_t wrong = 0;
  weft_json_value value = weft_json_check(text, size, &wrong);
  MUST(wrong <= size);
  if (value.kind == WEFT_JSON_NONE)
    return;
  parse_value(value, 0);
  weft_json_get_all(value, names, members);
  weft_json_value model = weft_json_get(value, "model");
  MUST(model.text == members[0].text && model.size == members[0].size);
  weft_json_find(value, "messages.1.content", 18);
}

/* HTTP ---------------------------------------------------------------------------------------- */

/* What came out of a stream: a number for all of it. */
typedef struct outcome {
  int result;
  size_t requests, used;
  uint64_t hash;
} outcome;

static void mix(outcome *o, const char *text, size_t size) {
  for (size_t i = 0; i < size; i++)
    o->hash = (o->hash ^ (uint8_t)text[i]) * 0x100000001B3u;
}

static void take_request(weft_http_parser *parser, outcome *o) {
  weft_model_request *request = weft_http_parser_take(parser);
  MUST(request);
  o->requests++;
  mix(o, request->method, strlen(request->method) + 1);
  mix(o, request->path, strlen(request->path) + 1);
  for (size_t i = 0; i < request->header_count; i++) {
    mix(o, request->headers[i].name, strlen(request->headers[i].name) + 1);
    mix(o, request->headers[i].value, strlen(request->headers[i].value) + 1);
  }
  mix(o, request->body, request->body_size);
  weft_model_request_release(request);
}

/* Parses a stream that comes in pieces of `piece` bytes (0: of random sizes). */
static outcome parse_http(const uint8_t *bytes, size_t size, size_t piece, uint64_t *random) {
  outcome o = {0};
  weft_http_parser parser;
  weft_http_parser_init(&parser);
  size_t arrived = 0;
  while (o.result == WEFT_HTTP_MORE || o.result == WEFT_HTTP_READY) {
    size_t used;
    o.result = weft_http_parse(&parser, bytes + o.used, arrived - o.used, &used);
    MUST(used <= arrived - o.used);
    o.used += used;
    if (o.result == WEFT_HTTP_READY) {
      take_request(&parser, &o);
    } else if (arrived == size) {
      break;
    } else {
      size_t step = piece ? piece : 1 + (size_t)(weft_model_random(random) * 40);
      arrived = size - arrived < step ? size : arrived + step;
    }
  }
  weft_http_parser_free(&parser);
  return o;
}

/* The pieces make no difference. */
static void parse_streams(const uint8_t *bytes, size_t size) {
  uint64_t random = size;
  outcome whole = parse_http(bytes, size, size + 1, &random);
  for (size_t piece = 0; piece < 3; piece++) {
    outcome other = parse_http(bytes, size, piece, &random);
    MUST(other.result == whole.result && other.requests == whole.requests &&
         other.hash == whole.hash);
  }
}

/* Answers ------------------------------------------------------------------------------------- */

static const char *const paths[] = {"/v1/chat/completions",
                                    "/v1/messages",
                                    "/v1/embeddings",
                                    "/v1/messages/count_tokens",
                                    "/api/chat",
                                    "/api/generate",
                                    "/api/embed",
                                    "/api/embeddings"};

/* The request whose body the document is; the caller releases it. */
static weft_model_request *make_request(const char *path, const char *body, size_t size) {
  char head[256];
  size_t used;
  weft_http_parser parser;
  weft_http_parser_init(&parser);
  int length = snprintf(head, sizeof head,
                        "POST %s HTTP/1.1\r\nanthropic-version: 1\r\nContent-Length: %zu\r\n\r\n",
                        path, size);
  int result = weft_http_parse(&parser, (const uint8_t *)head, (size_t)length, &used);
  if (result == WEFT_HTTP_MORE)
    result = weft_http_parse(&parser, (const uint8_t *)body, size, &used);
  MUST(result == WEFT_HTTP_READY);
  weft_model_request *request = weft_http_parser_take(&parser);
  MUST(request);
  return request;
}

/* Makes all of an answer. One that is no stream is JSON, whatever was asked. */
static void make_answer(weft_model_replier *replier, weft_model_request *request) {
  weft_model_answer answer = {0};
  MUST(weft_model_reply(replier, request, true, false, &answer) == WEFT_BUF_OK);
  size_t wrong;
  bool streams = answer.streams;
  weft_json_kind kind =
      weft_json_check((const char *)answer.body.data, answer.body.size, &wrong).kind;
  MUST(streams || kind == WEFT_JSON_OBJECT);
  while (answer.ending == WEFT_MODEL_MORE)
    MUST(weft_model_answer_fill(&answer) == WEFT_BUF_OK);
  MUST(answer.ending == WEFT_MODEL_KEEP);
  weft_model_answer_free(&answer);
}

static void answer_everything(const char *text, size_t size) {
  static const weft_model_canned canned = {
      .text = "{{last}} {{body.messages.1.content}} {{body.model}} {{header.x}}",
      .is_template = true,
      .input_tokens = -1,
      .output_tokens = -1,
  };
  static const weft_model_rule rule = {.replies = &canned, .reply_count = 1, .times = 4};
  weft_model_config config;
  weft_model_faults faults;
  weft_model_replier replier;
  weft_model_config_init(&config);
  config.rules = &rule;
  config.rule_count = 1;
  MUST(weft_model_faults_init(&faults, &config) == 0);
  MUST(weft_model_replier_init(&replier, &config, &faults) == 0);
  for (size_t i = 0; i < sizeof paths / sizeof *paths; i++)
    make_answer(&replier, make_request(paths[i], text, size));
  weft_model_replier_free(&replier);
  weft_model_faults_free(&faults);
}

static void parse_anything(const uint8_t *bytes, size_t size) {
  char *exact = malloc(size ? size : 1); /* so that a sanitizer sees the first byte too far */
  MUST(exact);
  if (size)
    memcpy(exact, bytes, size);
  parse_json(exact, size);
  parse_streams((const uint8_t *)exact, size);
  if (size && exact[0] == '{')
    answer_everything(exact, size);
  free(exact);
}

#endif

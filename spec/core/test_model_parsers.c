/* test_model_parsers.c: the model server's parsers of HTTP and JSON: what they accept, and that no
 * bytes whatever lead them or the answers astray: a corpus, and seeded mutations of it.
 */
#include "check.h"
#include "model_parsers.h"

/* JSON ---------------------------------------------------------------------------------------- */

static const char *const valid[] = {
    "{}",
    "[]",
    "0",
    "-1.5e+10",
    "true",
    "null",
    "\"\"",
    " [ 1 , 2 ] ",
    "{\"a\":{\"b\":[{}]}}",
    "\"\\u00e9\\uD83D\\uDE00\\\"\\\\\\/\\b\\f\\n\\r\\t\"",
    "\"\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80\"",
    "1E5",
    "[[[[[[[[]]]]]]]]",
    "{\"\":1,\"\":2}",
};

static const char *const malformed[] = {
    "",
    " ",
    "{",
    "}",
    "[",
    "]",
    "[1,]",
    "{,}",
    "{\"a\"}",
    "{\"a\":}",
    "{\"a\":1,}",
    "{a:1}",
    "[1 2]",
    "[1}",
    "01",
    "1.",
    ".5",
    "-",
    "+1",
    "1e",
    "0x1",
    "NaN",
    "nul",
    "truex",
    "'a'",
    "\"",
    "\"\\",
    "\"\\x\"",
    "\"\\u12\"",
    "\"\\u123g\"",
    "\"\n\"",
    "\"\t\"",
    "[] []",
    "{} x",
    "\xEF\xBB\xBF{}",
    "\"\xFF\"",
    "\"\xC0\xAF\"",
    "\"\xED\xA0\x80\"",
    "\"\xF4\x90\x80\x80\"",
    "\"\xC3\"",
    "[\"\xE2\x82\"]",
    "{\"a\":1 \"b\":2}",
    "{1:2}",
    "[1,,2]",
    "//x\n1",
};

static void json_is_strict(void) {
  size_t wrong;
  for (size_t i = 0; i < COUNT(valid); i++) {
    CHECK(weft_json_check(valid[i], strlen(valid[i]), &wrong).kind != WEFT_JSON_NONE);
    parse_json(valid[i], strlen(valid[i]));
  }
  for (size_t i = 0; i < COUNT(malformed); i++) {
    bool refused =
        weft_json_check(malformed[i], strlen(malformed[i]), &wrong).kind == WEFT_JSON_NONE;
    if (!refused)
      printf("# accepted: %s\n", malformed[i]);
    CHECK(refused);
  }
}

static void json_has_a_depth(void) {
  char text[2 * (WEFT_JSON_DEPTH_MAX + 1)];
  size_t wrong;
  for (size_t depth = WEFT_JSON_DEPTH_MAX; depth <= WEFT_JSON_DEPTH_MAX + 1; depth++) {
    memset(text, '[', depth);
    memset(text + depth, ']', depth);
    bool accepted = weft_json_check(text, 2 * depth, &wrong).kind == WEFT_JSON_ARRAY;
    CHECK(accepted == (depth == WEFT_JSON_DEPTH_MAX));
  }
}

static weft_json_value find(const char *document, const char *path) {
  size_t wrong;
  weft_json_value value = weft_json_check(document, strlen(document), &wrong);
  return weft_json_find(value, path, strlen(path));
}

static void json_is_walked(void) {
  static const char document[] =
      "{\"a\":[10,{\"b\":\"x\\n\"},[]],\"c\":1,\"c\":2,\"d\\u0065\":true, \"e\" : null }";
  CHECK(weft_json_number(find(document, "a.1"), 0) == 10);
  CHECK(weft_json_is(find(document, "a.2.b"), "x\n"));
  CHECK(find(document, "a.3").kind == WEFT_JSON_ARRAY);
  CHECK(find(document, "a.4").kind == WEFT_JSON_NONE);
  CHECK(find(document, "a.0").kind == WEFT_JSON_NONE);
  CHECK(find(document, "a.b").kind == WEFT_JSON_NONE);
  CHECK(weft_json_number(find(document, "c"), 0) == 2);
  CHECK(find(document, "de").kind == WEFT_JSON_TRUE);
  CHECK(find(document, "e").kind == WEFT_JSON_NULL);
  CHECK(weft_json_count(find(document, "a")) == 3);
  CHECK(weft_json_count(find(document, "")) == 5);
}

/* Any bytes ----------------------------------------------------------------------------------- */

static const char *const corpus[] = {
    "GET /health HTTP/1.1\r\n\r\n",
    "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 11\r\n\r\n{\"model\":1}"
    "GET / HTTP/1.0\nConnection: keep-alive\n\n",
    "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n"
    "5;x=y\r\nhello\r\nA\r\n0123456789\r\n0\r\nTrailer: t\r\n\r\nHEAD /x HTTP/1.1\r\n\r\n",
    "\r\n\r\nGET /a?b HTTP/1.1\r\nX:\t y \r\nX: z\r\nConnection: close\r\n\r\n",
    "POST / HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
    "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"a\\uD83D\\uDE00\\n\"}],\"n\":["
    "1,-2.5e3]}",
    "{\"model\":\"m\",\"max_tokens\":9,\"stream\":false,\"input\":[\"a\",[1,2]],\"prompt\":\"p\","
    "\"messages\":"
    "[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"x\"}]}]}",
    "[[],{},\"\",null,true,false,0,{\"a\":[{\"b\":\"\\\\\\\"\"}]}]",
};

static const char *const pieces[] = {
    "\r\n",
    "\n",
    "\r",
    " ",
    ":",
    "HTTP/1.1",
    "Content-Length: ",
    "Transfer-Encoding: chunked\r\n",
    "0\r\n\r\n",
    "ffffffff",
    "99999999999999999999",
    "\"",
    "\\",
    "\\u",
    "{",
    "}",
    "[",
    "]",
    ",",
    "e9",
    "\xC3",
    "\xA9",
    "\xFF",
    "\xF0\x9F",
    "GET / HTTP/1.1\r\n\r\n",
};

static size_t pick(uint64_t *random, size_t count) {
  return (size_t)(weft_model_random(random) * (double)count);
}

/* Changes, cuts, doubles or inserts something. */
static size_t mutate(uint64_t *random, uint8_t *bytes, size_t size, size_t room) {
  size_t at = size ? pick(random, size) : 0;
  const char *piece = pieces[pick(random, COUNT(pieces))];
  size_t added = strlen(piece);
  switch (pick(random, 4)) {
  case 0:
    if (size)
      bytes[at] = (uint8_t)pick(random, 256);
    return size;
  case 1:
    return at;
  case 2:
    if (size)
      memmove(bytes + at, bytes + at + 1, size - at - 1);
    return size ? size - 1 : 0;
  default:
    if (size + added > room)
      return size;
    memmove(bytes + at + added, bytes + at, size - at);
    memcpy(bytes + at, piece, added);
    return size + added;
  }
}

static void any_bytes_are_survived(void) {
  enum { ROUNDS = 30000, ROOM = 1024 };
  uint64_t random = 1;
  uint8_t bytes[ROOM];
  for (size_t i = 0; i < COUNT(corpus); i++)
    parse_anything((const uint8_t *)corpus[i], strlen(corpus[i]));
  for (int round = 0; round < ROUNDS; round++) {
    const char *seed = corpus[pick(&random, COUNT(corpus))];
    size_t size = strlen(seed);
    memcpy(bytes, seed, size);
    for (size_t changes = 1 + pick(&random, 6); changes > 0; changes--)
      size = mutate(&random, bytes, size, ROOM);
    parse_anything(bytes, size);
  }
  CHECK(true); /* it came this far */
}

int main(void) {
  check_run("JSON is strict", json_is_strict);
  check_run("JSON has a depth", json_has_a_depth);
  check_run("JSON is walked by paths", json_is_walked);
  check_run("any bytes are survived", any_bytes_are_survived);
  return check_end();
}

/* test_sse.c: the parser of server-sent events and the splitter of lines: what comes out, whatever
 * the pieces are; against a plain second implementation on random streams; ceilings and memory.
 */
#include "check.h"
#include "sse_streams.h"

#include "mem.h"

/* ---- the rules, one by one: a stream, and what comes out of it ---- */

static const struct {
  const char *stream, *events;
} rules[] = {
    {"data: YHOO\ndata: +2\ndata: 10\n\n", "[message|YHOO\n+2\n10||-1]"},
    {": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n\n",
     "[message|first event|1|-1][message|second event||-1][message| third event||-1]"},
    {"data\n\ndata\ndata\n\ndata:", "[message|||-1][message|\n||-1]"},
    {"data:test\n\ndata: test\n\n", "[message|test||-1][message|test||-1]"},
    {"event: add\ndata: 73857293\n\nevent: remove\ndata: 2153\n\nevent: add\ndata: 113411\n\n",
     "[add|73857293||-1][remove|2153||-1][add|113411||-1]"},
    {"data: a\r\n\r\ndata: b\r\rdata: c\n\n", "[message|a||-1][message|b||-1][message|c||-1]"},
    {"data: mixed\r\ndata: ends\rdata: of\ndata: lines\n\r\n",
     "[message|mixed\nends\nof\nlines||-1]"},
    {"\xEF\xBB\xBF"
     "data: after the mark\n\n",
     "[message|after the mark||-1]"},
    {"\xEF\xBB\xBF\xEF\xBB\xBF"
     "data: two marks\n\ndata: b\n\n",
     "[message|b||-1]"},
    {"\xEF\xBB"
     "data: half a mark\n\ndata: b\n\n",
     "[message|b||-1]"},
    {"data: \xEF\xBB\xBF in the middle\n\n", "[message|\xEF\xBB\xBF in the middle||-1]"},
    {"id: 7\n\nid\n\ndata: x\n\n", "[message|x||-1]"},
    {"id: 7\n\ndata: sticky\n\ndata: still\n\n", "[message|sticky|7|-1][message|still|7|-1]"},
    {"event: lost\n\ndata: x\n\n", "[message|x||-1]"},
    {"event: \ndata: x\n\n", "[message|x||-1]"},
    {"retry: 2500\n\ndata: x\n\ndata: y\n\n", "[message|x||2500][message|y||-1]"},
    {"retry: 2s\nretry:\nretry: -1\nretry: +1\nretry: 1.5\ndata: x\n\n", "[message|x||-1]"},
    {"retry: 99999999999999999999999999999\ndata: x\n\n", "[message|x||999999999999999999]"},
    {"data:\tone space only\ndata:  two\n\n", "[message|\tone space only\n two||-1]"},
    {"Data: x\ndata : y\n data: z\ndatax: a\ndat: b\n\n", ""},
    {"data:a:b: c\n\n", "[message|a:b: c||-1]"},
    {":\n: comment\n:data: no\n\ndata: x\n:\n\n", "[message|x||-1]"},
    {"\n\n\r\n\r\r\ndata: x\n\n\n", "[message|x||-1]"},
    {"data: unfinished\n", ""},
    {"data: unfinished", ""},
    {"data: a\n\ndata: unfinished\r", "[message|a||-1]"},
    {"", ""},
};

static void follows_the_rules(void) {
  for (size_t i = 0; i < COUNT(rules); i++) {
    char *got = sse_events(rules[i].stream, strlen(rules[i].stream), 0, whole);
    if (strcmp(got, rules[i].events) != 0)
      printf("# rule %zu: expected %s, got %s\n", i, rules[i].events, got);
    CHECK(strcmp(got, rules[i].events) == 0);
    free(got);
  }
}

static void takes_zero_bytes_as_the_standard_says(void) {
  static const char stream[] = "id: 1\ndata: a\0b\n\nid: 2\0\ndata: c\n\n";
  weft_sse sse;
  weft_sse_event event;
  weft_sse_init(&sse, 0);
  weft_sse_feed(&sse, stream, sizeof stream - 1);
  CHECK(weft_sse_next(&sse, &event) == WEFT_OK);
  CHECK(event.data.size == 3 && memcmp(event.data.bytes, "a\0b", 3) == 0);
  CHECK(weft_sse_next(&sse, &event) == WEFT_OK); /* an id with a NUL is ignored */
  CHECK(event.id.size == 1 && *event.id.bytes == '1');
  CHECK(weft_sse_next(&sse, &event) == WEFT_WOULD_WAIT);
  weft_sse_free(&sse);
}

/* ---- pieces ---- */

static void any_split_gives_the_same(void) {
  for (size_t i = 0; i < COUNT(rules); i++) {
    size_t size = strlen(rules[i].stream);
    for (size_t first = 0; first <= size; first++)
      for (size_t second = first; second <= size; second++) {
        split at = {first, second};
        char *got = sse_events(rules[i].stream, size, 0, at);
        CHECK(strcmp(got, rules[i].events) == 0);
        free(got);
      }
  }
}

static void one_byte_at_a_time_gives_the_same(void) {
  for (size_t i = 0; i < COUNT(rules); i++) {
    char *got = sse_events(rules[i].stream, strlen(rules[i].stream), 0, bytewise);
    CHECK(strcmp(got, rules[i].events) == 0);
    free(got);
  }
}

static void random_streams_agree_with_a_plain_parser(void) {
  char stream[400];
  uint64_t seed = 20;
  for (int round = 0; round < 60000; round++) {
    size_t size = random_stream(&seed, stream, sizeof stream);
    size_t max_event = round % 3 ? 0 : next_random(&seed) % 40 + 1;
    const char *problem = sse_check(stream, size, max_event, &seed);
    if (problem)
      printf("# round %d: %s\n", round, problem);
    CHECK(!problem);
  }
}

static void random_lines_agree_with_a_plain_splitter(void) {
  char stream[400];
  uint64_t seed = 21;
  for (int round = 0; round < 60000; round++) {
    size_t size = random_stream(&seed, stream, sizeof stream);
    size_t max_line = round % 3 ? 0 : next_random(&seed) % 40 + 1;
    const char *problem = lines_check(stream, size, max_line, &seed);
    if (problem)
      printf("# round %d: %s\n", round, problem);
    CHECK(!problem);
  }
}

/* ---- ceilings ---- */

static int end_of(const char *stream, size_t max_event) {
  weft_sse sse;
  weft_sse_event event;
  int rc;
  weft_sse_init(&sse, max_event);
  weft_sse_feed(&sse, stream, strlen(stream));
  while ((rc = weft_sse_next(&sse, &event)) == WEFT_OK)
    ;
  CHECK(rc == WEFT_WOULD_WAIT || weft_sse_next(&sse, &event) == rc); /* for ever */
  weft_sse_free(&sse);
  return rc;
}

static void an_event_has_a_ceiling(void) {
  CHECK(end_of("data: 12345678\n\n", 8) == WEFT_WOULD_WAIT);
  CHECK(end_of("data: 123456789\n\n", 8) == WEFT_TOO_LARGE);
  CHECK(end_of("data: 1234\ndata: 567\n\n", 8) == WEFT_WOULD_WAIT);
  CHECK(end_of("data: 1234\ndata: 5678\n\n", 8) == WEFT_TOO_LARGE); /* with the LF between them */
  CHECK(end_of("id: 12345\nevent: 678\ndata\n\n", 8) == WEFT_WOULD_WAIT);
  CHECK(end_of("id: 12345\nevent: 6789\n\n", 8) == WEFT_TOO_LARGE);
  CHECK(end_of("data: 1234\n\ndata: 56789\n\n", 8) == WEFT_WOULD_WAIT); /* each event by itself */
  CHECK(end_of(": a comment may be as long as it likes\nnonsense that nobody reads: too\n", 8) ==
        WEFT_WOULD_WAIT);
  CHECK(end_of("data: a line that does not end", 8) == WEFT_TOO_LARGE);
}

static void a_comment_without_end_costs_no_memory(void) {
  char block[4096];
  weft_sse sse;
  weft_sse_event event;
  memset(block, ':', sizeof block);
  weft_sse_init(&sse, 0);
  for (int i = 0; i < 10000; i++) {
    weft_sse_feed(&sse, block, sizeof block);
    CHECK(weft_sse_next(&sse, &event) == WEFT_WOULD_WAIT);
  }
  CHECK(sse.line.capacity + sse.data.capacity + sse.type.capacity + sse.id.capacity < 4096);
  weft_sse_free(&sse);
}

/* Each of these would take hours if any byte were looked at again and again. */
static void hostile_streams_take_linear_time(void) {
  enum { SIZE = 8 << 20 };
  static const char *const parts[] = {"\r", "\n", ":\r", "data\n", "data:\rid\r", "id:x\r\n", "x"};
  char *stream = calloc(1, SIZE);
  for (size_t i = 0; i < 2 * COUNT(parts); i++) {
    const char *part = parts[i / 2];
    size_t length = strlen(part);
    weft_sse sse;
    weft_sse_event event;
    for (size_t at = 0; at + length <= SIZE; at += length)
      memcpy(stream + at, part, length);
    if (i % 2) /* the other kind of line end is far away */
      stream[SIZE - 1] = strchr(part, '\r') ? '\n' : '\r';
    weft_sse_init(&sse, 0);
    weft_sse_feed(&sse, stream, SIZE);
    while (weft_sse_next(&sse, &event) == WEFT_OK)
      ;
    weft_sse_free(&sse);
  }
  free(stream);
}

static void a_large_event_leaves_no_memory_behind(void) {
  weft_sse sse;
  weft_sse_event event;
  char *big = malloc(1 << 20);
  memset(big, 'x', 1 << 20);
  memcpy(big, "data:", 5);
  memcpy(big + (1 << 20) - 2, "\n\n", 2);
  weft_sse_init(&sse, 0);
  weft_sse_feed(&sse, big, 1 << 19);
  CHECK(weft_sse_next(&sse, &event) == WEFT_WOULD_WAIT);
  weft_sse_feed(&sse, big + (1 << 19), 1 << 19);
  CHECK(weft_sse_next(&sse, &event) == WEFT_OK && event.data.size == (1 << 20) - 7);
  CHECK(weft_sse_next(&sse, &event) == WEFT_WOULD_WAIT);
  CHECK(sse.line.capacity + sse.data.capacity <= 2 * 65536);
  weft_sse_free(&sse);
  free(big);
}

static void every_lack_of_memory_is_told(void) {
  static const char stream[] = "event: t\nid: 1\ndata: abc\ndata: def\n\n";
  for (uint64_t nth = 1; nth < 20; nth++) {
    weft_sse sse;
    weft_sse_event event;
    int rc = WEFT_WOULD_WAIT;
    weft_sse_init(&sse, 0);
    weft_mem_fail_at(nth);
    for (size_t i = 0; i < sizeof stream - 1 && rc == WEFT_WOULD_WAIT; i++) {
      weft_sse_feed(&sse, stream + i, 1);
      rc = weft_sse_next(&sse, &event);
    }
    weft_mem_fail_at(0);
    CHECK(rc == WEFT_NOMEM || (rc == WEFT_OK && event.data.size == 7));
    weft_sse_free(&sse);
  }
}

static void a_line_has_a_ceiling(void) {
  weft_lines lines;
  const char *line;
  size_t size;
  weft_lines_init(&lines, 4);
  weft_lines_feed(&lines, "1234\n12345\n", 11);
  CHECK(weft_lines_next(&lines, &line, &size) == WEFT_OK && size == 4);
  CHECK(weft_lines_next(&lines, &line, &size) == WEFT_TOO_LARGE);
  CHECK(weft_lines_next(&lines, &line, &size) == WEFT_TOO_LARGE);
  CHECK(weft_lines_rest(&lines, &line, &size) == WEFT_TOO_LARGE);
  weft_lines_free(&lines);
}

int main(void) {
  check_run("follows the rules", follows_the_rules);
  check_run("takes zero bytes as the standard says", takes_zero_bytes_as_the_standard_says);
  check_run("any split gives the same", any_split_gives_the_same);
  check_run("one byte at a time gives the same", one_byte_at_a_time_gives_the_same);
  check_run("random streams agree with a plain parser", random_streams_agree_with_a_plain_parser);
  check_run("random lines agree with a plain splitter", random_lines_agree_with_a_plain_splitter);
  check_run("an event has a ceiling", an_event_has_a_ceiling);
  check_run("a comment without end costs no memory", a_comment_without_end_costs_no_memory);
  check_run("hostile streams take linear time", hostile_streams_take_linear_time);
  check_run("a large event leaves no memory behind", a_large_event_leaves_no_memory_behind);
  check_run("every lack of memory is told", every_lack_of_memory_is_told);
  check_run("a line has a ceiling", a_line_has_a_ceiling);
  return check_end();
}

/* stream.c: what streaming costs in the core: the parser of server-sent events alone, the memory of
 * many streams at once, and the CPU time of an event from the socket to its reader.
 *
 * usage: build/c/bench_stream [streams]              (1000); `make bench-stream` builds and runs it
 *        build/c/bench_stream --serve STREAMS EVENTS  the server alone, for bench/stream.lua
 *
 * The server is a process of its own, so that CPU time is the client's alone. */
#include "http.h"

#include "clock.h"
#include "io.h"
#include "lines.h"
#include "sse.h"

#include <arpa/inet.h>
#include <malloc.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static double now(clockid_t clock) {
  struct timespec time;
  clock_gettime(clock, &time);
  return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static double cpu(void) {
  return now(CLOCK_PROCESS_CPUTIME_ID);
}

static int by_size(const void *a, const void *b) {
  double left = *(const double *)a, right = *(const double *)b;
  return left < right ? -1 : left > right;
}

static double median(double *values, int count) {
  qsort(values, (size_t)count, sizeof *values, by_size);
  return values[count / 2];
}

/* ---- the parser ---- */

static const char delta[] =
    "data: {\"id\":\"chatcmpl-9xKq2\",\"object\":\"chat.completion.chunk\",\"created\":1718345013,"
    "\"model\":\"gpt-4o-mini-2024-07-18\",\"system_fingerprint\":\"fp_48196bc67a\",\"choices\":[{"
    "\"index\":0,\"delta\":{\"content\":\" "
    "library\"},\"logprobs\":null,\"finish_reason\":null}]}\n\n";
static const char named[] =
    "event: content_block_delta\r\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":"
    "{\"type\":\"text_delta\",\"text\":\" library\"}}\r\n\r\n";
static const char ndjson[] =
    "{\"model\":\"llama3\",\"created_at\":\"2024-06-14T09:03:33.1Z\","
    "\"message\":{\"role\":\"assistant\",\"content\":\" library\"},\"done\":false}\n";
static const char tiny[] = "data: x\n\n";

enum { TEXT = 8 << 20, PARSER_ROUNDS = 9 };

static char *repeated(const char *part, size_t *size) {
  size_t length = strlen(part), count = TEXT / length;
  char *text = malloc(length * count);
  for (size_t i = 0; i < count; i++)
    memcpy(text + i * length, part, length);
  *size = length * count;
  return text;
}

/* One event with a line of 1 MiB, again and again. */
static char *long_lines(size_t *size) {
  char *text = malloc(*size = TEXT);
  memset(text, 'x', TEXT);
  for (size_t at = 0; at < TEXT; at += 1 << 20) {
    memcpy(text + at, "data: ", 6);
    memcpy(text + at + (1 << 20) - 2, "\n\n", 2);
  }
  return text;
}

static size_t parse(const char *text, size_t size, size_t piece) {
  weft_sse sse;
  weft_sse_event event;
  size_t bytes = 0;
  weft_sse_init(&sse, 0);
  for (size_t at = 0; at < size; at += piece) {
    weft_sse_feed(&sse, text + at, size - at < piece ? size - at : piece);
    while (weft_sse_next(&sse, &event) == WEFT_OK)
      bytes += event.data.size;
  }
  weft_sse_free(&sse);
  return bytes;
}

static size_t split(const char *text, size_t size, size_t piece) {
  weft_lines lines;
  const char *line;
  size_t length, bytes = 0;
  weft_lines_init(&lines, 0);
  for (size_t at = 0; at < size; at += piece) {
    weft_lines_feed(&lines, text + at, size - at < piece ? size - at : piece);
    while (weft_lines_next(&lines, &line, &length) == WEFT_OK)
      bytes += length;
  }
  weft_lines_free(&lines);
  return bytes;
}

static void measure(const char *name, size_t (*run)(const char *, size_t, size_t), const char *text,
                    size_t size, size_t piece) {
  double rates[PARSER_ROUNDS];
  for (int i = 0; i < PARSER_ROUNDS; i++) {
    double before = cpu();
    if (!run(text, size, piece))
      exit(2);
    rates[i] = (double)size / 1e6 / (cpu() - before);
  }
  printf("  %-44s %7.0f MB/s\n", name, median(rates, PARSER_ROUNDS));
}

static void measure_parser(void) {
  size_t size;
  printf("parser, one core, medians of %d:\n", PARSER_ROUNDS);
  char *text = repeated(delta, &size);
  measure("chat deltas (247 bytes), in pieces of 4 KiB", parse, text, size, 4096);
  measure("the same, in pieces of 100 bytes", parse, text, size, 100);
  measure("the same, byte by byte", parse, text, size, 1);
  free(text);
  text = repeated(named, &size);
  measure("named events with CR LF, 4 KiB", parse, text, size, 4096);
  free(text);
  text = repeated(tiny, &size);
  measure("events of 9 bytes, 4 KiB", parse, text, size, 4096);
  free(text);
  text = long_lines(&size);
  measure("events of 1 MiB, 4 KiB", parse, text, size, 4096);
  free(text);
  text = repeated(ndjson, &size);
  measure("lines of NDJSON, 4 KiB", split, text, size, 4096);
  free(text);
}

enum { ROUNDS = 100 };

/* ---- the server: sends an event to all connections for each byte that it is told, or so many ----
 */

static int listen_somewhere(int *port) {
  struct sockaddr_in address = {.sin_family = AF_INET};
  socklen_t size = sizeof address;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  int fd = socket(AF_INET, SOCK_STREAM, 0);
  if (bind(fd, (struct sockaddr *)&address, sizeof address) || listen(fd, 4096) ||
      getsockname(fd, (struct sockaddr *)&address, &size))
    exit(2);
  *port = ntohs(address.sin_port);
  return fd;
}

static void serve(int listener, int orders, int count, int rounds) {
  static const char head[] = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n";
  int *fds = calloc((size_t)count, sizeof *fds), one = 1;
  char request[4096];
  for (int i = 0; i < count; i++) {
    fds[i] = accept(listener, NULL, NULL);
    setsockopt(fds[i], IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (recv(fds[i], request, sizeof request, 0) <= 0 || write(fds[i], head, sizeof head - 1) < 0)
      exit(2);
  }
  while (rounds-- > 0 && (orders < 0 || read(orders, request, 1) == 1))
    for (int i = 0; i < count; i++)
      if (write(fds[i], delta, sizeof delta - 1) < 0)
        exit(2);
  exit(0);
}

/* ---- streams ---- */

static weft_http_transfer *open_one(int port) {
  char url[64];
  weft_error *error;
  snprintf(url, sizeof url, "http://127.0.0.1:%d/", port);
  weft_http_request request = {.url = weft_http_text_of(url), .is_stream = 1};
  weft_http_transfer *transfer = weft_http_transfer_new(&request, &error);
  if (!transfer || weft_http_start(transfer) != WEFT_OK)
    exit(2);
  return transfer;
}

static void next_event(weft_http_transfer *transfer, weft_sse *sse) {
  weft_sse_event event;
  weft_http_text bytes;
  while (weft_sse_next(sse, &event) != WEFT_OK) {
    if (weft_http_read_or_block(weft_background(), transfer, &bytes) != WEFT_OK)
      exit(2);
    weft_sse_feed(sse, bytes.bytes, bytes.size);
  }
}

static void measure_streams(int count) {
  int orders[2], port, listener = listen_somewhere(&port);
  if (pipe(orders))
    exit(2);
  fflush(stdout);
  pid_t server = fork();
  if (server == 0) {
    close(orders[1]);
    serve(listener, orders[0], count, ROUNDS);
  }
  weft_http_transfer **transfers = calloc((size_t)count, sizeof *transfers);
  weft_sse *parsers = calloc((size_t)count, sizeof *parsers);
  weft_io_start();
  size_t before = mallinfo2().uordblks, used[ROUNDS];
  double spent[ROUNDS];
  for (int i = 0; i < count; i++) {
    transfers[i] = open_one(port);
    weft_sse_init(&parsers[i], 0);
  }
  for (int round = 0; round < ROUNDS; round++) {
    double start = cpu();
    if (write(orders[1], "x", 1) != 1)
      exit(2);
    for (int i = 0; i < count; i++)
      next_event(transfers[i], &parsers[i]);
    spent[round] = (cpu() - start) * 1e6 / count;
    used[round] = mallinfo2().uordblks - before;
  }
  printf("%d streams at once, an event of %zu bytes to each, %d rounds:\n", count, sizeof delta - 1,
         ROUNDS);
  printf("  memory: %.1f KB a stream in round 2, %.1f KB in the last\n",
         (double)used[1] / 1024 / count, (double)used[ROUNDS - 1] / 1024 / count);
  printf("  CPU, socket to event: %.1f us an event (median of rounds)\n",
         median(spent + 1, ROUNDS - 1));
  close(orders[1]);
  for (int i = 0; i < count; i++) {
    weft_http_abort(transfers[i]);
    weft_http_transfer_release(transfers[i]);
    weft_sse_free(&parsers[i]);
  }
  waitpid(server, NULL, 0);
  weft_io_stop(2000);
}

static void serve_alone(int count, int events) {
  int port, listener = listen_somewhere(&port);
  printf("%d\n", port);
  fflush(stdout);
  serve(listener, -1, count, events);
}

int main(int argc, char **argv) {
  if (argc == 4 && strcmp(argv[1], "--serve") == 0)
    serve_alone(atoi(argv[2]), atoi(argv[3]));
  int count = argc > 1 ? atoi(argv[1]) : 1000;
  signal(SIGPIPE, SIG_IGN);
  measure_parser();
  measure_streams(count > 0 ? count : 1000);
  return 0;
}

/* test_http_stream_h2.c: streams over HTTP/2: several on one connection, one of them with a reader
 * that is slow, or gone.
 *
 * Needs the programs nginx and openssl. One test after the other on the main thread.
 */
#include "http_nginx.h"
#include "stream_helpers.h"

static nginx tls;

static weft_http_request secure(const char *path) {
  static char urls[2][128];
  static int next;
  char *url = urls[next ^= 1];
  snprintf(url, sizeof urls[0], "https://127.0.0.1:%d%s", tls.port, path);
  weft_http_request request = {.url = weft_http_text_of(url)};
  request.ca_file = weft_http_text_of(tls.certificate);
  return request;
}

static weft_http_transfer *open_large(size_t buffer) {
  weft_http_request request = secure("/files/large");
  request.is_stream = 1;
  request.buffer = buffer;
  return start(&request);
}

enum { LARGE = 24 << 20 };

static void make_files(void) {
  char path[128], bytes[4096];
  snprintf(path, sizeof path, "%s/files", tls.folder);
  mkdir(path, 0755);
  snprintf(path, sizeof path, "%s/files/large", tls.folder);
  FILE *file = fopen(path, "w");
  for (uint64_t at = 0; at < LARGE; at += sizeof bytes) {
    fill(bytes, at, sizeof bytes);
    fwrite(bytes, 1, sizeof bytes, file);
  }
  fclose(file);
}

static int wait_until_paused(weft_http_transfer *transfer) {
  while (!weft_http_is_paused(transfer) && !weft_http_is_finished(transfer))
    usleep(1000);
  return weft_http_is_paused(transfer);
}

static void test_whole(void) {
  weft_http_transfer *transfer = open_large(0);
  wait_head(transfer);
  check(strcmp(weft_http_framing(transfer), "length") == 0, "it is no HTTP/2");
  check(read_pattern(transfer, 0, LARGE) > 0, "all of it, in order");
  check(is_closed(transfer) && !weft_http_error(transfer), "a proper end");
  weft_http_transfer_release(transfer);
}

static void test_slow_reader(void) {
  weft_http_transfer *transfer = open_large(20000);
  size_t before = mallinfo2().uordblks;
  check(wait_until_paused(transfer), "a slow reader pauses it");
  usleep(200000); /* for what comes all the same */
  size_t used = mallinfo2().uordblks;
  check(used < before + (2 << 20), "with %zu KB of memory", (used - before) >> 10);
  size_t largest = read_pattern(transfer, 0, LARGE);
  check(largest > 0 && largest <= 20000 + 16384, "then all of it arrives, in order: %zu", largest);
  check(is_closed(transfer) && !weft_http_error(transfer), "a proper end");
  weft_http_transfer_release(transfer);
}

/* Calls over the connection of one that is paused. */
static void test_neighbours(void) {
  weft_http_transfer *paused = open_large(1000);
  int good = 0;
  check(wait_until_paused(paused), "one is paused");
  for (int i = 0; i < 20; i++) {
    weft_http_request request = secure("/");
    request.limits_ms[WEFT_HTTP_TOTAL] = 5000;
    weft_http_transfer *transfer = run(&request);
    if (weft_http_error(transfer))
      printf("# %s\n", weft_error_message(weft_http_error(transfer)));
    good += !weft_http_error(transfer);
    weft_http_transfer_release(transfer);
  }
  check(good == 20, "%d of 20 calls beside it", good);
  weft_http_transfer *other = open_large(0);
  check(read_pattern(other, 0, LARGE) > 0, "a large answer beside it");
  weft_http_transfer_release(other);
  weft_http_abort(paused);
  finish(paused);
  weft_http_transfer_release(paused);
  check(ask_once(secure("/")), "and after it was aborted");
}

static void run_tests(void) {
  if (!nginx_start(&tls, 1000000)) {
    check(0, "nginx could not be started");
    return;
  }
  make_files();
  test_whole();
  test_slow_reader();
  test_neighbours();
  nginx_stop(&tls);
  nginx_remove(&tls);
}

int main(void) {
  return run_all(run_tests);
}

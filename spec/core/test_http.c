/* test_http.c: the HTTP engine against a server in the same process, and TLS against openssl
 * s_server.
 *
 * Owns the server, and everything that it starts. One test after the other on the main thread.
 * Needs -lcurl -lz, and the openssl program for TLS. Prints "ok …" or "not ok …" lines and ends
 * with the totals; fails when one check failed.
 */
#include "http_helpers.h"

#include <signal.h>
#include <sys/wait.h>

static const char *program;

/* ---- requests and answers ---- */

static void test_get(void) {
  weft_http_request request = get("/ok?key=1");
  weft_http_transfer *transfer = run(&request);
  char *sent = fixture_last(server);
  const weft_http_times *times = weft_http_times_of(transfer);
  check(!weft_http_error(transfer) && weft_http_status(transfer) == 200 && body_is(transfer, "ok"),
        "GET brings status and body");
  check(strncmp(sent, "GET /ok?key=1 HTTP/1.1\r\n", 24) == 0 && !strstr(sent, "Expect") &&
            !strstr(sent, "Accept-Encoding") && strstr(sent, "User-Agent: weft/"),
        "GET sends what it should");
  check(times->total_ns >= times->first_byte_ns && times->first_byte_ns >= times->connected_ns &&
            times->connected_ns >= times->launched_ns && times->received == 2,
        "times are in order");
  free(sent);
  weft_http_transfer_release(transfer);
}

static void test_post(void) {
  weft_http_header headers[] = {
      {weft_http_text_of("Content-Type"), weft_http_text_of("application/json")},
      {weft_http_text_of("X-Empty"), weft_http_text_of("")},
      {weft_http_text_of("X-Blank"), weft_http_text_of(" in the middle ")},
  };
  weft_http_request request = get("/ok");
  request.method = weft_http_text_of("post");
  request.headers = headers;
  request.header_count = 3;
  request.body = (weft_http_text){"{\"a\":\0 1}", 9};
  weft_http_transfer *transfer = run(&request);
  char *sent = fixture_last(server);
  check(!weft_http_error(transfer) && strncmp(sent, "POST /ok ", 9) == 0 &&
            strstr(sent, "\r\nContent-Length: 9\r\n") &&
            strstr(sent, "\r\nContent-Type: application/json\r\n") &&
            strstr(sent, "\r\nX-Empty:\r\n") && strstr(sent, "\r\nX-Blank: in the middle\r\n"),
        "POST sends headers and a body of bytes");
  check(weft_http_times_of(transfer)->sent == 9, "bytes sent are counted");
  free(sent);
  weft_http_transfer_release(transfer);
}

static void test_methods(void) {
  static const char *const methods[] = {"PUT",  "PATCH", "DELETE", "OPTIONS",
                                        "HEAD", "QUERY", "POST"};
  for (size_t i = 0; i < sizeof methods / sizeof *methods; i++) {
    weft_http_request request = get("/ok");
    request.method = weft_http_text_of(methods[i]);
    weft_http_transfer *transfer = run(&request);
    char *sent = fixture_last(server);
    int has_length = strstr(sent, "Content-Length: 0") != NULL;
    int ok = !weft_http_error(transfer) && weft_http_status(transfer) == 200 &&
             strncmp(sent, methods[i], strlen(methods[i])) == 0 && !strstr(sent, "Content-Type") &&
             has_length == (*methods[i] == 'P');
    check(ok && body_is(transfer, strcmp(methods[i], "HEAD") ? "ok" : ""), "%s without a body",
          methods[i]);
    free(sent);
    weft_http_transfer_release(transfer);
  }
}

static void test_large_body(void) {
  enum { SIZE = 900000 };
  char *bytes = malloc(SIZE);
  memset(bytes, 'b', SIZE);
  weft_http_request request = get("/size/3000000");
  request.method = weft_http_text_of("PUT");
  request.body = (weft_http_text){bytes, SIZE};
  weft_http_transfer *transfer = run(&request);
  char *sent = fixture_last(server);
  check(!weft_http_error(transfer) && weft_http_body(transfer).size == 3000000 &&
            strlen(sent) > SIZE && strcmp(sent + strlen(sent) - 4, "bbbb") == 0,
        "900 kB go up, 3 MB come down");
  free(sent);
  free(bytes);
  weft_http_transfer_release(transfer);
}

static void test_status(void) {
  weft_http_request request = get("/status/503");
  weft_http_transfer *transfer = run(&request);
  check(!weft_http_error(transfer) && weft_http_status(transfer) == 503,
        "a status of 503 is an answer, not an error");
  weft_http_transfer_release(transfer);
}

static void test_headers(void) {
  weft_http_request request = get("/odd");
  weft_http_transfer *transfer = run(&request);
  weft_http_header header;
  weft_http_text value;
  size_t position = 0;
  char all[512] = "";
  while (weft_http_next_header(transfer, &position, &header))
    sprintf(all + strlen(all), "%.*s=%.*s|", (int)header.name.size, header.name.bytes,
            (int)header.value.size, header.value.bytes);
  check(weft_http_status(transfer) == 200 && body_is(transfer, "abc") &&
            strcmp(all, "X-Two=a|X-Two=b|X-Empty=|X-Folded=one two|Transfer-Encoding=chunked|"
                        "Trailer=X-Late|") == 0,
        "headers: twice, empty, folded; no interim answer's, no trailers: %s", all);
  check(weft_http_find_header(transfer, "x-two", &value) && value.size == 1 &&
            !weft_http_find_header(transfer, "X-Late", &value),
        "a header is found in any case");
  weft_http_transfer_release(transfer);
}

static void test_coding(void) {
  weft_http_request request = get("/gzip");
  request.decompress = 1;
  weft_http_transfer *transfer = run(&request);
  char *sent = fixture_last(server);
  check(body_is(transfer, "unpacked") && strstr(sent, "Accept-Encoding: "), "gzip is unpacked");
  free(sent);
  weft_http_transfer_release(transfer);
  request = get("/gzip");
  transfer = run(&request);
  check(weft_http_body(transfer).size > 2 && weft_http_body(transfer).bytes[0] == 0x1f,
        "without the flag it stays packed");
  weft_http_transfer_release(transfer);
}

/* ---- refused before anything is sent ---- */

static weft_http_request with_header(weft_http_text name, weft_http_text value) {
  static weft_http_header header;
  weft_http_request request = get("/ok");
  header = (weft_http_header){name, value};
  request.headers = &header;
  request.header_count = 1;
  return request;
}

static void test_invalid_headers(void) {
  static const weft_http_text bad[] = {
      {"SECRET\r\nX: y", 12}, {"SECRET\nX", 8}, {"SECRET\rX", 8}, {"SECRET\0X", 8}};
  for (int i = 0; i < 4; i++) {
    weft_http_request request = with_header(weft_http_text_of("Authorization"), bad[i]);
    expect_invalid(&request, "header 1 has a line break or a NUL in its value");
    request = with_header(bad[i], weft_http_text_of("v"));
    expect_invalid(&request, "header 1 has an invalid name");
  }
  static const char *const names[] = {"", "A B", "A:", "Kopf\xc3\xa4"};
  for (int i = 0; i < 4; i++) {
    weft_http_request request = with_header(weft_http_text_of(names[i]), weft_http_text_of("v"));
    expect_invalid(&request, "header 1 has an invalid name");
  }
  weft_http_request request =
      with_header(weft_http_text_of("content-length"), weft_http_text_of("5"));
  expect_invalid(&request, "leave it out");
  char *large = calloc(1, 600 << 10);
  memset(large, 'S', (600 << 10) - 1);
  request = with_header(weft_http_text_of("X"), weft_http_text_of(large));
  expect_invalid(&request, "larger than 512 KiB");
  free(large);
}

static void test_invalid_urls(void) {
  static const char *const urls[] = {
      "",        "ftp://h/SECRET",  "file:///etc/passwd", "h/x",
      "http://", "http://h:99999/", "http://h/a b",       "http://h/a\r\nX: SECRET",
      "http:/h", "gopher://h"};
  for (size_t i = 0; i < sizeof urls / sizeof *urls; i++) {
    weft_http_request request = {.url = weft_http_text_of(urls[i])};
    expect_invalid(&request, "URL");
  }
  weft_http_request request = {.url = {"http://h/\0SECRET", 16}};
  expect_invalid(&request, "NUL");
  request = get("/ok");
  request.method = weft_http_text_of("GET /SECRET HTTP/1.1\r\n");
  expect_invalid(&request, "method");
  request.method = weft_http_text_of("HEAD");
  request.body = weft_http_text_of("SECRET");
  expect_invalid(&request, "no body");
}

/* ---- failures ---- */

static void test_ceilings(void) {
  weft_http_request request = get("/size/100000");
  request.max_body = 99999;
  expect_failure(&request, "too_large", "max_body (99999 bytes)");
  request.max_body = 100000;
  weft_http_transfer *transfer = run(&request);
  check(weft_http_body(transfer).size == 100000, "a body of exactly max_body passes");
  weft_http_transfer_release(transfer);
  request = get("/bomb");
  request.decompress = 1;
  request.max_body = 1 << 20;
  expect_failure(&request, "too_large", "max_body");
  request = get("/headers/20");
  request.max_header = 10000;
  expect_failure(&request, "too_large", "max_header (10000 bytes)");
  request = get("/longline/120");
  expect_failure(&request, "too_large", "one of the answer's headers");
}

static void test_failures(void) {
  int unused_port;
  int listener = listen_somewhere(&unused_port);
  char url[64];
  close(listener);
  snprintf(url, sizeof url, "http://u:SECRET@127.0.0.1:%d/p?key=SECRET", unused_port);
  weft_http_request request = {.url = weft_http_text_of(url)};
  char where[64];
  snprintf(where, sizeof where, "GET http://127.0.0.1:%d/p: ", unused_port);
  expect_failure(&request, "network", where);
  request = get("/reset/0");
  expect_failure(&request, "network", "/reset/0");
  request = get("/reset/1");
  expect_failure(&request, "network", "(curl 56)");
  request = get("/truncate");
  expect_failure(&request, "network", "(curl 18)");
  request = get("/garbage");
  expect_failure(&request, "protocol", "/garbage");
  request = (weft_http_request){.url = weft_http_text_of("http://nowhere.invalid/")};
  expect_failure(&request, "network", "nowhere.invalid");
}

static void test_timeout(void) {
  weft_http_request request = get("/never");
  request.limits_ms[WEFT_HTTP_TOTAL] = 100;
  double began = seconds_now();
  expect_failure(&request, "timeout",
                 "total took over 0.1 s; the request was sent and nothing had arrived");
  double took = seconds_now() - began;
  check(took >= 0.099 && took < 2, "it took %.3f s", took);
  weft_http_set_limit(1);
  weft_http_request first = get("/never");
  weft_http_transfer *transfer = start(&first);
  expect_failure(&request, "timeout", "waiting for its turn");
  weft_http_set_limit(WEFT_HTTP_LIMIT);
  weft_http_abort(transfer);
  finish(transfer);
  weft_http_transfer_release(transfer);
}

/* ---- nothing of one request reaches the next on the same handle ---- */

typedef struct variant {
  const char *path, *method, *credentials;
  weft_http_header header;
  const char *body;
  uint32_t timeout_ms;
  size_t max_body, max_header;
  int decompress, is_aborted, fails;
} variant;

static const variant variants[] = {
    {.path = "/ok"},
    {.path = "/ok?secret=1", .header = HEADER("Authorization", "Bearer one")},
    {.path = "/ok", .credentials = "user:pass@"},
    {.path = "/ok", .method = "POST", .body = "first body", .header = HEADER("X-Key", "two")},
    {.path = "/ok", .method = "POST", .header = HEADER("Content-Type", "text/x")},
    {.path = "/ok", .method = "DELETE", .body = "del", .timeout_ms = 9000},
    {.path = "/ok", .method = "HEAD"},
    {.path = "/size/9", .method = "OPTIONS", .max_body = 9, .max_header = 500},
    {.path = "/gzip", .decompress = 1, .header = HEADER("Host", "other.test")},
    {.path = "/size/99", .method = "PUT", .body = "x", .max_body = 9, .fails = 1},
    {.path = "/never", .method = "PURGE", .timeout_ms = 20, .decompress = 1, .fails = 1},
    {.path = "/never", .method = "POST", .body = "gone", .is_aborted = 1, .fails = 1},
    {.path = "/truncate", .credentials = "a:b@", .fails = 1},
};
enum { VARIANTS = sizeof variants / sizeof *variants };

/* Runs it; returns what the server received, which the caller frees; NULL when it went wrong. */
static char *run_variant(const variant *v) {
  char url[256];
  snprintf(url, sizeof url, "http://%s127.0.0.1:%d%s", v->credentials ? v->credentials : "",
           server->port, v->path);
  weft_http_request request = {.url = weft_http_text_of(url),
                               .headers = &v->header,
                               .header_count = v->header.name.size != 0,
                               .limits_ms[WEFT_HTTP_TOTAL] = v->timeout_ms,
                               .max_body = v->max_body,
                               .max_header = v->max_header,
                               .decompress = (uint8_t)v->decompress};
  if (v->method)
    request.method = weft_http_text_of(v->method);
  if (v->body)
    request.body = weft_http_text_of(v->body);
  weft_http_transfer *transfer = start(&request);
  if (v->is_aborted) {
    usleep(2000);
    weft_http_abort(transfer);
  }
  finish(transfer);
  int went_wrong = !v->fails != !weft_http_error(transfer);
  weft_http_transfer_release(transfer);
  return went_wrong ? NULL : fixture_last(server);
}

static void test_no_leak_between(void) {
  char *expected[VARIANTS];
  int differ = 0;
  weft_http_stats stats;
  for (int i = 0; i < VARIANTS; i++) {
    weft_http_close_idle();
    expected[i] = run_variant(&variants[i]);
  }
  weft_http_close_idle();
  for (int i = 0; i < VARIANTS; i++)
    for (int j = 0; j < VARIANTS; j++) {
      free(run_variant(&variants[i]));
      char *sent = run_variant(&variants[j]);
      int same = sent && expected[j] && (variants[j].fails || strcmp(sent, expected[j]) == 0);
      if (!same && ++differ < 4)
        printf("# %d then %d\n--- alone\n%s\n--- after\n%s\n", i, j, expected[j], sent);
      free(sent);
    }
  weft_http_stats_read(&stats);
  check(differ == 0 && stats.handles == 1,
        "%d pairs of requests on %u handle: the second is as if it were the first",
        VARIANTS * VARIANTS, stats.handles);
  for (int i = 0; i < VARIANTS; i++)
    free(expected[i]);
}

/* ---- perform ---- */

static void test_perform(void) {
  weft_http_transfer *transfer = NULL;
  weft_http_request request = get("/ok");
  weft_error *error = weft_http_perform(weft_background(), &request, &transfer);
  check(!error && body_is(transfer, "ok"), "perform brings the answer");
  weft_http_transfer_release(transfer);
  request = get("/truncate");
  error = weft_http_perform(weft_background(), &request, &transfer);
  check(is_kind(error, "network") && !transfer, "perform returns the transfer's error");
  weft_error_release(error);
  weft_context *context = weft_context_with_timeout(weft_background(), 0.05, NULL);
  request = get("/never");
  error = weft_http_perform(context, &request, &transfer);
  check(is_kind(error, "deadline") && !transfer, "perform ends with its context");
  weft_error_release(error);
  error = weft_http_perform(context, &request, &transfer);
  check(is_kind(error, "deadline") && wait_until_held(0), "perform in a context that is done");
  weft_error_release(error);
  weft_context_release(context);
}

/* ---- proxies: read once, so in processes of their own ---- */

/* The program's other role: one GET, and an exit code of 0 when an answer came. */
static int get_one(const char *url) {
  weft_http_request request = {.url = weft_http_text_of(url)};
  weft_http_transfer *transfer = run(&request);
  int has_failed = weft_http_error(transfer) != NULL;
  if (has_failed)
    printf("%s\n", weft_error_message(weft_http_error(transfer)));
  weft_http_transfer_release(transfer);
  weft_http_close_idle();
  stop_io();
  return has_failed;
}

static int exit_code_of(const char *variable, const char *no_proxy) {
  char proxy[64];
  snprintf(proxy, sizeof proxy, "http://127.0.0.1:%d", server->port);
  pid_t child = fork();
  if (child == 0) {
    setenv(variable, proxy, 1);
    setenv("no_proxy", no_proxy, 1);
    execl(program, program, "http://proxied.invalid/ok?a=b", (char *)NULL);
    _exit(127);
  }
  int status = -1;
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* What the environment says may be wrong, and libcurl quotes it. */
static void test_odd_proxies(void) {
  static const char *const odd[] = {"gopher://me:SECRET@h:1", "http://me:SECRET@:x",
                                    "me:SECRET@[::z]", "socks5://me:SECRET@127.0.0.1:1"};
  for (size_t i = 0; i < sizeof odd / sizeof *odd; i++) {
    char command[512], line[512] = "";
    snprintf(command, sizeof command, "http_proxy='%s' %s http://proxied.invalid/", odd[i],
             program);
    FILE *pipe = popen(command, "r");
    char *got = fgets(line, sizeof line, pipe);
    pclose(pipe);
    line[strcspn(line, "\n")] = '\0';
    check(got && strstr(line, "/proxied.invalid:80/: ") && !strstr(line, "SECRET"), "%s", line);
  }
}

static void test_proxies(void) {
  int through = exit_code_of("http_proxy", "");
  char *sent = fixture_last(server);
  check(through == 0 && strncmp(sent, "GET http://proxied.invalid/ok?a=b HTTP/1.1\r\n", 44) == 0,
        "http_proxy is used");
  free(sent);
  check(exit_code_of("all_proxy", "") == 0, "all_proxy is used");
  check(exit_code_of("http_proxy", "proxied.invalid") == 1, "no_proxy makes an exception");
  check(exit_code_of("HTTP_PROXY", "") == 1, "HTTP_PROXY in capitals is not read");
  test_odd_proxies();
}

/* ---- TLS ---- */

typedef struct tls_server {
  pid_t process;
  int port;
  char folder[64], certificate[96], key[96];
} tls_server;

static int make_certificate(tls_server *tls) {
  char command[512];
  strcpy(tls->folder, "/tmp/weft-http-XXXXXX");
  if (!mkdtemp(tls->folder))
    return 0;
  snprintf(tls->certificate, sizeof tls->certificate, "%s/cert.pem", tls->folder);
  snprintf(tls->key, sizeof tls->key, "%s/key.pem", tls->folder);
  snprintf(command, sizeof command,
           "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost "
           "-addext subjectAltName=IP:127.0.0.1 -keyout %s -out %s 2>/dev/null",
           tls->key, tls->certificate);
  return system(command) == 0;
}

/* Reads the port from the line "ACCEPT 127.0.0.1:port". */
static int read_port(int fd) {
  char text[256];
  size_t size = 0;
  const char *found = NULL;
  while (size < sizeof text - 1 && !(found && strchr(found, '\n'))) {
    ssize_t got = read(fd, text + size, sizeof text - 1 - size);
    if (got <= 0)
      return 0;
    text[size += (size_t)got] = '\0';
    found = strstr(text, "127.0.0.1:");
  }
  return found ? atoi(found + 10) : 0;
}

static int start_tls(tls_server *tls) {
  int out[2];
  if (!make_certificate(tls) || pipe(out))
    return 0;
  tls->process = fork();
  if (tls->process == 0) {
    dup2(out[1], 1);
    if (!freopen("/dev/null", "w", stderr))
      _exit(127);
    close(out[0]);
    execlp("openssl", "openssl", "s_server", "-accept", "127.0.0.1:0", "-www", "-cert",
           tls->certificate, "-key", tls->key, (char *)NULL);
    _exit(127);
  }
  close(out[1]);
  tls->port = read_port(out[0]);
  close(out[0]);
  return tls->port;
}

static void stop_tls(tls_server *tls) {
  kill(tls->process, SIGTERM);
  waitpid(tls->process, NULL, 0);
  unlink(tls->certificate);
  unlink(tls->key);
  rmdir(tls->folder);
}

static void test_tls(void) {
  tls_server tls = {0};
  char url[64];
  if (!start_tls(&tls)) {
    check(0, "openssl could not be started");
    return;
  }
  snprintf(url, sizeof url, "https://127.0.0.1:%d/", tls.port);
  weft_http_request request = {.url = weft_http_text_of(url)};
  expect_failure(&request, "tls", "set ca_file");
  request.ca_file = weft_http_text_of(tls.certificate);
  weft_http_transfer *transfer = run(&request);
  check(!weft_http_error(transfer) && weft_http_status(transfer) == 200, "accepted with ca_file");
  weft_http_transfer_release(transfer);
  request.ca_file = (weft_http_text){NULL, 0};
  expect_failure(&request, "tls", "set ca_file");
  request.ca_file = weft_http_text_of("/no/such/file");
  expect_failure(&request, "tls", "ca_file");
  snprintf(url, sizeof url, "https://localhost:%d/", tls.port);
  request.url = weft_http_text_of(url);
  request.ca_file = weft_http_text_of(tls.certificate);
  expect_failure(&request, "tls", "https://localhost:");
  stop_tls(&tls);
}

static void run_tests(void) {
  test_get();
  test_post();
  test_methods();
  test_large_body();
  test_status();
  test_headers();
  test_coding();
  test_invalid_headers();
  test_invalid_urls();
  test_ceilings();
  test_failures();
  test_timeout();
  test_no_leak_between();
  test_perform();
  test_proxies();
  test_tls();
}

int main(int argc, char **argv) {
  program = argv[0];
  return argc > 1 ? get_one(argv[1]) : run_all(run_tests);
}

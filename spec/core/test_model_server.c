/* test_model_server.c: the model server without Lua: it survives each of its allocations failing,
 * and leaves nothing behind, whatever its clients do.
 */
#include "check.h"

#include "mem.h"
#include "model_server.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

static const weft_model_header headers[] = {{"x-extra", "y"}};

static const weft_model_call call = {.name = "weather", .arguments = "{\"city\":\"x\"}"};
static const weft_model_canned replies[] = {
    {.text = "{{last}} of {{model}}", .is_template = true, .input_tokens = -1, .output_tokens = -1},
    {.text = "one two three",
     .calls = &call,
     .call_count = 1,
     .input_tokens = 7,
     .output_tokens = 9},
};
static const weft_model_rule rules[] = {{.replies = replies, .reply_count = 2, .times = 100}};
static const char *const models[] = {"m", "n"};

/* A server with something of everything. */
static weft_model_server *start(void) {
  char error[WEFT_MODEL_ERROR_SIZE];
  weft_model_fault faults[3];
  weft_model_config config;
  weft_model_config_init(&config);
  for (size_t i = 0; i < COUNT(faults); i++)
    faults[i] = weft_model_no_fault();
  faults[0].kind = WEFT_MODEL_FAULT_STATUS;
  faults[0].status = 429;
  faults[0].message = "slow down";
  faults[0].headers = headers;
  faults[0].header_count = 1;
  faults[1].kind = WEFT_MODEL_FAULT_BOMB;
  faults[1].bomb = 100000;
  faults[1].stream = 0;
  faults[2].style.gzip = 1;
  faults[2].style.piece = 40;
  faults[2].stream = 1;
  config.faults = faults;
  config.fault_count = COUNT(faults);
  config.rules = rules;
  config.rule_count = COUNT(rules);
  config.models = models;
  config.model_count = COUNT(models);
  config.requests_per_window = 1000;
  config.api_key = "k";
  config.record = 2;
  return weft_model_server_start(&config, error);
}

static int dial(const weft_model_server *server) {
  struct sockaddr_in address = {.sin_family = AF_INET,
                                .sin_port = htons(weft_model_server_port(server))};
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (connect(fd, (struct sockaddr *)&address, sizeof address) != 0) {
    close(fd);
    return -1;
  }
  return fd;
}

/* One request on a connection of its own. Returns how many bytes came before the end. */
static size_t ask(const weft_model_server *server, const char *path, const char *body) {
  char text[1024];
  size_t received = 0;
  int fd = dial(server);
  int size = snprintf(text, sizeof text,
                      "POST %s HTTP/1.1\r\nAuthorization: Bearer k\r\nx-api-key: k\r\n"
                      "anthropic-version: 2023-06-01\r\nConnection: close\r\n"
                      "Content-Length: %zu\r\n\r\n%s",
                      path, strlen(body), body);
  if (fd < 0 || send(fd, text, (size_t)size, MSG_NOSIGNAL) < 0)
    received = 0; /* the server closed it at once */
  else
    for (ssize_t n; (n = recv(fd, text, sizeof text, 0)) > 0;)
      received += (size_t)n;
  if (fd >= 0)
    close(fd);
  return received;
}

#define MESSAGES "\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}]"

static const char *const asked[][2] = {
    {"/v1/chat/completions", "{\"model\":\"m\"," MESSAGES "}"},
    {"/v1/chat/completions", "{\"model\":\"m\",\"stream\":true," MESSAGES "}"},
    {"/v1/chat/completions", "{\"model\":\"m\"," MESSAGES "}"},
    {"/v1/messages", "{\"model\":\"m\",\"max_tokens\":9,\"stream\":true," MESSAGES "}"},
    {"/api/chat", "{\"model\":\"m\"," MESSAGES "}"},
    {"/v1/embeddings", "{\"model\":\"n\",\"input\":[\"a\",\"b\"],\"encoding_format\":\"base64\"}"},
    {"/v1/chat/completions", "{\"model\":\"m\"}"},
};

static size_t ask_everything(weft_model_server *server) {
  size_t answered = 0, count;
  for (size_t i = 0; i < COUNT(asked); i++)
    answered += ask(server, asked[i][0], asked[i][1]) > 0;
  weft_model_fault fault = weft_model_no_fault();
  fault.kind = WEFT_MODEL_FAULT_RESET;
  fault.model = "m";
  weft_model_server_add_fault(server, &fault);
  const weft_model_request **requests = weft_model_server_requests(server, &count);
  weft_model_requests_free(requests, count);
  return answered;
}

static void everything_is_answered(void) {
  weft_model_server *server = start();
  CHECK(server);
  CHECK(ask_everything(server) == COUNT(asked));
  CHECK(weft_model_server_stats(server).faults == 3);
  CHECK(weft_model_server_stats(server).in_flight == 0);
  weft_model_server_stop(server);
}

/* Each allocation in turn: the server does not start, or a client loses its connection, and all
 * others are answered. */
static void every_allocation_may_fail(void) {
  uint64_t made = 1;
  size_t failed_starts = 0, lost = 0;
  for (uint64_t nth = 1; nth <= made; nth++) {
    weft_mem_fail_at(nth);
    weft_model_server *server = start();
    failed_starts += server == NULL;
    if (server) {
      size_t answered = ask_everything(server);
      CHECK(answered >= COUNT(asked) - 1);
      lost += COUNT(asked) - answered;
      weft_model_server_stop(server);
    }
    uint64_t count = weft_mem_fail_at(0);
    made = count >= nth ? nth + 1 : 0;
  }
  CHECK(failed_starts > 10);
  CHECK(lost > 10);
}

/* Clients that go away at every byte of what they have to say. */
static void clients_may_leave_at_any_byte(void) {
  static const char text[] =
      "POST /v1/chat/completions HTTP/1.1\r\nAuthorization: Bearer k\r\n"
      "Transfer-Encoding: chunked\r\n\r\n1f\r\n{\"model\":\"m\",\"stream\":true,"
      "\"m\":\r\n0\r\n\r\n";
  weft_model_server *server = start();
  for (size_t size = 0; size < sizeof text; size++) {
    int fd = dial(server);
    CHECK(fd >= 0);
    CHECK(send(fd, text, size, MSG_NOSIGNAL) == (ssize_t)size);
    if (size % 2)
      shutdown(fd, SHUT_WR);
    close(fd);
  }
  CHECK(ask(server, asked[0][0], asked[0][1]) > 0);
  AWAIT(weft_model_server_stats(server).open == 0);
  CHECK(weft_model_server_stats(server).in_flight == 0);
  weft_model_server_stop(server);
}

int main(void) {
  check_run("everything is answered", everything_is_answered);
  check_run("every allocation may fail", every_allocation_may_fail);
  check_run("clients may leave at any byte", clients_may_leave_at_any_byte);
  return check_end();
}

/* model_reply.c: routes, the bodies of answers in OpenAI's shape, and the heads around them.
 *
 * Owns the scratch buffers of a replier. Only the server thread enters. Invariant: an answer's head
 * always tells the size of its full body, whatever a fault cuts off. Another API is one more route;
 * another way to send is one more field of weft_model_answer.
 */
#include "model_reply.h"

#include <time.h>

#include "model_http.h"
#include "model_json.h"
#include "model_mock.h"
#include "model_random.h"

enum { SCRATCH_KEPT = 1024 * 1024 };

/* What goes into the head and body of one answer; the body itself is in the replier. */
typedef struct reply {
  int status;
  const char *type;   /* of the content */
  double retry_after; /* negative: none */
  const char *allow;  /* the method that a 405 names, or NULL */
  weft_json_writer body;
  const weft_model_fault *fault; /* NULL: a good answer */
} reply;

/* Statuses ------------------------------------------------------------------------------------ */

static const struct status {
  int status;
  const char *name;
  const char *type, *code; /* OpenAI's; code NULL: null */
} statuses[] = {
    {200, "OK", NULL, NULL},
    {400, "Bad Request", "invalid_request_error", NULL},
    {401, "Unauthorized", "invalid_request_error", "invalid_api_key"},
    {403, "Forbidden", "invalid_request_error", "unsupported_country_region_territory"},
    {404, "Not Found", "invalid_request_error", "unknown_url"},
    {405, "Method Not Allowed", "invalid_request_error", "method_not_supported"},
    {408, "Request Timeout", "invalid_request_error", NULL},
    {409, "Conflict", "invalid_request_error", NULL},
    {413, "Content Too Large", "invalid_request_error", NULL},
    {422, "Unprocessable Content", "invalid_request_error", NULL},
    {429, "Too Many Requests", "requests", "rate_limit_exceeded"},
    {431, "Request Header Fields Too Large", "invalid_request_error", NULL},
    {500, "Internal Server Error", "server_error", NULL},
    {501, "Not Implemented", "server_error", NULL},
    {502, "Bad Gateway", "server_error", NULL},
    {503, "Service Unavailable", "server_error", NULL},
    {504, "Gateway Timeout", "server_error", NULL},
    {505, "HTTP Version Not Supported", "server_error", NULL},
    {529, "Overloaded", "server_error", "overloaded"},
};
static const struct status other_client = {0, "Client Error", "invalid_request_error", NULL};
static const struct status other_server = {0, "Server Error", "server_error", NULL};

static const struct status *find_status(int status) {
  for (size_t i = 0; i < sizeof statuses / sizeof *statuses; i++)
    if (statuses[i].status == status)
      return &statuses[i];
  return status < 500 ? &other_client : &other_server;
}

static void put_text(weft_json_writer *out, const char *text) {
  weft_json_put_string(out, text, strlen(text));
}

static void fail(reply *r, int status, const char *message) {
  const struct status *info = find_status(status);
  r->status = status;
  weft_json_put(&r->body, "{\"error\":{\"message\":");
  put_text(&r->body, message ? message : info->name);
  weft_json_put(&r->body, ",\"type\":");
  put_text(&r->body, info->type);
  weft_json_put(&r->body, ",\"param\":null,\"code\":");
  if (info->code)
    put_text(&r->body, info->code);
  else
    weft_json_put(&r->body, "null");
  weft_json_put(&r->body, "}}");
}

/* Chat completions ---------------------------------------------------------------------------- */

static const char *canned_reply(const weft_model_config *config, const char *model) {
  for (size_t i = 0; i < config->reply_count; i++)
    if (strcmp(config->replies[i].model, model) == 0)
      return config->replies[i].text;
  return config->reply;
}

/* Writes what the model says to the last message, `prompt`, to replier->content. */
static int compose_content(weft_model_replier *replier, const char *model, weft_json_span prompt) {
  weft_json_writer out = {&replier->content, WEFT_BUF_OK};
  const char *canned = canned_reply(replier->config, model);
  if (canned) {
    weft_json_put(&out, canned);
    return out.rc;
  }
  weft_buf text;
  weft_buf_init(&text, 0);
  out.rc = weft_json_unescape(prompt, &text);
  const char *said = text.data ? (const char *)text.data : "";
  if (!weft_model_mock(model, said, text.size, &out)) {
    weft_json_put(&out, "echo: ");
    weft_json_put_bytes(&out, said, text.size);
  }
  weft_buf_free(&text);
  return out.rc;
}

/* About what a tokenizer makes of a text: four bytes each. */
static uint64_t tokens(size_t bytes) {
  return bytes / 4 + 1;
}

static void put_completion(weft_model_replier *replier, const char *model, size_t prompt_bytes,
                           weft_json_writer *out) {
  uint64_t prompt = tokens(prompt_bytes), completion = tokens(replier->content.size);
  weft_json_put(out, "{\"id\":\"chatcmpl-");
  weft_json_put_number(out, replier->serial);
  weft_json_put(out, "\",\"object\":\"chat.completion\",\"created\":");
  weft_json_put_number(out, (uint64_t)time(NULL));
  weft_json_put(out, ",\"model\":");
  put_text(out, model);
  weft_json_put(out, ",\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":");
  weft_json_put_string(out, (const char *)replier->content.data, replier->content.size);
  weft_json_put(out, "},\"logprobs\":null,\"finish_reason\":\"stop\"}],");
  weft_json_put(out, "\"usage\":{\"prompt_tokens\":");
  weft_json_put_number(out, prompt);
  weft_json_put(out, ",\"completion_tokens\":");
  weft_json_put_number(out, completion);
  weft_json_put(out, ",\"total_tokens\":");
  weft_json_put_number(out, prompt + completion);
  weft_json_put(out, "}}");
}

static void complete_chat(weft_model_replier *replier, const weft_model_request *request,
                          reply *r) {
  if (!request->model) {
    fail(r, 400, "you must provide a model parameter");
    return;
  }
  weft_json_chat chat = weft_json_scan_chat(request->body, request->body_size);
  r->body.rc = compose_content(replier, request->model, chat.content);
  put_completion(replier, request->model, chat.content_bytes, &r->body);
}

/* Routes -------------------------------------------------------------------------------------- */

typedef struct route {
  const char *method;
  const char *suffix; /* of the path, without its query */
  bool is_model;      /* needs the key, takes the latency, meets faults */
  void (*answer)(weft_model_replier *replier, const weft_model_request *request, reply *r);
} route;

static void answer_health(weft_model_replier *replier, const weft_model_request *request,
                          reply *r) {
  (void)replier, (void)request;
  r->type = "text/plain";
  weft_json_put(&r->body, "ok");
}

static const route routes[] = {
    {"POST", "/chat/completions", true, complete_chat},
    {"GET", "/health", false, answer_health},
};

static const route *find_route(const char *path) {
  size_t size = strcspn(path, "?");
  for (size_t i = 0; i < sizeof routes / sizeof *routes; i++) {
    size_t suffix = strlen(routes[i].suffix);
    if (size >= suffix && memcmp(path + size - suffix, routes[i].suffix, suffix) == 0)
      return &routes[i];
  }
  return NULL;
}

static bool is_authorized(const char *api_key, const weft_model_request *request) {
  static const char scheme[] = "Bearer ";
  if (!api_key)
    return true;
  const char *sent = weft_model_request_header(request, "authorization");
  size_t prefix = sizeof scheme - 1;
  return sent && strncmp(sent, scheme, prefix) == 0 && strcmp(sent + prefix, api_key) == 0;
}

static void apply_fault(const weft_model_fault *fault, reply *r) {
  r->fault = fault;
  if (fault->kind == WEFT_MODEL_FAULT_STATUS) {
    r->retry_after = fault->retry_after;
    r->body.out->size = 0;
    fail(r, fault->status, fault->message);
  } else if (fault->kind == WEFT_MODEL_FAULT_GARBAGE) {
    r->body.out->size = 0;
    weft_json_put(&r->body, "{\"choices\": [{\"message\": <html>this is not JSON</html>");
  }
}

/* Writes the body of the answer; returns true when latency and faults apply to it. */
static bool dispatch(weft_model_replier *replier, const weft_model_request *request, reply *r) {
  const route *to = find_route(request->path);
  bool head = strcmp(request->method, "HEAD") == 0;
  if (!to) {
    fail(r, 404, "unknown request URL");
  } else if (strcmp(request->method, to->method) != 0 &&
             !(head && strcmp(to->method, "GET") == 0)) {
    r->allow = to->method;
    fail(r, 405, "method not allowed for this URL");
  } else if (to->is_model && !is_authorized(replier->config->api_key, request)) {
    fail(r, 401, "missing or incorrect API key: send it as Authorization: Bearer");
  } else {
    to->answer(replier, request, r);
    return to->is_model;
  }
  return false;
}

/* Heads --------------------------------------------------------------------------------------- */

static void put_header(weft_json_writer *out, const char *name, const char *value) {
  weft_json_put(out, name);
  weft_json_put(out, ": ");
  weft_json_put(out, value);
  weft_json_put(out, "\r\n");
}

static void put_number_header(weft_json_writer *out, const char *name, uint64_t value) {
  weft_json_put(out, name);
  weft_json_put(out, ": ");
  weft_json_put_number(out, value);
  weft_json_put(out, "\r\n");
}

/* Retry-After knows whole seconds only; clients of OpenAI prefer the milliseconds. */
static void put_retry_after(weft_json_writer *out, double seconds) {
  uint64_t milliseconds = (uint64_t)(seconds * 1e3 + 0.5);
  put_number_header(out, "Retry-After", (milliseconds + 999) / 1000);
  put_number_header(out, "retry-after-ms", milliseconds);
}

static void put_head(weft_json_writer *out, const reply *r, uint64_t serial, bool close) {
  weft_json_put(out, "HTTP/1.1 ");
  weft_json_put_number(out, (uint64_t)r->status);
  weft_json_put(out, " ");
  weft_json_put(out, find_status(r->status)->name);
  weft_json_put(out, "\r\n");
  put_header(out, "Content-Type", r->type);
  put_number_header(out, "Content-Length", r->body.out->size);
  put_number_header(out, "x-request-id", serial);
  if (r->retry_after >= 0)
    put_retry_after(out, r->retry_after);
  if (r->allow)
    put_header(out, "Allow", r->allow);
  put_header(out, "Connection", close ? "close" : "keep-alive");
  weft_json_put(out, "\r\n");
}

/* How a fault changes the way an answer is sent; its head ends at `head`. */
static void bend(weft_model_answer *answer, const weft_model_fault *fault, size_t head) {
  size_t body = answer->bytes.size - head;
  answer->faulty = true;
  answer->delay += fault->delay;
  if (fault->kind == WEFT_MODEL_FAULT_RESET) {
    answer->reset = true;
  } else if (fault->kind == WEFT_MODEL_FAULT_TRUNCATE) {
    answer->cut = head + (fault->truncate < body ? fault->truncate : body);
    answer->close = true;
  } else if (fault->kind == WEFT_MODEL_FAULT_STALL) {
    answer->cut = head + body / 2;
    answer->stall = fault->stall;
    answer->close = true;
  }
}

static int assemble(const weft_model_replier *replier, const reply *r, bool head_only,
                    weft_model_answer *answer) {
  weft_json_writer out = {&answer->bytes, r->body.rc};
  put_head(&out, r, replier->serial, answer->close);
  size_t head = answer->bytes.size;
  if (!head_only)
    weft_json_put_bytes(&out, replier->body.data, replier->body.size);
  answer->cut = answer->bytes.size;
  if (r->fault)
    bend(answer, r->fault, head);
  return out.rc;
}

/* Answers ------------------------------------------------------------------------------------- */

void weft_model_replier_init(weft_model_replier *replier, const weft_model_config *config,
                             weft_model_faults *faults) {
  *replier = (weft_model_replier){.config = config, .faults = faults};
  replier->jitter_state = ~config->seed; /* not the row of the random faults */
}

void weft_model_replier_free(weft_model_replier *replier) {
  weft_buf_free(&replier->content);
  weft_buf_free(&replier->body);
}

/* A scratch buffer is used again, unless one huge answer made it huge. */
static void clear_scratch(weft_buf *scratch) {
  if (scratch->capacity > SCRATCH_KEPT)
    weft_buf_free(scratch);
  scratch->size = 0;
}

static reply begin(weft_model_replier *replier) {
  replier->serial++;
  clear_scratch(&replier->content);
  clear_scratch(&replier->body);
  return (reply){.status = 200,
                 .type = "application/json",
                 .retry_after = -1,
                 .body = {&replier->body, WEFT_BUF_OK}};
}

int weft_model_reply(weft_model_replier *replier, const weft_model_request *request,
                     bool keep_alive, weft_model_answer *answer) {
  const weft_model_config *config = replier->config;
  reply r = begin(replier);
  weft_model_fault fault;
  *answer = (weft_model_answer){.close = !keep_alive};
  if (dispatch(replier, request, &r)) {
    answer->delay = config->latency;
    if (config->jitter > 0)
      answer->delay += config->jitter * weft_model_random(&replier->jitter_state);
    if (weft_model_faults_take(replier->faults, request->model, &fault))
      apply_fault(&fault, &r);
  }
  return assemble(replier, &r, strcmp(request->method, "HEAD") == 0, answer);
}

int weft_model_refuse(weft_model_replier *replier, int status, weft_model_answer *answer) {
  reply r = begin(replier);
  *answer = (weft_model_answer){.close = true};
  fail(&r, status, NULL);
  return assemble(replier, &r, false, answer);
}

void weft_model_answer_free(weft_model_answer *answer) {
  weft_buf_free(&answer->bytes);
  *answer = (weft_model_answer){0};
}

/* model_reply.c: routes, keys, faults: decides what the answer to a request is.
 *
 * Owns the speaker. Only the server thread enters. Invariant: a fault meets only requests that are
 * valid and allowed in, so that a mistake of the client is never taken for a fault.
 */
#include "model_reply.h"

#include <math.h>
#include <stdio.h>
#include <time.h>

#include "model_api.h"
#include "model_head.h"
#include "model_random.h"
#include "model_routes.h"
#include "model_timer.h"

/* The making of one answer. */
typedef struct making {
  weft_model_replier *replier;
  const weft_model_request *request;
  weft_model_answer *answer;
  weft_model_turn *turn;  /* the answer's */
  weft_model_fault fault; /* kind NONE without one */
  int64_t date;           /* seconds since 1970 */
  int status;
  const char *type;  /* of the content */
  const char *allow; /* the method that a 405 names, or NULL */
  bool keep_alive, old;
  weft_json_writer body;
} making;

/* Errors -------------------------------------------------------------------------------------- */

static void fail(making *m, const weft_model_failure *failure) {
  m->status = failure->status;
  m->type = "application/json";
  m->answer->streams = false;
  m->answer->body.size = 0;
  m->turn->api->error(failure, m->turn->serial, &m->body);
}

static void fail_with(making *m, int status, const char *message, const char *code) {
  fail(m, &(weft_model_failure){.status = status, .message = message, .code = code});
}

/* Who may ask --------------------------------------------------------------------------------- */

static bool has_key(const weft_model_request *request, weft_model_family family, const char *key) {
  static const char scheme[] = "Bearer ";
  if (family == WEFT_MODEL_ANTHROPIC) {
    const char *sent = weft_model_request_header(request, "x-api-key");
    return sent && strcmp(sent, key) == 0;
  }
  const char *sent = weft_model_request_header(request, "authorization");
  size_t prefix = sizeof scheme - 1;
  return sent && strncmp(sent, scheme, prefix) == 0 && strcmp(sent + prefix, key) == 0;
}

static bool admit(making *m) {
  weft_model_family family = m->turn->ask.family;
  const char *key = m->replier->config->api_key;
  if (key && !has_key(m->request, family, key)) {
    fail_with(m, 401,
              family == WEFT_MODEL_ANTHROPIC
                  ? "invalid x-api-key"
                  : "missing or incorrect API key: send it as Authorization: Bearer",
              NULL);
    return false;
  }
  if (family == WEFT_MODEL_ANTHROPIC &&
      !weft_model_request_header(m->request, "anthropic-version")) {
    fail_with(m, 400, "anthropic-version: header is required", NULL);
    return false;
  }
  return true;
}

/* Faults -------------------------------------------------------------------------------------- */

static weft_model_failure failure_of(const weft_model_fault *fault) {
  return (weft_model_failure){
      .status = fault->status, .message = fault->message, .type = fault->type, .code = fault->code};
}

static void fail_by_fault(making *m) {
  const weft_model_fault *fault = &m->fault;
  weft_model_failure failure = failure_of(fault);
  fail(m, &failure);
  if (fault->body) {
    m->answer->body.size = 0;
    weft_json_put(&m->body, fault->body);
  }
  if (fault->inside)
    m->status = 200;
}

static void send_garbage(making *m) {
  m->answer->body.size = 0;
  weft_json_put(&m->body, "{\"choices\": [{\"message\": <html>this is not JSON</html>");
}

static void send_elsewhere(making *m) {
  m->status = m->fault.status;
  m->answer->streams = false;
  m->answer->body.size = 0;
}

/* What stands around the run of letters in a bomb, by family; plain, and as one event of a stream.
 */
static const char *const bombs[][2][2] = {
    [WEFT_MODEL_OPENAI] =
        {{"{\"object\":\"chat.completion\",\"choices\":[{\"index\":0,\"finish_reason\":\"stop\","
          "\"message\":{\"role\":\"assistant\",\"content\":\"",
          "\"}}]}"},
         {"data: {\"object\":\"chat.completion.chunk\",\"choices\":[{\"index\":0,"
          "\"finish_reason\":\"stop\",\"delta\":{\"content\":\"",
          "\"}}]}\n\ndata: [DONE]\n\n"}},
    [WEFT_MODEL_ANTHROPIC] =
        {{"{\"type\":\"message\",\"role\":\"assistant\",\"stop_reason\":\"end_turn\","
          "\"usage\":{\"input_tokens\":1,\"output_tokens\":1},"
          "\"content\":[{\"type\":\"text\",\"text\":\"",
          "\"}]}"},
         {"event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,"
          "\"delta\":{\"type\":\"text_delta\",\"text\":\"",
          "\"}}\n\nevent: message_stop\ndata: {\"type\":\"message_stop\"}\n\n"}},
    [WEFT_MODEL_OLLAMA] = {{"{\"done\":true,\"done_reason\":\"stop\","
                            "\"message\":{\"role\":\"assistant\",\"content\":\"",
                            "\"}}"},
                           {"{\"done\":true,\"done_reason\":\"stop\","
                            "\"message\":{\"role\":\"assistant\",\"content\":\"",
                            "\"}}\n"}},
};

static void send_bomb(making *m) {
  const char *const *around = bombs[m->turn->ask.family][m->answer->streams];
  m->answer->streams = false;
  m->answer->body.size = 0;
  weft_gzip_bomb(around[0], m->fault.bomb, around[1], &m->body);
}

/* Sets where and how the answer breaks. */
static void set_break(making *m) {
  const weft_model_fault *fault = &m->fault;
  weft_model_break *brk = &m->answer->brk;
  static const weft_model_ending endings[] = {
      [WEFT_MODEL_FAULT_RESET] = WEFT_MODEL_RESET,
      [WEFT_MODEL_FAULT_TRUNCATE] = WEFT_MODEL_CLOSE,
      [WEFT_MODEL_FAULT_STALL] = WEFT_MODEL_STALL,
      [WEFT_MODEL_FAULT_PAUSE] = WEFT_MODEL_MORE,
  };
  *brk = (weft_model_break){.armed = true,
                            .ending = endings[fault->kind],
                            .point = fault->point,
                            .seconds = fault->seconds,
                            .byte = UINT64_MAX};
  bool halfway = fault->point == WEFT_MODEL_IN_BODY || fault->point == WEFT_MODEL_IN_EVENT;
  if (fault->point == WEFT_MODEL_AT_BYTE)
    brk->byte = fault->byte;
  else if (halfway && !m->answer->streams)
    brk->byte = m->answer->body.size / 2;
  else if (halfway)
    brk->after = fault->after >= 0 ? (size_t)fault->after : weft_model_turn_deltas(m->turn) / 2;
}

/* A fault of a stream whose head and first events are good. */
static void set_interruption(making *m, const weft_model_failure *failure) {
  const weft_model_fault *fault = &m->fault;
  m->turn->interruption = (weft_model_interruption){
      .failure = failure,
      .garbage = fault->kind == WEFT_MODEL_FAULT_GARBAGE,
      .named = fault->inside == WEFT_MODEL_INSIDE_NAMED,
      .done = fault->inside == WEFT_MODEL_INSIDE_DONE,
      .after = fault->after >= 0 ? (size_t)fault->after : weft_model_turn_deltas(m->turn) / 2,
  };
}

static void apply_fault(making *m) {
  const weft_model_fault *fault = &m->fault;
  bool streams = m->answer->streams;
  m->answer->faulty = true;
  m->answer->next_pause += fault->delay;
  switch (fault->kind) {
  case WEFT_MODEL_FAULT_STATUS:
    m->turn->failure = failure_of(fault);
    if (streams && fault->inside)
      set_interruption(m, &m->turn->failure);
    else
      fail_by_fault(m);
    break;
  case WEFT_MODEL_FAULT_GARBAGE:
    if (streams)
      set_interruption(m, NULL);
    else
      send_garbage(m);
    break;
  case WEFT_MODEL_FAULT_REDIRECT:
    send_elsewhere(m);
    break;
  case WEFT_MODEL_FAULT_BOMB:
    send_bomb(m);
    break;
  default:
    break;
  }
}

/* Content ------------------------------------------------------------------------------------- */

/* A limit of the server itself is no fault. */
static void refuse_by_quota(making *m) {
  double left = weft_model_quota_reset(&m->replier->quota, weft_model_now());
  fail_with(m, 429, "Rate limit reached for requests or tokens", NULL);
  m->fault = (weft_model_fault){.retry_after = left,
                                .retry_after_ms = -1,
                                .retry_after_date = -1,
                                .should_retry = -1,
                                .style = weft_model_style_none()};
}

static void write_content(making *m) {
  weft_model_turn *turn = m->turn;
  weft_model_task task = turn->ask.task;
  if (task == WEFT_MODEL_TASK_EMBED || task == WEFT_MODEL_TASK_EMBED_ONE) {
    m->turn->api->embed(turn, &m->body);
  } else if (turn->ask.stream) {
    m->answer->streams = true;
    m->type = turn->api->stream_type;
  } else {
    turn->api->plain(turn, &m->body);
  }
}

static void read_dimensions(making *m) {
  size_t asked = m->turn->ask.dimensions;
  m->turn->dimensions = asked ? asked : m->replier->config->dimensions;
}

static double latency(weft_model_replier *replier) {
  const weft_model_config *config = replier->config;
  double seconds = config->latency;
  if (config->jitter > 0)
    seconds += config->jitter * weft_model_random(&replier->jitter_state);
  return seconds;
}

/* Whether the client gets what the model says, sooner or later. */
static bool is_told(const weft_model_fault *fault) {
  bool good = fault->kind == WEFT_MODEL_FAULT_NONE || fault->kind == WEFT_MODEL_FAULT_PAUSE;
  return good && fault->length_off == 0;
}

/* Answers a valid request to a model. */
static void answer_model(making *m) {
  weft_model_replier *replier = m->replier;
  weft_model_turn *turn = m->turn;
  read_dimensions(m);
  m->body.rc = weft_model_speak(&replier->speaker, turn);
  m->answer->next_pause = latency(replier);
  if (!weft_model_quota_take(&replier->quota, turn, weft_model_now())) {
    refuse_by_quota(m);
    return;
  }
  bool faulty = weft_model_faults_take(replier->faults, m->request, turn->ask.stream, &m->fault);
  turn->style = replier->config->style;
  if (faulty)
    turn->style = weft_model_style_merge(turn->style, &m->fault.style);
  write_content(m);
  if (faulty)
    apply_fault(m);
  if (is_told(&m->fault))
    weft_model_spoken(&replier->speaker, turn);
}

static void refuse_unknown_model(making *m) {
  fail_with(m, 404, "the model does not exist or you have no access to it", "model_not_found");
}

static void answer_task(making *m) {
  weft_model_failure failure = {0};
  const char *model = m->request->model;
  int rc = weft_model_ask_read(&m->turn->ask, &failure);
  if (rc != WEFT_BUF_OK)
    m->body.rc = rc;
  else if (failure.status)
    fail(m, &failure);
  else if (!weft_model_exists(m->replier->config, (weft_json_span){model, strlen(model)}))
    refuse_unknown_model(m);
  else
    answer_model(m);
}

static void answer_one(making *m, const weft_model_route *to) {
  weft_json_span name = weft_model_name_in(to, m->request->path);
  if (weft_model_exists(m->replier->config, name))
    weft_model_put_one(m->turn->ask.family, name, &m->body);
  else
    refuse_unknown_model(m);
}

static void answer_health(making *m) {
  m->type = "text/plain";
  weft_json_put(&m->body, "ok");
}

/* For those who may ask. */
static void answer_place(making *m, const weft_model_route *to) {
  switch (to->place) {
  case WEFT_MODEL_PLACE_TASK:
    answer_task(m);
    break;
  case WEFT_MODEL_PLACE_HEALTH:
    answer_health(m);
    break;
  case WEFT_MODEL_PLACE_VERSION:
    weft_json_put(&m->body, "{\"version\":\"0.12.0\"}");
    break;
  case WEFT_MODEL_PLACE_LIST:
    weft_model_put_list(m->replier->config, m->turn->ask.family, &m->body);
    break;
  case WEFT_MODEL_PLACE_ONE:
    answer_one(m, to);
    break;
  }
}

static void dispatch(making *m) {
  const weft_model_route *to = weft_model_find_route(m->request->path);
  bool head = strcmp(m->request->method, "HEAD") == 0;
  m->turn->ask.family = weft_model_family_of(to, m->request);
  m->turn->ask.task = to ? to->task : WEFT_MODEL_TASK_NONE;
  m->turn->api = weft_model_api_of(m->turn->ask.family);
  if (!to) {
    fail_with(m, 404, "unknown request URL", "unknown_url");
  } else if (strcmp(m->request->method, to->method) != 0 &&
             !(head && strcmp(to->method, "GET") == 0)) {
    m->allow = to->method;
    fail_with(m, 405, "method not allowed for this URL", NULL);
  } else if (to->place == WEFT_MODEL_PLACE_HEALTH || admit(m)) {
    answer_place(m, to);
  }
}

/* Heads --------------------------------------------------------------------------------------- */

static void put_status_line(weft_json_writer *out, int status) {
  weft_json_put_pair(out, "HTTP/1.1 ", (uint64_t)status);
  weft_json_put(out, " ");
  weft_json_put(out, weft_model_status_name(status));
  weft_json_put(out, "\r\n");
}

static void put_location(making *m, weft_json_writer *out) {
  const char *to = m->fault.location;
  if (strcmp(to, "same") != 0 && strcmp(to, "other") != 0) {
    weft_model_put_header(out, "Location", to);
    return;
  }
  weft_json_putf(out, "Location: http://%s:%u", to[0] == 's' ? "127.0.0.1" : "localhost",
                 (unsigned)m->replier->port);
  weft_json_put(out, m->request->path);
  weft_json_put(out, "\r\n");
}

static void put_fault_headers(making *m, weft_json_writer *out) {
  weft_model_put_retry_headers(out, &m->fault, m->date);
  if (m->fault.location)
    put_location(m, out);
  weft_model_put_headers(out, m->fault.headers, m->fault.header_count);
}

/* One that is too short by more than there is, is 0. */
static void put_length(weft_json_writer *out, int64_t length) {
  weft_model_put_number_header(out, "Content-Length", length > 0 ? (uint64_t)length : 0);
}

static void put_framing(making *m, weft_json_writer *out) {
  weft_model_answer *answer = m->answer;
  int framing = weft_model_chosen(m->turn->style.framing, WEFT_MODEL_FRAMING_USUAL);
  bool unsized = answer->streams || framing != WEFT_MODEL_FRAMING_USUAL;
  answer->chunked = unsized && framing != WEFT_MODEL_FRAMING_CLOSE && !m->old;
  bool wrong = !unsized && m->fault.length_off != 0;
  answer->close = !m->keep_alive || (unsized && !answer->chunked) || wrong;
  answer->keeps_promise = !weft_model_chosen(m->turn->style.hang_up, 0);
  if (answer->chunked)
    weft_model_put_header(out, "Transfer-Encoding", "chunked");
  else if (!unsized)
    put_length(out, (int64_t)answer->body.size + m->fault.length_off);
  bool told = answer->close && !wrong;
  weft_model_put_header(out, "Connection", told ? "close" : "keep-alive");
}

static void put_date(making *m, weft_json_writer *out) {
  weft_model_replier *replier = m->replier;
  if (replier->date != m->date || replier->date_line.size == 0) {
    weft_json_writer line = {&replier->date_line, WEFT_BUF_OK};
    replier->date_line.size = 0;
    replier->date = m->date;
    weft_model_put_date_header(&line, "Date", m->date);
    if (line.rc != WEFT_BUF_OK)
      replier->date_line.size = 0;
  }
  weft_json_put_bytes(out, replier->date_line.data, replier->date_line.size);
}

static void put_head(making *m) {
  weft_json_writer out = {&m->answer->head, WEFT_BUF_OK};
  const weft_model_config *config = m->replier->config;
  bool model = m->turn->ask.task != WEFT_MODEL_TASK_NONE;
  bool anthropic = m->turn->ask.family == WEFT_MODEL_ANTHROPIC;
  bool compressed = weft_model_chosen(m->turn->style.gzip, 0);
  for (double i = 0; i < m->turn->style.interim && out.rc == WEFT_BUF_OK; i++)
    weft_json_put(&out, "HTTP/1.1 103 Early Hints\r\nLink: </>\r\n\r\n");
  put_status_line(&out, m->status);
  put_date(m, &out);
  weft_model_put_header(&out, "Content-Type", m->type);
  if (compressed || m->fault.kind == WEFT_MODEL_FAULT_BOMB)
    weft_model_put_header(&out, "Content-Encoding", "gzip");
  put_framing(m, &out);
  weft_json_put_pair(&out, anthropic ? "request-id: req_" : "x-request-id: req_", m->turn->serial);
  weft_json_put(&out, "\r\n");
  if (m->allow)
    weft_model_put_header(&out, "Allow", m->allow);
  put_fault_headers(m, &out);
  if (model) {
    weft_model_put_headers(&out, config->headers, config->header_count);
    weft_model_put_quota(&m->replier->quota, m->turn->ask.family, weft_model_now(), m->date, &out);
  }
  weft_json_put(&out, "\r\n");
  if (m->body.rc == WEFT_BUF_OK)
    m->body.rc = out.rc;
}

/* Answers ------------------------------------------------------------------------------------- */

int weft_model_replier_init(weft_model_replier *replier, const weft_model_config *config,
                            weft_model_faults *faults) {
  *replier = (weft_model_replier){.config = config, .faults = faults};
  replier->jitter_state = ~config->seed; /* not the row of the random faults */
  weft_model_quota_init(&replier->quota, config);
  return weft_model_speaker_init(&replier->speaker, config);
}

void weft_model_replier_free(weft_model_replier *replier) {
  weft_model_speaker_free(&replier->speaker);
  weft_buf_free(&replier->date_line);
}

static making begin(weft_model_replier *replier, weft_model_answer *answer) {
  weft_model_turn *turn = &answer->turn;
  turn->serial = ++replier->serial;
  turn->created = time(NULL);
  turn->style = weft_model_style_none();
  turn->api = &weft_model_openai_api;
  return (making){.replier = replier,
                  .answer = answer,
                  .turn = turn,
                  .fault = weft_model_no_fault(),
                  .date = turn->created,
                  .status = 200,
                  .type = "application/json",
                  .body = {&answer->body, WEFT_BUF_OK}};
}

/* Ends the making: compresses what is whole, frames it, and sets the break. */
static int complete(making *m, bool head_only) {
  weft_model_answer *answer = m->answer;
  bool whole = !answer->streams && m->fault.kind != WEFT_MODEL_FAULT_BOMB;
  if (whole && weft_model_chosen(m->turn->style.gzip, 0) && m->body.rc == WEFT_BUF_OK)
    m->body.rc = weft_gzip_pack(&answer->gzip, &answer->body, true);
  put_head(m);
  if (m->fault.kind >= WEFT_MODEL_FAULT_RESET && m->fault.kind <= WEFT_MODEL_FAULT_PAUSE)
    set_break(m);
  if (head_only) {
    answer->body.size = 0;
    answer->streams = answer->chunked = false;
  }
  return m->body.rc;
}

int weft_model_reply(weft_model_replier *replier, const weft_model_request *request,
                     bool keep_alive, bool old, weft_model_answer *answer) {
  making m = begin(replier, answer);
  m.request = m.turn->ask.request = request;
  m.keep_alive = keep_alive;
  m.old = old;
  dispatch(&m);
  return complete(&m, strcmp(request->method, "HEAD") == 0);
}

int weft_model_refuse(weft_model_replier *replier, int status, weft_model_answer *answer) {
  making m = begin(replier, answer);
  fail_with(&m, status, NULL, NULL);
  return complete(&m, false);
}

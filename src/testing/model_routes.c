/* model_routes.c: the table of paths, and models as each API lists them.
 *
 * Owns only constant tables. Only the server thread enters. Invariant: the first route that a path
 * ends with is taken, so what is longer stands first.
 */
#include "model_routes.h"

static const weft_model_route routes[] = {
    {"POST", "/api/chat", WEFT_MODEL_OLLAMA, WEFT_MODEL_PLACE_TASK, WEFT_MODEL_TASK_CHAT},
    {"POST", "/api/generate", WEFT_MODEL_OLLAMA, WEFT_MODEL_PLACE_TASK, WEFT_MODEL_TASK_GENERATE},
    {"POST", "/api/embed", WEFT_MODEL_OLLAMA, WEFT_MODEL_PLACE_TASK, WEFT_MODEL_TASK_EMBED},
    {"POST", "/api/embeddings", WEFT_MODEL_OLLAMA, WEFT_MODEL_PLACE_TASK,
     WEFT_MODEL_TASK_EMBED_ONE},
    {"GET", "/api/tags", WEFT_MODEL_OLLAMA, WEFT_MODEL_PLACE_LIST, WEFT_MODEL_TASK_NONE},
    {"GET", "/api/version", WEFT_MODEL_OLLAMA, WEFT_MODEL_PLACE_VERSION, WEFT_MODEL_TASK_NONE},
    {"POST", "/messages", WEFT_MODEL_ANTHROPIC, WEFT_MODEL_PLACE_TASK, WEFT_MODEL_TASK_CHAT},
    {"POST", "/messages/count_tokens", WEFT_MODEL_ANTHROPIC, WEFT_MODEL_PLACE_TASK,
     WEFT_MODEL_TASK_COUNT},
    {"POST", "/chat/completions", WEFT_MODEL_OPENAI, WEFT_MODEL_PLACE_TASK, WEFT_MODEL_TASK_CHAT},
    {"POST", "/embeddings", WEFT_MODEL_OPENAI, WEFT_MODEL_PLACE_TASK, WEFT_MODEL_TASK_EMBED},
    {"GET", "/models", WEFT_MODEL_OPENAI, WEFT_MODEL_PLACE_LIST, WEFT_MODEL_TASK_NONE},
    {"GET", "/health", WEFT_MODEL_OPENAI, WEFT_MODEL_PLACE_HEALTH, WEFT_MODEL_TASK_NONE},
    {"GET", "/models/", WEFT_MODEL_OPENAI, WEFT_MODEL_PLACE_ONE, WEFT_MODEL_TASK_NONE},
};

static size_t path_size(const char *path) {
  return strcspn(path, "?");
}

/* Where the name begins; NULL when the path has none. */
static const char *name_in(const char *prefix, const char *path) {
  const char *at = strstr(path, prefix);
  return at && at < path + path_size(path) ? at + strlen(prefix) : NULL;
}

static bool is_route(const weft_model_route *route, const char *path) {
  if (route->place == WEFT_MODEL_PLACE_ONE)
    return name_in(route->path, path) != NULL;
  size_t size = path_size(path), suffix = strlen(route->path);
  return size >= suffix && memcmp(path + size - suffix, route->path, suffix) == 0;
}

const weft_model_route *weft_model_find_route(const char *path) {
  for (size_t i = 0; i < sizeof routes / sizeof *routes; i++)
    if (is_route(&routes[i], path))
      return &routes[i];
  return NULL;
}

weft_model_family weft_model_family_of(const weft_model_route *route,
                                       const weft_model_request *request) {
  bool told =
      route && (route->place == WEFT_MODEL_PLACE_TASK || route->family != WEFT_MODEL_OPENAI);
  if (told)
    return route->family;
  if (weft_model_request_header(request, "anthropic-version"))
    return WEFT_MODEL_ANTHROPIC;
  return strncmp(request->path, "/api/", 5) == 0 ? WEFT_MODEL_OLLAMA : WEFT_MODEL_OPENAI;
}

/* Models -------------------------------------------------------------------------------------- */

bool weft_model_exists(const weft_model_config *config, weft_json_span name) {
  for (size_t i = 0; i < config->model_count; i++)
    if (strlen(config->models[i]) == name.size &&
        memcmp(config->models[i], name.text, name.size) == 0)
      return true;
  return config->models == NULL;
}

weft_json_span weft_model_name_in(const weft_model_route *route, const char *path) {
  const char *name = name_in(route->path, path);
  return (weft_json_span){name, (size_t)(path + path_size(path) - name)};
}

void weft_model_put_one(weft_model_family family, weft_json_span name, weft_json_writer *out) {
  static const char *const shapes[][3] = {
      [WEFT_MODEL_OPENAI] = {"{\"id\":", NULL,
                             ",\"object\":\"model\",\"created\":1735689600,\"owned_by\":\"weft\"}"},
      [WEFT_MODEL_ANTHROPIC] = {"{\"type\":\"model\",\"id\":", ",\"display_name\":",
                                ",\"created_at\":\"2025-01-01T00:00:00Z\"}"},
      [WEFT_MODEL_OLLAMA] =
          {"{\"name\":", ",\"model\":",
           ",\"modified_at\":\"2025-01-01T00:00:00Z\",\"size\":1,\"details\":{}}"},
  };
  const char *const *shape = shapes[family];
  weft_json_put(out, shape[0]);
  weft_json_put_string(out, name.text, name.size);
  if (shape[1]) {
    weft_json_put(out, shape[1]);
    weft_json_put_string(out, name.text, name.size);
  }
  weft_json_put(out, shape[2]);
}

void weft_model_put_list(const weft_model_config *config, weft_model_family family,
                         weft_json_writer *out) {
  static const char *const built_in[] = {"mock-sentiment", "mock-topic", "mock-summary"};
  static const char *const begins[] = {"{\"object\":\"list\",\"data\":[", "{\"data\":[",
                                       "{\"models\":["};
  static const char *const ends[] = {
      "]}", "],\"has_more\":false,\"first_id\":null,\"last_id\":null}", "]}"};
  const char *const *models = config->models ? config->models : built_in;
  size_t count = config->models ? config->model_count : sizeof built_in / sizeof *built_in;
  weft_json_put(out, begins[family]);
  for (size_t i = 0; i < count; i++) {
    weft_json_put(out, i ? "," : "");
    weft_model_put_one(family, (weft_json_span){models[i], strlen(models[i])}, out);
  }
  weft_json_put(out, ends[family]);
}

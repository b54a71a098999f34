/* model_routes.h: which path is what, and the lists of models.
 *
 * Nothing here keeps state or blocks.
 */
#ifndef WEFT_TESTING_MODEL_ROUTES_H
#define WEFT_TESTING_MODEL_ROUTES_H

#include "model_ask.h"

typedef enum weft_model_place {
  WEFT_MODEL_PLACE_TASK, /* a model does what the task says */
  WEFT_MODEL_PLACE_HEALTH,
  WEFT_MODEL_PLACE_VERSION, /* Ollama's */
  WEFT_MODEL_PLACE_LIST,    /* all models */
  WEFT_MODEL_PLACE_ONE,     /* one of them, named at the end of the path */
} weft_model_place;

typedef struct weft_model_route {
  const char *method;
  const char *path; /* how it ends, before its query; of PLACE_ONE: what stands before the name */
  weft_model_family family;
  weft_model_place place;
  weft_model_task task;
} weft_model_route;

/* NULL: there is no such path. */
const weft_model_route *weft_model_find_route(const char *path);
/* In whose shape an answer is: of the route, or by the request when that does not tell. */
weft_model_family weft_model_family_of(const weft_model_route *route,
                                       const weft_model_request *request);

/* Whether there is a model of this name. */
bool weft_model_exists(const weft_model_config *config, weft_json_span name);
/* The name at the end of a path of PLACE_ONE. */
weft_json_span weft_model_name_in(const weft_model_route *route, const char *path);
void weft_model_put_one(weft_model_family family, weft_json_span name, weft_json_writer *out);
void weft_model_put_list(const weft_model_config *config, weft_model_family family,
                         weft_json_writer *out);

#endif

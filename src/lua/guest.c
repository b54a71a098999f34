/* guest.c: callers from an event loop which is not ours: their parks, and the contexts of requests.
 *
 * Owns the guests of one Lua state and a record for each request that has used weft. Entered by the
 * state's thread; other threads reach it through the scheduler's inbox. Invariants: a guest is
 * free, or the next one, or parked, or woken (and in the list of those until it is taken), or about
 * to go on; a request that goes leaves no parked guest behind.
 */
#include "guest.h"

#include "errors.h"
#include "fibers.h"
#include "mem.h"
#include "platform.h"
#include "signals.h"
#include "ptrmap.h"
#include "state.h"

enum { REQUEST_BUCKETS = 256 };

typedef struct override {
  struct override *next;
  lua_State *L;
  const void *entered_by; /* the function that leaves when it returns */
  weft_context *context;  /* retained */
} override;

typedef struct request {
  struct request *next;      /* in its bucket */
  weft_scheduler *scheduler; /* NULL: the state has closed */
  void *key;
  weft_context *context; /* retained; NULL once the state has closed */
  weft_guest *guests;
  weft_guest_task *tasks;
  override *overrides;
} request;

struct weft_guest {
  weft_fiber fiber; /* first */
  weft_scheduler *scheduler;
  weft_parcel slot; /* what it sends or receives; empty unless it is blocked in that */
  request *request; /* while it waits; may be NULL */
  weft_guest *next_of_request, *previous_of_request;
  weft_guest *next, *previous; /* free, or woken */
  uint32_t number;
  uint8_t is_woken; /* in the list of the woken */
};

struct weft_guests {
  const weft_guest_loop *loop;
  weft_guest **all; /* by number - 1 */
  uint32_t count, capacity;
  weft_guest *free;
  weft_guest *spare[2]; /* whom the next call parks: one that cannot yield, one that can */
  weft_guest **next;    /* of these two, for the call that runs */
  weft_guest *last;     /* who went on last: its park may still be read */
  weft_guest *woken_first, *woken_last;
  uint32_t waiting;
  uint32_t process; /* whose the inbox is */
  uint8_t ends_when_idle;
  weft_error *gone; /* the cause when a request is gone */
  request *requests[REQUEST_BUCKETS];
};

/* ---- guests ---- */

static weft_guest *new_guest(weft_scheduler *scheduler) {
  weft_guests *guests = scheduler->guests;
  if (guests->count == guests->capacity) {
    uint32_t capacity = guests->capacity ? guests->capacity * 2 : 16;
    weft_guest **grown = weft_realloc(guests->all, capacity * sizeof *grown);
    if (!grown)
      return NULL;
    guests->all = grown;
    guests->capacity = capacity;
  }
  weft_guest *guest = weft_calloc(1, sizeof *guest);
  if (!guest)
    return NULL;
  guest->scheduler = scheduler;
  guest->fiber.is_guest = 1;
  weft_parcel_init(&guest->slot);
  guests->all[guests->count++] = guest;
  guest->number = guests->count;
  return guest;
}

static weft_guest *take_guest(weft_scheduler *scheduler) {
  weft_guest *guest = scheduler->guests->free;
  if (!guest)
    return new_guest(scheduler);
  scheduler->guests->free = guest->next;
  return guest;
}

static void give_guest_back(weft_guests *guests, weft_guest *guest) {
  guest->fiber.state = WEFT_FIBER_IDLE;
  guest->next = guests->free;
  guests->free = guest;
}

static weft_guest *guest_of(weft_scheduler *scheduler, uint32_t number) {
  weft_guests *guests = scheduler->guests;
  return number - 1 < guests->count ? guests->all[number - 1] : NULL;
}

static void link_woken(weft_guests *guests, weft_guest *guest) {
  guest->is_woken = 1;
  guest->next = NULL;
  guest->previous = guests->woken_last;
  *(guests->woken_last ? &guests->woken_last->next : &guests->woken_first) = guest;
  guests->woken_last = guest;
}

static void unlink_woken(weft_guests *guests, weft_guest *guest) {
  if (!guest->is_woken)
    return;
  guest->is_woken = 0;
  *(guest->previous ? &guest->previous->next : &guests->woken_first) = guest->next;
  *(guest->next ? &guest->next->previous : &guests->woken_last) = guest->previous;
}

/* It waits no more: whoever serves the loop may be waiting for the last one. */
static void leave(weft_guest *guest) {
  weft_scheduler *scheduler = guest->scheduler;
  weft_guests *guests = scheduler->guests;
  unlink_woken(guests, guest);
  if (guest->request) {
    *(guest->previous_of_request ? &guest->previous_of_request->next_of_request
                                 : &guest->request->guests) = guest->next_of_request;
    if (guest->next_of_request)
      guest->next_of_request->previous_of_request = guest->previous_of_request;
    guest->request = NULL;
  }
  if (--guests->waiting == 0 && guests->ends_when_idle)
    weft_parker_unpark(&scheduler->inbox->parker);
}

static void abandon(weft_guest *guest) {
  if (guest->fiber.state == WEFT_FIBER_PARKED)
    weft_fiber_abandon(guest->scheduler, &guest->fiber);
  else
    weft_park_abandon(&guest->fiber.park);
  leave(guest);
  give_guest_back(guest->scheduler->guests, guest);
}

/* ---- requests ---- */

static request **bucket_of(weft_guests *guests, const void *key) {
  return &guests->requests[weft_ptr_hash(key) % REQUEST_BUCKETS];
}

static request *find_request(weft_guests *guests, const void *key) {
  request *found = key ? *bucket_of(guests, key) : NULL;
  while (found && found->key != key)
    found = found->next;
  return found;
}

static void drop_override(override *gone) {
  weft_context_release(gone->context);
  weft_free(gone);
}

static void abandon_all(request *self) {
  while (self->guests)
    abandon(self->guests);
  while (self->tasks)
    weft_guest_task_lose(self->tasks);
}

/* Called by the loop, outside of Lua: nothing here touches the Lua state. */
static void request_ended(void *arg) {
  request *self = arg;
  abandon_all(self);
  if (self->scheduler) {
    request **link = bucket_of(self->scheduler->guests, self->key);
    while (*link != self)
      link = &(*link)->next;
    *link = self->next;
    weft_context_cancel(self->context, self->scheduler->guests->gone);
    weft_context_release(self->context);
  }
  while (self->overrides) {
    override *gone = self->overrides;
    self->overrides = gone->next;
    drop_override(gone);
  }
  weft_free(self);
}

/* NULL: what the caller of L works for does not end, or cannot be watched. */
static request *new_request(weft_scheduler *scheduler, lua_State *L, void *key) {
  request *self = weft_calloc(1, sizeof *self);
  weft_context *context = self ? weft_context_with_cancel(weft_background()) : NULL;
  if (!context) {
    weft_free(self);
    luaL_error(L, "not enough memory");
  }
  *self = (request){.scheduler = scheduler, .key = key, .context = context};
  if (!scheduler->guests->loop->watch_end(L, key, request_ended, self)) {
    weft_context_release(context);
    weft_free(self);
    return NULL;
  }
  request **bucket = bucket_of(scheduler->guests, key);
  self->next = *bucket;
  *bucket = self;
  return self;
}

static request *request_of(weft_scheduler *scheduler, lua_State *L) {
  void *key = scheduler->guests->loop->request_of(L);
  request *found = find_request(scheduler->guests, key);
  return found || !key ? found : new_request(scheduler, L, key);
}

const void *weft_guests_table(weft_scheduler *scheduler, lua_State *L) {
  return scheduler->guests ? scheduler->guests->loop->table_of(L) : NULL;
}

int weft_guests_may_start(weft_scheduler *scheduler, lua_State *L) {
  return scheduler->guests->loop->request_of(L) != NULL;
}

static const void *function_at(lua_State *L, int level) {
  lua_Debug frame;
  if (!lua_getstack(L, level, &frame))
    return NULL;
  lua_getinfo(L, "f", &frame);
  const void *function = lua_topointer(L, -1);
  lua_pop(L, 1);
  return function;
}

/* A coroutine that was killed did not leave, and may since have been made another one. */
static int is_entered(lua_State *L, const override *entry) {
  const void *function;
  for (int level = 0; (function = function_at(L, level)) != NULL; level++)
    if (function == entry->entered_by)
      return 1;
  return 0;
}

weft_context *weft_guests_context(weft_scheduler *scheduler, lua_State *L) {
  request *found = request_of(scheduler, L);
  if (!found)
    return weft_background();
  for (override **link = &found->overrides, *entry; (entry = *link) != NULL;) {
    if (entry->L == L && is_entered(L, entry))
      return entry->context;
    if (entry->L == L) {
      *link = entry->next;
      drop_override(entry);
    } else {
      link = &entry->next;
    }
  }
  return found->context;
}

int weft_guests_enter(weft_scheduler *scheduler, lua_State *L, weft_context *context) {
  request *found = request_of(scheduler, L);
  override *entry = found ? weft_malloc(sizeof *entry) : NULL;
  if (!entry)
    return 0;
  *entry = (override){found->overrides, L, function_at(L, 1), weft_context_retain(context)};
  found->overrides = entry;
  return 1;
}

void weft_guests_leave(weft_scheduler *scheduler, lua_State *L) {
  request *found = find_request(scheduler->guests, scheduler->guests->loop->request_of(L));
  override **link = found ? &found->overrides : NULL;
  while (link && *link && (*link)->L != L)
    link = &(*link)->next;
  if (!link || !*link)
    return;
  override *gone = *link;
  *link = gone->next;
  drop_override(gone);
}

void weft_guests_link_task(weft_guest_task *self, lua_State *L) {
  request *found = request_of(self->scheduler, L);
  if (!found)
    return;
  self->next = found->tasks;
  self->link = &found->tasks;
  if (self->next)
    self->next->link = &self->next;
  found->tasks = self;
}

void weft_guests_unlink_task(weft_guest_task *self) {
  if (!self->link)
    return;
  *self->link = self->next;
  if (self->next)
    self->next->link = self->link;
  self->link = NULL;
}

void weft_guests_cancel_requests(weft_scheduler *scheduler, weft_error *cause) {
  for (int i = 0; i < REQUEST_BUCKETS; i++)
    for (request *self = scheduler->guests->requests[i]; self; self = self->next)
      weft_context_cancel(self->context, cause);
}

/* ---- life ---- */

weft_guests *weft_guests_new(const weft_guest_loop *loop) {
  weft_guests *guests = weft_calloc(1, sizeof *guests);
  if (!guests)
    return NULL;
  weft_process_watch_forks();
  weft_signals_leave_alone();
  guests->loop = loop;
  guests->gone = weft_error_new("canceled", "the request has ended");
  return guests;
}

static void close_request(request *self) {
  abandon_all(self);
  weft_context_cancel(self->context, self->scheduler->guests->gone);
  weft_context_release(self->context);
  self->context = NULL;
  self->scheduler = NULL; /* the record itself goes with the request */
}

void weft_guests_free(weft_scheduler *scheduler) {
  weft_guests *guests = scheduler->guests;
  for (int i = 0; i < REQUEST_BUCKETS; i++)
    for (request *self = guests->requests[i], *next; self; self = next) {
      next = self->next;
      close_request(self);
    }
  for (uint32_t i = 0; i < guests->count; i++)
    if (guests->all[i]->fiber.state != WEFT_FIBER_IDLE)
      abandon(guests->all[i]);
  for (uint32_t i = 0; i < guests->count; i++) {
    weft_parcel_clear(&guests->all[i]->slot);
    weft_free(guests->all[i]);
  }
  weft_error_release(guests->gone);
  weft_free(guests->all);
  weft_free(guests);
  scheduler->guests = NULL;
}

/* ---- blocking calls ---- */

/* An inbox from before a fork is left to the parent. */
static int has_inbox(weft_scheduler *scheduler) {
  weft_guests *guests = scheduler->guests;
  if (scheduler->inbox && guests->process == weft_process_generation())
    return 1;
  guests->process = weft_process_generation();
  scheduler->inbox = weft_inbox_acquire(WEFT_INBOX_LOOP);
  return scheduler->inbox != NULL;
}

/* A finalizer, which cannot yield, leaves the guest alone of the call that the collector has
 * interrupted. */
void weft_guests_ready(weft_scheduler *scheduler, lua_State *L) {
  weft_guests *guests = scheduler->guests;
  guests->next = &guests->spare[lua_isyieldable(L) != 0];
  if (!*guests->next)
    *guests->next = take_guest(scheduler);
  if (!*guests->next || !has_inbox(scheduler))
    luaL_error(L, "not enough memory");
}

weft_fiber *weft_guests_next(weft_scheduler *scheduler) {
  return &(*scheduler->guests->next)->fiber;
}

weft_parcel *weft_guests_slot(weft_scheduler *scheduler) {
  weft_parcel *slot = &(*scheduler->guests->next)->slot;
  weft_parcel_clear(slot);
  return slot;
}

void weft_guest_wake(weft_wait *wait) {
  weft_inbox_push(((weft_guest *)wait)->scheduler->inbox, wait);
}

void weft_guest_unparked(weft_fiber *fiber) {
  weft_guest *guest = (weft_guest *)fiber;
  fiber->state = WEFT_FIBER_READY;
  link_woken(guest->scheduler->guests, guest);
}

/* Its memory is read until the next one goes on: finishing may raise. */
static int finish(lua_State *L, weft_guest *guest) {
  weft_guests *guests = guest->scheduler->guests;
  leave(guest);
  if (guests->last)
    give_guest_back(guests, guests->last);
  guests->last = guest;
  guest->fiber.state = WEFT_FIBER_IDLE;
  return weft_park_finish(L, &guest->fiber.park);
}

/* Who cannot yield does not wait; but what came in this very moment counts. */
static int turn_away(lua_State *L, weft_guest *guest) {
  weft_scheduler *scheduler = guest->scheduler;
  const weft_park_op *op = guest->fiber.park.op;
  if (weft_guest_withdraw(scheduler, guest->number))
    return scheduler->guests->loop->turn_away(L, op);
  return finish(L, guest);
}

int weft_guest_wait(weft_state *state, lua_State *L, weft_park *park) {
  weft_scheduler *scheduler = &state->scheduler;
  weft_guests *guests = scheduler->guests;
  weft_guest *guest = (weft_guest *)park;
  guest->fiber.co = L;
  guests->spare[guests->spare[1] == guest] = NULL; /* the next call takes one, where it may raise */
  guests->waiting++;
  guest->request = find_request(guests, guests->loop->request_of(L));
  guest->previous_of_request = guest->next_of_request = NULL;
  if (guest->request) {
    guest->next_of_request = guest->request->guests;
    if (guest->next_of_request)
      guest->next_of_request->previous_of_request = guest;
    guest->request->guests = guest;
  }
  if (!lua_isyieldable(L))
    return turn_away(L, guest);
  lua_pushlightuserdata(L, (void *)&weft_block_token);
  weft_push_integer(L, guest->number);
  return 2;
}

/* ---- for the shims, and for who serves the loop ---- */

int weft_guest_continue(lua_State *L) {
  weft_guest *guest = guest_of(&WEFT_STATE(L)->scheduler, (uint32_t)lua_tonumber(L, 2));
  if (!guest || guest->fiber.state != WEFT_FIBER_READY)
    return luaL_error(L, "weft: a caller went on that nobody woke");
  lua_settop(L, 1);
  int rc = finish(L, guest);
  if (rc != WEFT_AGAIN)
    return rc;
  lua_pushlightuserdata(L, (void *)&weft_again_token);
  return 1;
}

uint32_t weft_guests_take(weft_scheduler *scheduler) {
  weft_guests *guests = scheduler->guests;
  if (!guests->woken_first)
    weft_scheduler_take_inbox(scheduler);
  weft_guest *guest = guests->woken_first;
  if (!guest)
    return 0;
  unlink_woken(guests, guest);
  return guest->number;
}

int weft_guest_withdraw(weft_scheduler *scheduler, uint32_t number) {
  weft_guest *guest = guest_of(scheduler, number);
  if (weft_wait_claim(&guest->fiber.park.wait, WEFT_PARK_ABANDONED)) {
    weft_fiber_unpark(scheduler, &guest->fiber);
    abandon(guest);
    return 1;
  }
  while (guest->fiber.state == WEFT_FIBER_PARKED) /* it is claimed, and only has to be pushed */
    if (!weft_scheduler_take_inbox(scheduler))
      weft_cpu_relax();
  unlink_woken(scheduler->guests, guest);
  return 0;
}

void weft_guest_drop(weft_scheduler *scheduler, uint32_t number) {
  weft_guest *guest = guest_of(scheduler, number);
  if (guest && guest->fiber.state == WEFT_FIBER_READY)
    abandon(guest);
}

void weft_guests_abandon(weft_scheduler *scheduler, const void *object) {
  weft_guests *guests = scheduler->guests;
  for (uint32_t i = 0; i < guests->count; i++) {
    weft_guest *guest = guests->all[i];
    if (guest->fiber.state == WEFT_FIBER_PARKED && guest->fiber.park.object == object)
      abandon(guest);
  }
}

void weft_guests_each(weft_scheduler *scheduler, void (*visit)(weft_fiber *, void *), void *arg) {
  weft_guests *guests = scheduler->guests;
  for (uint32_t i = 0; i < guests->count; i++)
    if (guests->all[i]->fiber.state == WEFT_FIBER_PARKED)
      visit(&guests->all[i]->fiber, arg);
}

uint32_t weft_guests_waiting(weft_scheduler *scheduler) {
  return scheduler->guests->waiting;
}

void weft_guests_end_when_idle(weft_scheduler *scheduler) {
  scheduler->guests->ends_when_idle = 1;
  if (scheduler->inbox)
    weft_parker_unpark(&scheduler->inbox->parker);
}

int weft_guests_shall_end(weft_scheduler *scheduler) {
  return scheduler->guests->ends_when_idle && scheduler->guests->waiting == 0;
}

/* weft.h: the public interface of weft's C core: structured concurrency on native threads.
 *
 * The core knows no Lua. Conventions, unless a function says otherwise:
 *  - any thread may call it, and it does not block;
 *  - pointers given stay the caller's; handles returned carry one reference, the caller's, given
 *    back with the matching _release (NULL is allowed there);
 *  - functions that can fail for want of memory or threads return NULL or a negative WEFT_ code;
 *  - times are seconds (double) in parameters, nanoseconds (_ns) inside.
 */
#ifndef WEFT_H
#define WEFT_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define WEFT_VERSION "0.1.0"

enum {
  WEFT_OK = 0,
  WEFT_CLOSED = -1,   /* the channel, pool or group takes no more */
  WEFT_CANCELED = -2, /* the context is done: weft_context_error tells why */
  WEFT_WOULD_WAIT = -3,
  WEFT_NOMEM = -4,
  WEFT_NOTHREAD = -5,   /* a native thread could not be started */
  WEFT_TOO_LARGE = -6,  /* more than can ever be had */
  WEFT_FORKED = -7,     /* made in the parent process, used after a fork */
  WEFT_BELOW_ZERO = -8, /* more is given back or done than there was */
  WEFT_TOO_LATE = -9,   /* the context's deadline would come first */
  WEFT_FULL = -10,      /* there is no room for more, and waiting would not help */
  WEFT_CHANGED = -11,   /* somebody else was first */
};
/* A sentence for a code above. The text is constant. */
const char *weft_strerror(int code);

/* ---- errors: immutable, refcounted ---- */

typedef struct weft_error weft_error;
/* `kind` is a word such as "canceled"; both texts are copied. Never NULL: without memory it is a
 * constant "nomem" error. */
weft_error *weft_error_new(const char *kind, const char *message);
weft_error *weft_error_newf(const char *kind, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
weft_error *weft_error_retain(weft_error *error);
void weft_error_release(weft_error *error);
const char *weft_error_kind(const weft_error *error);    /* lives as long as the error */
const char *weft_error_message(const weft_error *error); /* lives as long as the error */

/* ---- contexts: a cancel tree with deadlines, after Go's context ---- */

typedef struct weft_context weft_context;
/* The root: never done. Borrowed: it need not be released. */
weft_context *weft_background(void);
/* A child that is done when it is cancelled or its parent is. NULL: no memory. */
weft_context *weft_context_with_cancel(weft_context *parent);
/* A child that is also done at `deadline_ns` (monotonic, see weft_now_ns), then with `cause` (may
 * be NULL; retained). An earlier deadline of the parent stays in force. */
weft_context *weft_context_with_deadline(weft_context *parent, uint64_t deadline_ns,
                                         weft_error *cause);
weft_context *weft_context_with_timeout(weft_context *parent, double seconds, weft_error *cause);
/* A child that keeps deadline-free and alive when the parent is cancelled; values are still found.
 */
weft_context *weft_context_without_cancel(weft_context *parent);
weft_context *weft_context_retain(weft_context *context);
/* The last release cancels nothing: children keep their parent alive. */
void weft_context_release(weft_context *context);
/* Makes the context and all its descendants done before it returns. `cause` may be NULL; retained.
 * Only the first call has an effect. Cancelling the background does nothing. */
void weft_context_cancel(weft_context *context, weft_error *cause);
int weft_context_is_done(weft_context *context);
/* NULL while it is not done; else an error of kind "canceled" or "deadline", with a reference for
 * the caller. */
weft_error *weft_context_error(weft_context *context);
/* Why: what was given to cancel, to the deadline or to the ancestor that was; else the same as
 * weft_context_error. With a reference for the caller; NULL while not done. */
weft_error *weft_context_cause(weft_context *context);
/* The deadline in force, or UINT64_MAX for none. */
uint64_t weft_context_deadline_ns(weft_context *context);
uint64_t weft_now_ns(void);
/* Blocks the calling native thread for `seconds` or until the context is done (WEFT_CANCELED). */
int weft_sleep(weft_context *context, double seconds);

/* ---- pools: native threads, started on demand ---- */

typedef struct weft_pool weft_pool;
typedef struct weft_pool_config {
  const char *name; /* shown as the threads' name; copied; NULL: "weft" */
  uint32_t threads; /* at most so many; 0: one a processor */
  uint32_t queue;   /* tasks that may wait for a thread; 0: no limit */
  int nice;         /* added to the threads' nice value */
} weft_pool_config;
/* A pool that runs C functions. NULL: no memory. Threads start with the first tasks. */
weft_pool *weft_pool_new(const weft_pool_config *config);
/* Gives the caller's reference back; when tasks are still queued or running they are finished
 * first, in the background, then the threads end. */
void weft_pool_release(weft_pool *pool);
/* Takes no more tasks and waits until all are finished and the threads have ended, `seconds` at the
 * most (negative: for ever). Blocks the calling native thread. WEFT_OK or WEFT_WOULD_WAIT. */
int weft_pool_close(weft_pool *pool, double seconds);

/* ---- groups: Go's errgroup ---- */

typedef struct weft_group weft_group;
/* A group whose tasks run on `pool` under a child of `parent`; both are retained. `limit`: tasks
 * that may run at once, 0 for no limit. NULL: no memory. */
weft_group *weft_group_new(weft_context *parent, weft_pool *pool, uint32_t limit);
/* What a task of the C API is: returns NULL, or an error whose reference the group takes over; the
 * first one cancels the group's context. Runs on a thread of the pool and may block it. */
typedef weft_error *(*weft_task_fn)(weft_context *context, void *arg);
/* Starts fn(context, arg). While the limit is reached or the pool's queue is full it blocks the
 * calling native thread. WEFT_OK, WEFT_CANCELED, WEFT_CLOSED, WEFT_NOMEM, WEFT_NOTHREAD,
 * WEFT_FORKED. `arg` must outlive the task when WEFT_OK was returned. */
int weft_group_go(weft_group *group, weft_task_fn fn, void *arg);
/* The same, but WEFT_WOULD_WAIT instead of blocking. */
int weft_group_try_go(weft_group *group, weft_task_fn fn, void *arg);
/* Blocks the calling native thread until every task has ended. Returns the first error, with a
 * reference for the caller, or NULL. */
weft_error *weft_group_wait(weft_group *group);
/* The group's context; borrowed. */
weft_context *weft_group_context(weft_group *group);
void weft_group_cancel(weft_group *group, weft_error *cause);
/* Cancels what still runs, waits for it (blocks) and frees the group. */
void weft_group_close(weft_group *group);

/* ---- channels: values between threads, with Go's rules ---- */

typedef struct weft_channel weft_channel;
/* `capacity` 0: a rendezvous. The memory for all values is reserved at once. NULL: no memory. */
weft_channel *weft_channel_new(uint32_t capacity);
/* What a send does when the channel is full: it waits; drops the oldest value (which needs a
 * capacity of at least 1); or drops its own and says WEFT_FULL. */
enum { WEFT_BLOCK, WEFT_DROP_OLD, WEFT_DROP_NEW };
weft_channel *weft_channel_new_with(uint32_t capacity, int overflow);
weft_channel *weft_channel_retain(weft_channel *channel);
/* The last one drops the values that are still held. */
void weft_channel_release(weft_channel *channel);
/* Sends a copy of `size` bytes. Blocks the calling native thread until there is room or, at
 * capacity 0, a receiver. WEFT_OK, WEFT_CLOSED, WEFT_CANCELED, WEFT_NOMEM, WEFT_TOO_LARGE,
 * WEFT_FULL. */
int weft_channel_send(weft_context *context, weft_channel *channel, const void *bytes, size_t size);
/* Blocks the calling native thread until there is a value: `*size` (may be NULL) is its length,
 * and at most `capacity` bytes are copied to `buffer`; the rest is lost. WEFT_OK, WEFT_CANCELED,
 * or WEFT_CLOSED when it is closed and empty. */
int weft_channel_recv(weft_context *context, weft_channel *channel, void *buffer, size_t capacity,
                      size_t *size);
/* Takes no more values; those held can still be received. Blocked senders and receivers are woken.
 * WEFT_OK, or WEFT_CLOSED when it was closed before. */
int weft_channel_close(weft_channel *channel);
uint32_t weft_channel_length(weft_channel *channel);

/* ---- semaphores: weighted, strictly first in, first out ---- */

typedef struct weft_semaphore weft_semaphore;
weft_semaphore *weft_semaphore_new(uint32_t size); /* NULL: no memory */
weft_semaphore *weft_semaphore_retain(weft_semaphore *semaphore);
void weft_semaphore_release(weft_semaphore *semaphore);
/* Blocks the calling native thread until `weight` is had. WEFT_OK, WEFT_CANCELED, or
 * WEFT_TOO_LARGE when the semaphore is smaller than that. */
int weft_semaphore_acquire(weft_context *context, weft_semaphore *semaphore, uint32_t weight);
/* The same, but WEFT_WOULD_WAIT instead of blocking. */
int weft_semaphore_try_acquire(weft_semaphore *semaphore, uint32_t weight);
/* Gives back what was acquired. WEFT_OK, or WEFT_BELOW_ZERO when so much is not held: nothing
 * changes. */
int weft_semaphore_give_back(weft_semaphore *semaphore, uint32_t weight);
/* What is held stays held; waiters that want more than the new size end with WEFT_TOO_LARGE. */
void weft_semaphore_resize(weft_semaphore *semaphore, uint32_t size);

/* ---- waitgroups: until a count is zero ---- */

typedef struct weft_waitgroup weft_waitgroup;
weft_waitgroup *weft_waitgroup_new(void); /* NULL: no memory */
weft_waitgroup *weft_waitgroup_retain(weft_waitgroup *waitgroup);
void weft_waitgroup_release(weft_waitgroup *waitgroup);
/* `delta` may be negative. WEFT_OK; or WEFT_BELOW_ZERO, WEFT_TOO_LARGE: the count is unchanged. */
int weft_waitgroup_add(weft_waitgroup *waitgroup, int64_t delta);
int weft_waitgroup_done(weft_waitgroup *waitgroup); /* add(-1) */
/* Blocks the calling native thread until the count is zero (WEFT_OK) or the context is done
 * (WEFT_CANCELED). */
int weft_waitgroup_wait(weft_context *context, weft_waitgroup *waitgroup);

/* ---- limiters: token buckets, strictly first in, first out (Go: golang.org/x/time/rate) ---- */

typedef struct weft_limiter weft_limiter;
/* A full bucket of `burst` tokens that fills at `rate` tokens a second, >= 0 and not NaN; at an
 * infinite rate everything passes, whatever the burst. NULL: no memory. */
weft_limiter *weft_limiter_new(double rate, uint32_t burst);
weft_limiter *weft_limiter_retain(weft_limiter *limiter);
void weft_limiter_release(weft_limiter *limiter);
/* Blocks the calling native thread until it has taken n tokens. WEFT_OK, WEFT_CANCELED,
 * WEFT_TOO_LARGE (more than the burst), WEFT_NOTHREAD; WEFT_TOO_LATE at once when its turn would
 * not come before the context's deadline. Nothing is taken but with WEFT_OK. */
int weft_limiter_wait(weft_context *context, weft_limiter *limiter, uint32_t n);
/* Takes n tokens (WEFT_OK), or WEFT_WOULD_WAIT or WEFT_TOO_LARGE and nothing is taken. */
int weft_limiter_allow(weft_limiter *limiter, uint32_t n);
/* Takes n tokens in advance: the caller may act after `*delay` seconds, infinite at rate 0.
 * WEFT_OK, or WEFT_TOO_LARGE. */
int weft_limiter_reserve(weft_limiter *limiter, uint32_t n, double *delay);
/* Gives back tokens that were taken or reserved and are not used. */
void weft_limiter_give_back(weft_limiter *limiter, uint32_t n);
/* Corrects what was taken by what was used in the end: less is given back, more is owed. */
void weft_limiter_settle(weft_limiter *limiter, uint32_t taken, double used);
/* Lets nobody pass before `at_ns` (monotonic); a later pause stays in force. The bucket fills
 * meanwhile. */
void weft_limiter_pause_until(weft_limiter *limiter, uint64_t at_ns);
void weft_limiter_resume(weft_limiter *limiter); /* ends the pause */
/* A rate below 0 and a burst of 0 mean the present one. For those who wait too; those who want more
 * than the new burst end with WEFT_TOO_LARGE. */
void weft_limiter_set(weft_limiter *limiter, double rate, uint32_t burst);

/* ---- budgets: an amount that many spend at once, and never overspend ---- */

typedef struct weft_budget weft_budget;
/* Amounts are whole millionths, 0 to 1e15. `warn_share`: of the limit, 0 to 1. NULL: no memory. */
weft_budget *weft_budget_new(int64_t limit, double warn_share);
weft_budget *weft_budget_retain(weft_budget *budget);
void weft_budget_release(weft_budget *budget);
/* Sets the amount aside. Blocks the calling native thread while only others' reservations are in
 * the way. WEFT_OK, WEFT_CANCELED, or WEFT_TOO_LARGE when so much will not be left. */
int weft_budget_reserve(weft_context *context, weft_budget *budget, int64_t amount);
/* The same, but WEFT_WOULD_WAIT instead of blocking. */
int weft_budget_try_reserve(weft_budget *budget, int64_t amount);
/* Ends a reservation: `actual` is spent, the rest is given back. More than was reserved is booked
 * as well. 1 once, when what is spent reaches the share to warn at; else 0; WEFT_BELOW_ZERO when so
 * much is not reserved: nothing changes. */
int weft_budget_settle(weft_budget *budget, int64_t reserved, int64_t actual);
/* Raises the limit, but never so far that more than `most_remaining` could be reserved. */
void weft_budget_add(weft_budget *budget, int64_t amount, int64_t most_remaining);
/* ---- dicts: maps that threads share; dict.h has the functions for their entries ---- */

typedef struct weft_dict weft_dict;
/* At most `max` entries (0: no limit), each of which lives for `ttl` seconds after its last write
 * (0 or infinite: for ever). NULL: no memory. */
weft_dict *weft_dict_new(uint32_t max, double ttl);
weft_dict *weft_dict_retain(weft_dict *dict);
void weft_dict_release(weft_dict *dict);

/* ---- singleflights: one run a key at once; singleflight.h has the functions for runs ---- */

typedef struct weft_singleflight weft_singleflight;
weft_singleflight *weft_singleflight_new(void); /* NULL: no memory */
weft_singleflight *weft_singleflight_retain(weft_singleflight *owner);
void weft_singleflight_release(weft_singleflight *owner);
/* The next one that asks for the key starts a new run; those who wait still get the present one's
 * outcome. */
void weft_singleflight_forget(weft_singleflight *owner, const void *key, uint32_t size);

/* ---- counts of what is alive: for tests and for watching ---- */

typedef struct weft_stats {
  uint32_t threads, contexts, errors, pools, groups, channels, semaphores, waitgroups, timers;
  uint32_t dicts, flights, tickers;
  uint32_t transfers, http_quotas, limiters, budgets, healths;
} weft_stats;
/* Reads all of them, each by itself: not a snapshot of one moment. */
void weft_stats_read(weft_stats *stats);

#ifdef __cplusplus
}
#endif
#endif

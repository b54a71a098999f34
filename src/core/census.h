/* census.h: who is awake.
 *
 * Parties are the threads that may wake others: workers, scripts' threads, the I/O thread. Each
 * counts as awake but while it sleeps without a time limit, and whoever wakes it counts it in,
 * before the waker itself can fall asleep. So the count is zero exactly when every party sleeps and
 * no wake is under way: only a timer, a socket, a signal can change anything then. Any thread
 * calls; nothing blocks.
 */
#ifndef WEFT_CORE_CENSUS_H
#define WEFT_CORE_CENSUS_H

#include <stdatomic.h>
#include <stdint.h>

/* One more party, awake; and its end, which may leave all others asleep. */
void weft_census_enter(void);
void weft_census_leave(void);
/* Takes an enter or a wake back, by a party that is awake still. */
void weft_census_withdraw(void);
/* A party that is a script: only they can be told that nothing goes on. */
void weft_census_enter_script(void);
void weft_census_leave_script(void);

/* The caller's party falls asleep: it has said so where its wakers look. */
void weft_census_sleep(void);
/* A party that slept is counted in: by its waker, or by itself when nobody woke it. */
void weft_census_wake(void);

/* Something outside that will wake a party: while there is any, the virtual clock stands and
 * nothing is stuck. */
void weft_census_hold(void);
void weft_census_release(void);
/* A thread that is no party uses the core: from now on no end can be seen, and nothing is ever
 * stuck. */
void weft_census_meet_stranger(void);

/* Called on the I/O thread when all is stuck: every party sleeps, and no timer, transfer or signal
 * can wake one. It may be called again as long as that lasts, but only after somebody was awake. */
void weft_census_on_stuck(void (*stuck)(void));

/* ---- for the I/O thread ---- */

/* As weft_census_sleep. When nobody is awake then and there is something to do about it (a jump of
 * the virtual clock, a call of `stuck`), it counts the caller in again, does it, and returns 1: the
 * caller does not sleep. */
int weft_census_sleep_or_act(void);

/* How many parties are awake, for watching. */
uint32_t weft_census_awake(void);

#endif

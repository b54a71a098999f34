/* model_timer.c: a binary heap of timers that sit inside of what waits for them.
 *
 * Owns the array of pointers, not the timers. Only the server thread enters. Invariant: heap[i] is
 * due no later than heap[2i+1] and heap[2i+2], and heap[i]->place is i + 1.
 */
#include "model_timer.h"

#include <limits.h>
#include <math.h>
#include <time.h>

#include "../core/mem.h"

double weft_model_now(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

void weft_model_timers_free(weft_model_timers *timers) {
  weft_free(timers->heap);
  *timers = (weft_model_timers){0};
}

int weft_model_timers_reserve(weft_model_timers *timers, size_t count) {
  if (count <= timers->capacity)
    return 0;
  size_t capacity = count < 32 ? 64 : count * 2;
  weft_model_timer **heap = weft_realloc(timers->heap, capacity * sizeof *heap);
  if (!heap)
    return -1;
  timers->heap = heap;
  timers->capacity = capacity;
  return 0;
}

static void put(weft_model_timers *timers, size_t i, weft_model_timer *timer) {
  timers->heap[i] = timer;
  timer->place = i + 1;
}

static void move_up(weft_model_timers *timers, size_t i, weft_model_timer *timer) {
  while (i > 0 && timers->heap[(i - 1) / 2]->due > timer->due) {
    put(timers, i, timers->heap[(i - 1) / 2]);
    i = (i - 1) / 2;
  }
  put(timers, i, timer);
}

static void move_down(weft_model_timers *timers, size_t i, weft_model_timer *timer) {
  for (;;) {
    size_t child = 2 * i + 1;
    if (child >= timers->count)
      break;
    if (child + 1 < timers->count && timers->heap[child + 1]->due < timers->heap[child]->due)
      child++;
    if (timers->heap[child]->due >= timer->due)
      break;
    put(timers, i, timers->heap[child]);
    i = child;
  }
  put(timers, i, timer);
}

void weft_model_timer_set(weft_model_timers *timers, weft_model_timer *timer, double due) {
  weft_model_timer_clear(timers, timer);
  timer->due = due;
  timers->count++;
  move_up(timers, timers->count - 1, timer);
}

void weft_model_timer_clear(weft_model_timers *timers, weft_model_timer *timer) {
  if (timer->place == 0)
    return;
  size_t hole = timer->place - 1;
  timer->place = 0;
  weft_model_timer *last = timers->heap[--timers->count];
  if (last == timer)
    return;
  if (hole > 0 && timers->heap[(hole - 1) / 2]->due > last->due)
    move_up(timers, hole, last);
  else
    move_down(timers, hole, last);
}

weft_model_timer *weft_model_timers_due(weft_model_timers *timers, double now) {
  if (timers->count == 0 || timers->heap[0]->due > now)
    return NULL;
  weft_model_timer *timer = timers->heap[0];
  weft_model_timer_clear(timers, timer);
  return timer;
}

int weft_model_timers_timeout(const weft_model_timers *timers) {
  if (timers->count == 0)
    return -1;
  double wait = ceil((timers->heap[0]->due - weft_model_now()) * 1e3);
  return wait <= 0 ? 0 : wait >= INT_MAX ? INT_MAX : (int)wait;
}

/* http_lane.c: the queues: one lane a host, served in turn.
 *
 * Owns the lanes, and what a quota counts. The I/O thread alone enters, but for making and
 * releasing quotas. Invariants: a lane that has something queued and may launch it is in the ring,
 * or with its quota's blocked ones; a lane with nothing queued or in flight and in neither is
 * freed.
 *
 * Names: libcurl starts a thread for each lookup that its cache cannot answer. So while a lane's
 * name is not known, one transfer goes first, the scout, and the others wait until it has opened a
 * socket or taken a kept connection. What was queued before a scout that did not find the name
 * shares its failure.
 */
#include "http_engine.h"

#include "clock.h"
#include "mem.h"
#include "platform.h"
#include "stats.h"

#define NAME_KEPT_NS 55000000000u /* below libcurl's 60 s, from the start of a lookup */
#define NAME_SEEN_NS 1000000000u  /* when somebody else's lookup is used, whose age is unknown */

enum { TABLE_SIZE = 256 };

struct weft_http_quota {
  weft_handle handle;       /* first */
  uint32_t total, per_host; /* constant; 0: no limit */
  /* the I/O thread's */
  uint32_t in_flight, process;
  weft_http_lane *blocked_head, *blocked_tail; /* linked by next_listed */
};

struct weft_http_lane {
  weft_http_lane *next_in_table;
  weft_http_lane *next_listed; /* in the ring, or with the quota's blocked ones */
  weft_http_quota *quota;      /* with a reference, or NULL */
  weft_http_transfer *head, *tail;
  weft_http_transfer *scout; /* the one that goes first; NULL: none is under way */
  uint64_t known_until_ns;
  uint64_t asked_ns; /* when the last lookup began; 0: none was seen */
  uint64_t scouted;  /* the last transfer that had been started when the scout was */
  uint64_t failed;   /* transfers up to this one share the failure */
  CURLcode failure;
  char reason[CURL_ERROR_SIZE];
  uint32_t hash, in_flight;
  uint8_t is_listed;
  char origin[];
};

static weft_http_lane *table[TABLE_SIZE];
static weft_http_lane *ring_head, *ring_tail;
static uint64_t last_sequence;

/* ---- quotas ---- */

static void destroy_quota(weft_handle *handle) {
  weft_free(handle);
}

const weft_handle_type weft_http_quota_type = {"http_quota", destroy_quota, &weft_live.http_quotas};

weft_http_quota *weft_http_quota_new(uint32_t total, uint32_t per_host) {
  weft_http_quota *quota = weft_calloc(1, sizeof *quota);
  if (!quota)
    return NULL;
  weft_handle_init(&quota->handle, &weft_http_quota_type);
  quota->total = total;
  quota->per_host = per_host;
  return quota;
}

weft_http_quota *weft_http_quota_retain(weft_http_quota *quota) {
  if (quota)
    weft_handle_retain(&quota->handle);
  return quota;
}

void weft_http_quota_release(weft_http_quota *quota) {
  if (quota)
    weft_handle_release(&quota->handle);
}

/* In the child of a fork nothing of the parent's is in flight. */
static void adopt(weft_http_quota *quota) {
  uint32_t process = weft_process_generation();
  if (!quota || quota->process == process)
    return;
  quota->process = process;
  quota->in_flight = 0;
  quota->blocked_head = quota->blocked_tail = NULL;
}

static int is_full(const weft_http_quota *quota) {
  return quota && quota->total && quota->in_flight >= quota->total;
}

/* ---- the ring, and those who wait for their quota ---- */

static void append(weft_http_lane **head, weft_http_lane **tail, weft_http_lane *lane) {
  lane->next_listed = NULL;
  if (*tail)
    (*tail)->next_listed = lane;
  else
    *head = lane;
  *tail = lane;
  lane->is_listed = 1;
}

static weft_http_lane *take_first(weft_http_lane **head, weft_http_lane **tail) {
  weft_http_lane *lane = *head;
  if (!lane)
    return NULL;
  *head = lane->next_listed;
  if (!*head)
    *tail = NULL;
  lane->is_listed = 0;
  return lane;
}

static void list(weft_http_lane *lane) {
  if (lane->head && !lane->is_listed)
    append(&ring_head, &ring_tail, lane);
}

/* Another lane of the quota may try its luck. */
static void unblock_one(weft_http_quota *quota) {
  if (quota && !is_full(quota) && quota->blocked_head)
    append(&ring_head, &ring_tail, take_first(&quota->blocked_head, &quota->blocked_tail));
}

/* ---- lanes ---- */

static uint32_t hash_of(const char *text) {
  uint32_t hash = 2166136261u;
  for (; *text; text++)
    hash = (hash ^ (unsigned char)*text) * 16777619u;
  return hash;
}

static weft_http_lane *find(uint32_t hash, weft_http_transfer *transfer) {
  weft_http_lane *lane = table[hash % TABLE_SIZE];
  while (lane && (lane->hash != hash || lane->quota != transfer->quota ||
                  strcmp(lane->origin, transfer->target->origin) != 0))
    lane = lane->next_in_table;
  return lane;
}

static weft_http_lane *lane_for(weft_http_transfer *transfer) {
  uint32_t hash = hash_of(transfer->target->origin);
  weft_http_lane *lane = find(hash, transfer);
  if (lane)
    return lane;
  size_t size = strlen(transfer->target->origin) + 1;
  lane = weft_calloc(1, sizeof *lane + size);
  if (!lane)
    return NULL;
  memcpy(lane->origin, transfer->target->origin, size);
  adopt(transfer->quota);
  lane->quota = weft_http_quota_retain(transfer->quota);
  lane->hash = hash;
  lane->next_in_table = table[hash % TABLE_SIZE];
  table[hash % TABLE_SIZE] = lane;
  return lane;
}

static void free_if_unused(weft_http_lane *lane) {
  weft_http_lane **link = &table[lane->hash % TABLE_SIZE];
  if (lane->head || lane->in_flight || lane->is_listed)
    return;
  while (*link != lane)
    link = &(*link)->next_in_table;
  *link = lane->next_in_table;
  weft_http_quota_release(lane->quota);
  weft_free(lane);
}

void weft_http_lanes_forget(void) {
  memset(table, 0, sizeof table);
  ring_head = ring_tail = NULL;
}

/* ---- in and out of a lane's queue ---- */

static void count_in(weft_http_transfer *transfer) {
  transfer->is_queued = 1;
  atomic_fetch_add_explicit(&weft_http_counts.queued, 1, memory_order_relaxed);
}

static void link_queued(weft_http_lane *lane, weft_http_transfer *transfer, int is_first) {
  transfer->previous = is_first ? NULL : lane->tail;
  transfer->next = is_first ? lane->head : NULL;
  *(transfer->previous ? &transfer->previous->next : &lane->head) = transfer;
  *(transfer->next ? &transfer->next->previous : &lane->tail) = transfer;
}

int weft_http_lane_push(weft_http_transfer *transfer, int is_first) {
  weft_http_lane *lane = lane_for(transfer);
  if (!lane)
    return 0;
  transfer->lane = lane;
  transfer->sequence = ++last_sequence;
  link_queued(lane, transfer, is_first);
  count_in(transfer);
  list(lane);
  return 1;
}

static void unlink_queued(weft_http_lane *lane, weft_http_transfer *transfer) {
  *(transfer->previous ? &transfer->previous->next : &lane->head) = transfer->next;
  *(transfer->next ? &transfer->next->previous : &lane->tail) = transfer->previous;
  transfer->next = transfer->previous = NULL;
  transfer->is_queued = 0;
  atomic_fetch_sub_explicit(&weft_http_counts.queued, 1, memory_order_relaxed);
}

/* ---- whose turn it is ---- */

static int has_name(const weft_http_lane *lane, const weft_http_transfer *transfer) {
  return !transfer->needs_name || weft_clock_outside_ns() < lane->known_until_ns;
}

/* The next of the lane may go, or will fail without going. */
static int may_launch(const weft_http_lane *lane) {
  const weft_http_quota *quota = lane->quota;
  if (lane->head->sequence <= lane->failed)
    return 1;
  if (quota && quota->per_host && lane->in_flight >= quota->per_host)
    return 0;
  return !lane->scout || has_name(lane, lane->head);
}

static weft_http_transfer *take(weft_http_lane *lane) {
  weft_http_transfer *transfer = lane->head;
  if (!has_name(lane, transfer) && transfer->sequence > lane->failed) {
    lane->scout = transfer;
    lane->scouted = last_sequence;
    lane->asked_ns = 0;
  }
  unlink_queued(lane, transfer);
  lane->in_flight++;
  if (lane->quota)
    lane->quota->in_flight++;
  list(lane);
  return transfer;
}

weft_http_transfer *weft_http_lane_next(void) {
  weft_http_lane *lane = take_first(&ring_head, &ring_tail);
  if (!lane)
    return NULL;
  if (lane->head && may_launch(lane)) {
    if (!is_full(lane->quota))
      return take(lane);
    append(&lane->quota->blocked_head, &lane->quota->blocked_tail, lane);
    return NULL;
  }
  unblock_one(lane->quota); /* it was this one's chance */
  free_if_unused(lane);
  return NULL;
}

int weft_http_lane_is_ready(void) {
  return ring_head != NULL;
}

/* ---- what becomes of it ---- */

void weft_http_lane_asks(weft_http_transfer *transfer) {
  transfer->lane->asked_ns = weft_clock_outside_ns();
}

void weft_http_lane_knows(weft_http_transfer *transfer) {
  weft_http_lane *lane = transfer->lane;
  if (!transfer->needs_name)
    return;
  uint64_t until_ns =
      lane->asked_ns ? lane->asked_ns + NAME_KEPT_NS : weft_clock_outside_ns() + NAME_SEEN_NS;
  if (until_ns > lane->known_until_ns)
    lane->known_until_ns = until_ns;
  lane->scout = NULL;
  list(lane);
}

/* Those who have waited for the name as long as the scout has share what it met. */
static void fail_with(weft_http_lane *lane, CURLcode code, const char *reason) {
  int is_unknown = code == CURLE_COULDNT_RESOLVE_HOST || code == CURLE_COULDNT_RESOLVE_PROXY;
  if (!is_unknown && code != CURLE_OPERATION_TIMEDOUT)
    return;
  lane->failed = is_unknown ? last_sequence : lane->scouted;
  lane->failure = code;
  snprintf(lane->reason, sizeof lane->reason, "%s", reason);
}

CURLcode weft_http_lane_failure(weft_http_transfer *transfer, const char **reason) {
  *reason = transfer->lane->reason;
  return transfer->sequence <= transfer->lane->failed ? transfer->lane->failure : CURLE_OK;
}

void weft_http_lane_leave(weft_http_transfer *transfer, CURLcode code, const char *reason) {
  weft_http_lane *lane = transfer->lane;
  weft_http_quota *quota = lane->quota;
  transfer->lane = NULL;
  if (transfer->is_queued) {
    unlink_queued(lane, transfer);
  } else {
    if (lane->scout == transfer) {
      lane->scout = NULL;
      fail_with(lane, code, reason);
    }
    lane->in_flight--;
    if (quota)
      quota->in_flight--;
    list(lane);
    unblock_one(quota);
  }
  free_if_unused(lane);
}

/* http_shard.c: the libcurl handles: shards (multi handles) and their slots (easy handles).
 *
 * Owns both, and the caches that the shards share. The I/O thread alone enters. Invariants: a shard
 * has at most WEFT_HTTP_SHARD_SIZE transfers in flight; an idle slot holds no pointer into a
 * transfer, and every option that one transfer changes is set anew, or back, for the next one.
 *
 * Shards, because libcurl walks lists of all connections and transfers of one multi handle for
 * every request. Low shards are filled first: there the warm connections are. A shard is for
 * HTTP/1.1 or for HTTP/2 where it is offered: once a host has spoken the latter, libcurl takes all
 * of its connections in a multi handle for such that carry many requests at once (7.88), busy ones
 * too.
 */
#include "http_engine.h"

#include "clock.h"
#include "mem.h"
#include "platform.h"

enum { SPARE_CONNECTIONS = 8, BUFFER_SIZE = 4096, UPLOAD_BUFFER_SIZE = 16384 };

static weft_http_shard **shards;
static uint32_t shard_count, shard_capacity;
static uint32_t first_open[2]; /* by version: no shard of it below has room */
static CURLSH *caches;         /* names and TLS sessions; connections stay with their shard */

/* The CURLU says where a transfer goes. Without a URL beside it, libcurl (before 8.14) prints the
 * CURLU for each transfer: 6,000 of 77,000 instructions. This one is never asked: also what libcurl
 * sends again goes where the CURLU says. */
static const char unused_url[] = "http://unused.invalid/";

/* ---- slots ---- */

static void set_protocols(CURL *easy) {
#if LIBCURL_VERSION_NUM >= 0x075500
  curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
#else
  curl_easy_setopt(easy, CURLOPT_PROTOCOLS, (long)(CURLPROTO_HTTP | CURLPROTO_HTTPS));
#endif
}

static void set_callbacks(weft_http_slot *slot) {
  CURL *easy = slot->easy;
  curl_easy_setopt(easy, CURLOPT_PRIVATE, slot);
  curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, slot->reason);
  curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, weft_http_on_head);
  curl_easy_setopt(easy, CURLOPT_HEADERDATA, slot);
  curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, weft_http_on_body);
  curl_easy_setopt(easy, CURLOPT_WRITEDATA, slot);
  curl_easy_setopt(easy, CURLOPT_OPENSOCKETFUNCTION, weft_http_open_socket);
  curl_easy_setopt(easy, CURLOPT_OPENSOCKETDATA, slot);
  curl_easy_setopt(easy, CURLOPT_CLOSESOCKETFUNCTION, weft_http_close_socket);
  curl_easy_setopt(easy, CURLOPT_PREREQFUNCTION, weft_http_on_ready);
  curl_easy_setopt(easy, CURLOPT_PREREQDATA, slot);
  curl_easy_setopt(easy, CURLOPT_DEBUGFUNCTION, weft_http_on_log);
  curl_easy_setopt(easy, CURLOPT_DEBUGDATA, slot);
  curl_easy_setopt(easy, CURLOPT_RESOLVER_START_FUNCTION, weft_http_on_lookup);
  curl_easy_setopt(easy, CURLOPT_RESOLVER_START_DATA, slot);
}

/* Without the folder of certificates, or no parsed bundle is ever used twice. */
static CURLcode set_bundle(CURL *easy, const char *bundle) {
  if (!*bundle)
    return CURLE_OK;
  curl_easy_setopt(easy, CURLOPT_CAPATH, NULL);
  curl_easy_setopt(easy, CURLOPT_PROXY_CAPATH, NULL);
  CURLcode code = curl_easy_setopt(easy, CURLOPT_CAINFO, bundle);
  return code ? code : curl_easy_setopt(easy, CURLOPT_PROXY_CAINFO, bundle);
}

static void set_connection(CURL *easy) {
  curl_easy_setopt(easy, CURLOPT_SHARE, caches);
  curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(easy, CURLOPT_TCP_NODELAY, 1L);
  curl_easy_setopt(easy, CURLOPT_BUFFERSIZE, (long)BUFFER_SIZE);
  curl_easy_setopt(easy, CURLOPT_UPLOAD_BUFFERSIZE, (long)UPLOAD_BUFFER_SIZE);
  curl_easy_setopt(easy, CURLOPT_FOLLOWLOCATION, 0L);
  curl_easy_setopt(easy, CURLOPT_SSL_VERIFYPEER, 1L);
  curl_easy_setopt(easy, CURLOPT_SSL_VERIFYHOST, 2L);
  curl_easy_setopt(easy, CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L);
  curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
#if LIBCURL_VERSION_NUM >= 0x075700
  curl_easy_setopt(easy, CURLOPT_QUICK_EXIT, 1L); /* an abort does not wait for the resolver */
#endif
}

/* Those that libcurl copies, for which it may lack memory. */
static CURLcode set_texts(weft_http_slot *slot) {
  CURL *easy = slot->easy;
  slot->proxy = "";
  CURLcode code = curl_easy_setopt(easy, CURLOPT_PROXY, slot->proxy);
  if (!code)
    code = curl_easy_setopt(easy, CURLOPT_URL, unused_url);
  if (!code)
    code = curl_easy_setopt(easy, CURLOPT_NOPROXY, weft_http_settings_get()->no_proxy);
  if (!code)
    code = curl_easy_setopt(easy, CURLOPT_USERAGENT, "weft/" WEFT_VERSION);
  return code ? code : set_bundle(easy, weft_http_settings_get()->ca_bundle);
}

static void free_slot(weft_http_slot *slot) {
  curl_easy_cleanup(slot->easy); /* NULL is allowed */
  weft_free(slot);
  atomic_fetch_sub(&weft_http_counts.handles, 1);
}

static CURLcode set_up(weft_http_slot *slot) {
  slot->easy = curl_easy_init();
  if (!slot->easy)
    return CURLE_OUT_OF_MEMORY;
  set_protocols(slot->easy);
  set_callbacks(slot);
  set_connection(slot->easy);
  return set_texts(slot);
}

static CURLcode new_slot(weft_http_shard *shard, weft_http_slot **made) {
  weft_http_slot *slot = weft_calloc(1, sizeof *slot);
  if (!slot)
    return CURLE_OUT_OF_MEMORY;
  atomic_fetch_add(&weft_http_counts.handles, 1);
  slot->shard = shard;
  CURLcode code = set_up(slot);
  if (code)
    free_slot(slot);
  else
    *made = slot;
  return code;
}

/* ---- what changes from transfer to transfer ---- */

/* 1: what goes over HTTP/2 where the server offers it. */
static uint8_t version_of(const weft_http_transfer *transfer) {
  return transfer->target->is_tls && !transfer->no_http2;
}

/* Waiting for a connection to share makes sense with TLS alone: for plain HTTP libcurl would hold
 * everything back until the first answer. HTTP/2 without TLS is broken on reuse in 7.88. */
static void apply_version(weft_http_slot *slot, weft_http_transfer *transfer) {
  uint8_t wants_http2 = version_of(transfer);
  if (slot->wants_http2 == wants_http2)
    return;
  slot->wants_http2 = wants_http2;
  long version = wants_http2 ? CURL_HTTP_VERSION_2TLS : CURL_HTTP_VERSION_1_1;
  curl_easy_setopt(slot->easy, CURLOPT_HTTP_VERSION, version);
  curl_easy_setopt(slot->easy, CURLOPT_PIPEWAIT, (long)wants_http2);
}

static CURLcode apply_proxy(weft_http_slot *slot, weft_http_transfer *transfer) {
  const char *proxy = weft_http_proxy_of(transfer);
  if (slot->proxy == proxy)
    return CURLE_OK;
  slot->proxy =
      transfer->proxy ? NULL : proxy; /* a transfer's own is gone when the next one comes */
  return curl_easy_setopt(slot->easy, CURLOPT_PROXY, proxy);
}

static CURLcode apply_certificate(weft_http_slot *slot, weft_http_transfer *transfer) {
  CURL *easy = slot->easy;
  uint8_t has_certificate = transfer->cert_file != NULL;
  if (!has_certificate && !slot->has_certificate)
    return CURLE_OK;
  slot->has_certificate = has_certificate;
  CURLcode code = curl_easy_setopt(easy, CURLOPT_SSLCERT, transfer->cert_file);
  if (!code)
    code = curl_easy_setopt(easy, CURLOPT_SSLKEY, transfer->key_file);
  return code ? code : curl_easy_setopt(easy, CURLOPT_KEYPASSWD, transfer->key_password);
}

/* What one transfer has of its own. A proxy that it names holds for every host. */
static CURLcode apply_own(weft_http_slot *slot, weft_http_transfer *transfer) {
  const weft_http_settings *settings = weft_http_settings_get();
  uint8_t has_own = transfer->ca_file || transfer->cert_file || transfer->proxy;
  if (!has_own && !slot->has_own)
    return CURLE_OK;
  slot->has_own = has_own;
  CURLcode code =
      set_bundle(slot->easy, transfer->ca_file ? transfer->ca_file : settings->ca_bundle);
  if (!code)
    code = curl_easy_setopt(slot->easy, CURLOPT_NOPROXY, transfer->proxy ? "" : settings->no_proxy);
  return code ? code : apply_certificate(slot, transfer);
}

/* The order matters: each of these options changes what libcurl takes the method to be. */
static CURLcode apply_method(weft_http_slot *slot, weft_http_transfer *transfer) {
  CURL *easy = slot->easy;
  int is_custom = transfer->method_kind == WEFT_HTTP_CUSTOM;
  curl_easy_setopt(easy, CURLOPT_HTTPGET, 1L);
  if (transfer->has_body) {
    const void *body = transfer->body ? (const void *)transfer->body : "";
    curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)transfer->body_size);
    curl_easy_setopt(easy, CURLOPT_POSTFIELDS, body);
  } else if (transfer->method_kind == WEFT_HTTP_HEAD) {
    curl_easy_setopt(easy, CURLOPT_NOBODY, 1L);
  }
  if (!is_custom && !slot->has_method)
    return CURLE_OK;
  slot->has_method = (uint8_t)is_custom;
  return curl_easy_setopt(easy, CURLOPT_CUSTOMREQUEST, is_custom ? transfer->method : NULL);
}

static CURLcode apply_coding(weft_http_slot *slot, weft_http_transfer *transfer) {
  if (slot->has_coding == transfer->decompress)
    return CURLE_OK;
  slot->has_coding = transfer->decompress;
  return curl_easy_setopt(slot->easy, CURLOPT_ACCEPT_ENCODING, transfer->decompress ? "" : NULL);
}

/* The limit is kept by http_timeout.c. libcurl must know it to divide the time among addresses, and
 * must not be first. */
static long connect_ms(const weft_http_transfer *transfer) {
  uint32_t ms = transfer->limits_ms[WEFT_HTTP_CONNECT];
  return (ms < INT32_MAX - 1000 ? (long)ms : INT32_MAX - 1000) + 1000;
}

static CURLcode apply(weft_http_slot *slot, weft_http_transfer *transfer) {
  CURL *easy = slot->easy;
  slot->reason[0] = '\0';
  slot->system_error = 0;
  curl_easy_setopt(easy, CURLOPT_CURLU, transfer->url);
  curl_easy_setopt(easy, CURLOPT_HTTPHEADER, transfer->headers);
  curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, connect_ms(transfer));
  apply_version(slot, transfer);
  CURLcode code = apply_proxy(slot, transfer);
  if (!code)
    code = apply_own(slot, transfer);
  if (!code)
    code = apply_method(slot, transfer);
  return code ? code : apply_coding(slot, transfer);
}

/* Takes back every pointer into the transfer, which is about to go. */
static void rest(weft_http_slot *slot) {
  CURL *easy = slot->easy;
  slot->transfer = NULL;
  curl_easy_setopt(easy, CURLOPT_CURLU, NULL);
  curl_easy_setopt(easy, CURLOPT_URL, unused_url); /* libcurl may have printed the CURLU there */
  curl_easy_setopt(easy, CURLOPT_HTTPHEADER, NULL);
  curl_easy_setopt(easy, CURLOPT_POSTFIELDS, NULL);
  slot->next_idle = slot->shard->idle;
  slot->shard->idle = slot;
}

/* ---- shards ---- */

static weft_http_shard *of_timer(weft_timer *timer) {
  return (weft_http_shard *)((char *)timer - offsetof(weft_http_shard, timer));
}

static int claim_timer(weft_timer *timer) {
  (void)timer;
  return 1; /* a shard is freed by the I/O thread, and never between claim and fire */
}

static void fire_timer(weft_timer *timer) {
  weft_http_mark(of_timer(timer));
}

static int set_multi(weft_http_shard *shard) {
  CURLM *multi = shard->multi;
  long connections = WEFT_HTTP_SHARD_SIZE + SPARE_CONNECTIONS;
  return curl_multi_setopt(multi, CURLMOPT_SOCKETFUNCTION, weft_http_on_socket) == CURLM_OK &&
         curl_multi_setopt(multi, CURLMOPT_SOCKETDATA, shard) == CURLM_OK &&
         curl_multi_setopt(multi, CURLMOPT_TIMERFUNCTION, weft_http_on_timer) == CURLM_OK &&
         curl_multi_setopt(multi, CURLMOPT_TIMERDATA, shard) == CURLM_OK &&
         curl_multi_setopt(multi, CURLMOPT_MAXCONNECTS, connections) == CURLM_OK;
}

static void free_slots(weft_http_shard *shard) {
  weft_http_slot *slot;
  while ((slot = shard->idle)) {
    shard->idle = slot->next_idle;
    free_slot(slot);
  }
}

static void free_shard(weft_http_shard *shard) {
  if (shard->timer.is_queued)
    weft_timer_stop(&shard->timer);
  free_slots(shard);
  if (shard->multi)
    curl_multi_cleanup(shard->multi);
  weft_http_unmark(shard); /* the clean-up's callbacks have marked it */
  weft_free(shard);
  atomic_fetch_sub(&weft_http_counts.shards, 1);
}

static weft_http_shard *new_shard(void) {
  weft_http_shard *shard = weft_calloc(1, sizeof *shard);
  if (!shard)
    return NULL;
  atomic_fetch_add(&weft_http_counts.shards, 1);
  shard->due_ns = WEFT_NEVER_NS;
  weft_timer_init(&shard->timer, claim_timer, fire_timer);
  shard->timer.is_outside = 1;
  shard->multi = curl_multi_init();
  if (shard->multi && set_multi(shard))
    return shard;
  free_shard(shard);
  return NULL;
}

static int open_caches(void) {
  if (caches)
    return 1;
  caches = curl_share_init(); /* one thread uses it: it needs no locks */
  if (!caches)
    return 0;
  curl_share_setopt(caches, CURLSHOPT_SHARE, CURL_LOCK_DATA_DNS);
  curl_share_setopt(caches, CURLSHOPT_SHARE, CURL_LOCK_DATA_SSL_SESSION);
  return 1;
}

static int make_room(void) {
  if (shard_count < shard_capacity)
    return 1;
  uint32_t wanted = shard_capacity ? shard_capacity * 2 : 16;
  weft_http_shard **grown = weft_realloc(shards, sizeof *grown * wanted);
  if (!grown)
    return 0;
  shards = grown;
  shard_capacity = wanted;
  return 1;
}

static weft_http_shard *add_shard(uint8_t version) {
  weft_http_shard *shard = open_caches() && make_room() ? new_shard() : NULL;
  if (!shard)
    return NULL;
  shard->index = shard_count;
  shard->version = version;
  shards[shard_count++] = shard;
  return shard;
}

/* The lowest shard of that version with room. */
static weft_http_shard *pick_shard(uint8_t version) {
  uint32_t at = first_open[version];
  while (at < shard_count &&
         (shards[at]->version != version || shards[at]->in_flight == WEFT_HTTP_SHARD_SIZE))
    at++;
  first_open[version] = at;
  return at < shard_count ? shards[at] : add_shard(version);
}

static CURLcode take_slot(weft_http_shard *shard, weft_http_slot **slot) {
  *slot = shard->idle;
  if (!*slot)
    return new_slot(shard, slot);
  shard->idle = (*slot)->next_idle;
  return CURLE_OK;
}

/* ---- in and out of flight ---- */

CURLcode weft_http_launch(weft_http_transfer *transfer) {
  weft_http_shard *shard = pick_shard(version_of(transfer));
  weft_http_slot *slot;
  CURLcode code = shard ? take_slot(shard, &slot) : CURLE_OUT_OF_MEMORY;
  if (code)
    return code;
  slot->transfer = transfer;
  code = apply(slot, transfer);
  if (!code && curl_multi_add_handle(shard->multi, slot->easy) != CURLM_OK)
    code = CURLE_OUT_OF_MEMORY;
  if (code) {
    free_slot(slot); /* nobody knows which of its options were set */
    return code;
  }
  transfer->slot = slot;
  shard->in_flight++;
  atomic_fetch_add_explicit(&weft_http_counts.in_flight, 1, memory_order_relaxed);
  weft_http_mark(shard);
  return CURLE_OK;
}

/* libcurl's own defaults cannot be set back. */
static int keeps_bundle(const weft_http_transfer *transfer) {
  return transfer->ca_file && !*weft_http_settings_get()->ca_bundle;
}

void weft_http_unlaunch(weft_http_transfer *transfer) {
  weft_http_slot *slot = transfer->slot;
  weft_http_shard *shard = slot->shard;
  curl_multi_remove_handle(shard->multi, slot->easy);
  transfer->slot = NULL;
  if (slot->is_spent || keeps_bundle(transfer))
    free_slot(slot);
  else
    rest(slot);
  shard->in_flight--;
  atomic_fetch_sub_explicit(&weft_http_counts.in_flight, 1, memory_order_relaxed);
  if (shard->index < first_open[shard->version])
    first_open[shard->version] = shard->index;
  weft_http_mark(shard);
}

/* ---- driving ---- */

/* libcurl forgets to name a time that it has named before, so after an early call it is asked. */
static void call_timeouts(weft_http_shard *shard) {
  int running;
  long ms = -1;
  shard->due_ns = WEFT_NEVER_NS;
  curl_multi_socket_action(shard->multi, CURL_SOCKET_TIMEOUT, 0, &running);
  if (shard->due_ns == WEFT_NEVER_NS && curl_multi_timeout(shard->multi, &ms) == CURLM_OK && ms > 0)
    weft_http_on_timer(shard->multi, ms, shard);
}

static void reap(weft_http_shard *shard) {
  CURLMsg *message;
  int left;
  while ((message = curl_multi_info_read(shard->multi, &left))) {
    CURLcode code = message->data.result; /* the message goes with the handle */
    char *slot = NULL;
    curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, &slot);
    weft_http_completed(((weft_http_slot *)slot)->transfer, code);
  }
}

/* A timer that is set for too early only costs a turn; so a later time never moves it. */
static void set_timer(weft_http_shard *shard) {
  weft_timer *timer = &shard->timer;
  int is_needed = shard->in_flight && shard->due_ns && shard->due_ns != WEFT_NEVER_NS;
  if (timer->is_queued && is_needed && timer->at_ns <= shard->due_ns)
    return;
  if (timer->is_queued && (is_needed || !shard->in_flight))
    weft_timer_stop(timer);
  if (is_needed)
    weft_timer_start(timer, shard->due_ns);
}

void weft_http_shard_drive(weft_http_shard *shard) {
  if (shard->due_ns != WEFT_NEVER_NS && shard->due_ns <= weft_clock_outside_ns())
    call_timeouts(shard);
  reap(shard);
  set_timer(shard);
}

/* ---- the end ---- */

static void free_caches(void) {
  curl_share_cleanup(caches);
  weft_free(shards);
  weft_http_sockets_free();
  weft_http_shards_forget();
}

void weft_http_shards_close_idle(void) {
  uint32_t kept = 0;
  for (uint32_t i = 0; i < shard_count; i++) {
    weft_http_shard *shard = shards[i];
    if (shard->in_flight == 0) {
      free_shard(shard);
      continue;
    }
    free_slots(shard);
    shard->index = kept;
    shards[kept++] = shard;
  }
  shard_count = kept;
  first_open[0] = first_open[1] = 0;
  if (kept == 0 && caches)
    free_caches();
}

void weft_http_shards_forget(void) {
  shards = NULL;
  shard_count = shard_capacity = first_open[0] = first_open[1] = 0;
  caches = NULL;
}

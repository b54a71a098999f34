/* test_dict.c: entries come, change and go; limits; time to live; replacing is atomic; no memory.
 */
#include "check.h"
#include "dict.h"
#include "mem.h"

#include <math.h>

enum { MANY = 5000, THREADS = 4, ROUNDS = 20000 };

static weft_shared_parcel *value_of(uint32_t number) {
  weft_parcel parcel;
  weft_parcel_init(&parcel);
  memcpy(parcel.data, &number, sizeof number);
  parcel.size = sizeof number;
  return weft_shared_parcel_new(&parcel);
}

static uint32_t number_of(const weft_shared_parcel *value) {
  uint32_t number = UINT32_MAX;
  if (value)
    memcpy(&number, value->parcel.data, sizeof number);
  return number;
}

static int set(weft_dict *dict, const char *key, uint32_t number) {
  weft_shared_parcel *value = value_of(number);
  int rc = weft_dict_set(dict, key, (uint32_t)strlen(key), value);
  weft_shared_parcel_release(value);
  return rc;
}

/* UINT32_MAX: none. */
static uint32_t get(weft_dict *dict, const char *key) {
  weft_shared_parcel *value = weft_dict_get(dict, key, (uint32_t)strlen(key));
  uint32_t number = number_of(value);
  weft_shared_parcel_release(value);
  return number;
}

static int unset(weft_dict *dict, const char *key) {
  return weft_dict_set(dict, key, (uint32_t)strlen(key), NULL);
}

static void entries_come_change_and_go(void) {
  weft_dict *dict = weft_dict_new(0, 0);
  CHECK(get(dict, "a") == UINT32_MAX && unset(dict, "a") == WEFT_OK);
  CHECK(set(dict, "a", 1) == WEFT_OK && set(dict, "", 2) == WEFT_OK);
  CHECK(get(dict, "a") == 1 && get(dict, "") == 2 && weft_dict_length(dict) == 2);
  CHECK(set(dict, "a", 3) == WEFT_OK && get(dict, "a") == 3 && weft_dict_length(dict) == 2);
  CHECK(unset(dict, "a") == WEFT_OK && get(dict, "a") == UINT32_MAX);
  CHECK(weft_dict_length(dict) == 1);
  weft_dict_clear(dict);
  CHECK(weft_dict_length(dict) == 0 && get(dict, "") == UINT32_MAX);
  CHECK(set(dict, "a", 4) == WEFT_OK && get(dict, "a") == 4);
  weft_dict_release(dict);
}

static void many_entries(void) {
  weft_dict *dict = weft_dict_new(0, 0);
  char key[32];
  for (uint32_t i = 0; i < MANY; i++) {
    snprintf(key, sizeof key, "key %u", i);
    CHECK(set(dict, key, i) == WEFT_OK);
  }
  for (uint32_t i = 0; i < MANY; i += 2) {
    snprintf(key, sizeof key, "key %u", i);
    CHECK(get(dict, key) == i && unset(dict, key) == WEFT_OK);
  }
  CHECK(weft_dict_length(dict) == MANY / 2);
  weft_buf keys;
  weft_buf_init(&keys, 0);
  CHECK(weft_dict_keys(dict, &keys) == WEFT_BUF_OK);
  uint32_t count = 0, sum = 0, size;
  for (size_t at = 0; at < keys.size; at += sizeof size + size, count++) {
    memcpy(&size, keys.data + at, sizeof size);
    snprintf(key, sizeof key, "%.*s", (int)size, (char *)keys.data + at + sizeof size);
    sum += get(dict, key);
  }
  CHECK(count == MANY / 2 && sum == MANY / 2 * (MANY / 2));
  weft_buf_free(&keys);
  weft_dict_release(dict);
}

static void a_reader_keeps_what_it_has_read(void) {
  weft_dict *dict = weft_dict_new(0, 0);
  CHECK(set(dict, "a", 1) == WEFT_OK);
  weft_shared_parcel *value = weft_dict_get(dict, "a", 1);
  CHECK(set(dict, "a", 2) == WEFT_OK);
  weft_dict_release(dict);
  CHECK(number_of(value) == 1);
  weft_shared_parcel_release(value);
}

static void replaces_only_what_was_read(void) {
  weft_dict *dict = weft_dict_new(0, 0);
  weft_shared_parcel *one = value_of(1), *two = value_of(2), *same = value_of(1);
  CHECK(weft_dict_replace(dict, "a", 1, one, two) == WEFT_CHANGED); /* there is none */
  CHECK(weft_dict_replace(dict, "a", 1, NULL, one) == WEFT_OK);
  CHECK(weft_dict_replace(dict, "a", 1, NULL, two) == WEFT_CHANGED);
  CHECK(weft_dict_replace(dict, "a", 1, same, two) == WEFT_CHANGED); /* equal is not identical */
  CHECK(weft_dict_replace(dict, "a", 1, one, two) == WEFT_OK && get(dict, "a") == 2);
  CHECK(weft_dict_replace(dict, "a", 1, one, NULL) == WEFT_CHANGED);
  CHECK(weft_dict_replace(dict, "a", 1, two, NULL) == WEFT_OK && weft_dict_length(dict) == 0);
  CHECK(weft_dict_replace(dict, "a", 1, NULL, NULL) == WEFT_OK);
  weft_shared_parcel_release(one);
  weft_shared_parcel_release(two);
  weft_shared_parcel_release(same);
  weft_dict_release(dict);
}

static void takes_no_more_than_its_maximum(void) {
  weft_dict *dict = weft_dict_new(2, INFINITY);
  CHECK(set(dict, "a", 1) == WEFT_OK && set(dict, "b", 2) == WEFT_OK);
  CHECK(set(dict, "c", 3) == WEFT_FULL && get(dict, "c") == UINT32_MAX);
  CHECK(set(dict, "a", 4) == WEFT_OK && get(dict, "a") == 4);
  CHECK(unset(dict, "b") == WEFT_OK && set(dict, "c", 3) == WEFT_OK);
  CHECK(set(dict, "b", 2) == WEFT_FULL && weft_dict_length(dict) == 2);
  weft_dict_release(dict);
}

static void entries_expire(void) {
  clock_freeze();
  weft_dict *dict = weft_dict_new(3, 10);
  CHECK(set(dict, "a", 1) == WEFT_OK && set(dict, "b", 2) == WEFT_OK);
  clock_advance(6);
  CHECK(set(dict, "a", 3) == WEFT_OK && set(dict, "c", 4) == WEFT_OK); /* a lives on */
  CHECK(set(dict, "d", 5) == WEFT_FULL);
  clock_advance(4);
  CHECK(get(dict, "a") == 3 && get(dict, "b") == UINT32_MAX && get(dict, "c") == 4);
  CHECK(weft_dict_replace(dict, "b", 1, NULL, NULL) == WEFT_OK); /* there is none */
  CHECK(set(dict, "d", 5) == WEFT_OK);                           /* in its place */
  CHECK(weft_dict_length(dict) == 3);
  clock_advance(6);
  CHECK(weft_dict_length(dict) == 1 && get(dict, "d") == 5);
  clock_advance(100);
  weft_buf keys;
  weft_buf_init(&keys, 0);
  CHECK(weft_dict_keys(dict, &keys) == WEFT_BUF_OK && keys.size == 0);
  weft_buf_free(&keys);
  weft_dict_release(dict);
  weft_clock_set(NULL);
}

/* A parcel whose only content is a handle. */
static weft_shared_parcel *holder_of(weft_handle *handle) {
  weft_parcel parcel;
  weft_parcel_writer writer;
  weft_parcel_init(&parcel);
  weft_parcel_writer_init(&writer);
  CHECK(weft_parcel_write_handle(&writer, handle) == WEFT_BUF_OK);
  CHECK(weft_parcel_finish(&writer, &parcel) == WEFT_BUF_OK);
  weft_parcel_writer_free(&writer);
  return weft_shared_parcel_new(&parcel);
}

static void a_long_chain_of_dicts_goes_at_once(void) {
  weft_dict *dict = weft_dict_new(0, 0);
  for (int i = 0; i < 100000; i++) {
    weft_dict *outer = weft_dict_new(0, 0);
    weft_shared_parcel *value = holder_of(&dict->handle);
    CHECK(weft_dict_set(outer, "inner", 5, value) == WEFT_OK);
    weft_shared_parcel_release(value);
    weft_dict_release(dict);
    dict = outer;
  }
  weft_dict_release(dict);
  CHECK(check_stats().dicts == 0);
}

static void survives_want_of_memory(void) {
  for (uint64_t nth = 1; nth < 12; nth++) {
    weft_mem_fail_at(nth);
    weft_dict *dict = weft_dict_new(0, 0);
    weft_shared_parcel *value = dict ? value_of(7) : NULL;
    if (value) {
      int rc = weft_dict_set(dict, "a", 1, value);
      CHECK(rc == WEFT_OK || rc == WEFT_NOMEM);
      CHECK(weft_dict_length(dict) == (rc == WEFT_OK));
    }
    weft_mem_fail_at(0);
    weft_shared_parcel_release(value);
    weft_dict_release(dict);
  }
}

static void *add_up(void *arg) {
  weft_dict *dict = arg;
  for (uint32_t i = 0; i < ROUNDS;) {
    char key[2] = {(char)('a' + i % 3), 0};
    weft_shared_parcel *old = weft_dict_get(dict, key, 1);
    weft_shared_parcel *sum = value_of(old ? number_of(old) + 1 : 1);
    int rc = weft_dict_replace(dict, key, 1, old, sum);
    CHECK(rc == WEFT_OK || rc == WEFT_CHANGED);
    i += rc == WEFT_OK;
    weft_shared_parcel_release(old);
    weft_shared_parcel_release(sum);
    if (i % 100 == 0)
      weft_dict_length(dict);
  }
  return NULL;
}

static void no_addition_is_lost(void) {
  weft_dict *dict = weft_dict_new(3, 1e6);
  pthread_t threads[THREADS];
  for (int i = 0; i < THREADS; i++)
    pthread_create(&threads[i], NULL, add_up, dict);
  for (int i = 0; i < THREADS; i++)
    pthread_join(threads[i], NULL);
  CHECK(get(dict, "a") + get(dict, "b") + get(dict, "c") == THREADS * ROUNDS);
  weft_dict_release(dict);
}

static void *come_and_go(void *arg) {
  weft_dict *dict = arg;
  char key[16];
  for (uint32_t i = 0; i < ROUNDS; i++) {
    snprintf(key, sizeof key, "%u", i % 37);
    int rc = i % 2 ? set(dict, key, i) : unset(dict, key);
    CHECK(rc == WEFT_OK || rc == WEFT_FULL);
    if (i % 1000 == 0)
      weft_dict_clear(dict);
    CHECK(weft_dict_length(dict) <= 20);
  }
  return NULL;
}

static void the_maximum_holds_whoever_writes(void) {
  weft_dict *dict = weft_dict_new(20, 0);
  pthread_t threads[THREADS];
  for (int i = 0; i < THREADS; i++)
    pthread_create(&threads[i], NULL, come_and_go, dict);
  for (int i = 0; i < THREADS; i++)
    pthread_join(threads[i], NULL);
  weft_dict_clear(dict);
  CHECK(weft_dict_length(dict) == 0);
  weft_dict_release(dict);
}

int main(void) {
  check_run("dict: entries come, change and go", entries_come_change_and_go);
  check_run("dict: many entries", many_entries);
  check_run("dict: a reader keeps what it has read", a_reader_keeps_what_it_has_read);
  check_run("dict: replaces only what was read", replaces_only_what_was_read);
  check_run("dict: takes no more than its maximum", takes_no_more_than_its_maximum);
  check_run("dict: entries expire", entries_expire);
  check_run("dict: a long chain goes at once", a_long_chain_of_dicts_goes_at_once);
  check_run("dict: survives want of memory", survives_want_of_memory);
  check_run("dict: no addition is lost", no_addition_is_lost);
  check_run("dict: the maximum holds", the_maximum_holds_whoever_writes);
  return check_end();
}

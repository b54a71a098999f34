/* trace.c: buffers of events, one a thread, and the thread that writes them to a file.
 *
 * Owns the file, the writer and the buffers, which live as long as the process and are used again.
 * Any thread adds to its own buffer; the writer takes from all. Invariant: after each write the
 * file is a whole JSON document, so it is one whenever the process ends.
 *
 * Lock order: `lock` guards start and stop, `list_lock` the list of buffers; neither is held while
 * the other is taken, but `lock` while the writer is joined, which takes `list_lock`.
 */
#include "trace.h"

#include "buf.h"
#include "clock.h"
#include "mem.h"
#include "platform.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { EVENTS = 8192, WRITE_EVERY_MS = 20, TAIL = 3 };

typedef struct event {
  uint64_t at_ns;
  uint64_t id_or_ns; /* of what is done: how long it took */
  char phase;        /* X, b, e */
  char name[WEFT_TRACE_NAME];
} event;

typedef struct buffer {
  struct buffer *next;
  _Atomic uint32_t head __attribute__((aligned(64))); /* the writer's */
  _Atomic uint32_t tail __attribute__((aligned(64))); /* the thread's */
  _Atomic uint64_t dropped;
  _Atomic int is_free;    /* its thread has ended */
  _Atomic uint32_t named; /* the trace that knows the thread's name */
  char thread_name[16];
  long thread_id;
  event events[EVENTS];
} buffer;

_Atomic int weft_trace_on;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
/* guarded by lock */
static pthread_t writer;
static uint32_t writer_process; /* the fork generation of the writer, + 1; 0: none */
static weft_parker writer_parker;
/* the writer's, and before and after it those of start and stop */
static int file = -1;
static off_t file_end; /* without the tail */
static uint64_t start_ns;
static _Atomic int is_stopping;
static _Atomic uint32_t trace_number;

static pthread_mutex_t list_lock = PTHREAD_MUTEX_INITIALIZER;
static buffer *buffers; /* guarded by list_lock */

/* ---- a thread's buffer ---- */

static __thread buffer *own;
static pthread_key_t end_key;

static void give_back(void *arg) {
  buffer *buffer = arg;
  own = NULL;
  atomic_store(&buffer->is_free, 1);
}

static void after_fork_in_child(void) {
  atomic_store(&weft_trace_on, 0);
}

static void set_up(void) {
  pthread_key_create(&end_key, give_back);
  weft_process_renew_lock(&lock);
  weft_process_renew_lock(&list_lock);
  pthread_atfork(NULL, NULL, after_fork_in_child);
}

/* One that is empty and nobody's, or a new one. Called under list_lock. */
static buffer *find_free(void) {
  for (buffer *buffer = buffers; buffer; buffer = buffer->next)
    if (atomic_load(&buffer->is_free) && atomic_load(&buffer->head) == atomic_load(&buffer->tail)) {
      atomic_store(&buffer->is_free, 0);
      atomic_store(&buffer->named, 0);
      return buffer;
    }
  buffer *made = weft_malloc_aligned(64, sizeof *made);
  if (!made)
    return NULL;
  memset(made, 0, offsetof(buffer, events));
  made->next = buffers;
  buffers = made;
  return made;
}

static buffer *take_buffer(void) {
  pthread_mutex_lock(&list_lock);
  buffer *found = find_free();
  if (found) {
    weft_thread_get_name(found->thread_name);
    found->thread_id = (long)weft_thread_number();
  }
  pthread_mutex_unlock(&list_lock);
  if (found)
    pthread_setspecific(end_key, found);
  return found;
}

static void add(char phase, const char *name, uint64_t at_ns, uint64_t id_or_ns) {
  if (!own && !(own = take_buffer()))
    return;
  uint32_t tail = atomic_load_explicit(&own->tail, memory_order_relaxed);
  if (tail - atomic_load_explicit(&own->head, memory_order_acquire) == EVENTS) {
    atomic_fetch_add_explicit(&own->dropped, 1, memory_order_relaxed);
    return;
  }
  event *event = &own->events[tail % EVENTS];
  event->at_ns = at_ns;
  event->id_or_ns = id_or_ns;
  event->phase = phase;
  strncpy(event->name, name, sizeof event->name - 1);
  event->name[sizeof event->name - 1] = 0;
  atomic_store_explicit(&own->tail, tail + 1, memory_order_release);
}

uint64_t weft_trace_now_ns(void) {
  return weft_clock_real_ns();
}

void weft_trace_did(const char *name, uint64_t since_ns) {
  add('X', name, since_ns, weft_clock_real_ns() - since_ns);
}

void weft_trace_begin(const char *name, const void *id) {
  add('b', name, weft_clock_real_ns(), (uint64_t)(uintptr_t)id);
}

void weft_trace_end(const char *name, const void *id) {
  add('e', name, weft_clock_real_ns(), (uint64_t)(uintptr_t)id);
}

/* ---- JSON ---- */

/* Length of the UTF-8 sequence at `text`, 0 when it is none, or cut. */
static int utf8_length(const unsigned char *text) {
  int length = *text >= 0xf0 && *text < 0xf5 ? 4 : *text >= 0xe0 ? 3 : *text >= 0xc2 ? 2 : 0;
  if (*text >= 0xf5)
    return 0;
  for (int i = 1; i < length; i++)
    if ((text[i] & 0xc0) != 0x80)
      return 0;
  int is_bad =
      length >= 3 && ((*text == 0xe0 && text[1] < 0xa0) || (*text == 0xed && text[1] > 0x9f) ||
                      (*text == 0xf0 && text[1] < 0x90) || (*text == 0xf4 && text[1] > 0x8f));
  return is_bad ? 0 : length;
}

static void add_string(weft_buf *out, const char *string) {
  weft_buf_putc(out, '"');
  for (const unsigned char *c = (const unsigned char *)string; *c;) {
    int length = *c >= 0x80 ? utf8_length(c) : 1;
    if (*c == '"' || *c == '\\')
      weft_buf_putc(out, '\\');
    if (*c < 0x20 || length == 0)
      weft_buf_putc(out, '?');
    else
      weft_buf_append(out, c, (size_t)length);
    c += length ? length : 1;
  }
  weft_buf_putc(out, '"');
}

static void add_text(weft_buf *out, const char *text) {
  weft_buf_append(out, text, strlen(text));
}

static double us(uint64_t ns) {
  return (double)ns / 1e3;
}

static void add_event(weft_buf *out, const event *event, long thread_id) {
  char text[160];
  add_text(out, ",\n{\"name\":");
  add_string(out, event->name);
  uint64_t at_ns = event->at_ns > start_ns ? event->at_ns - start_ns : 0;
  if (event->phase == 'X')
    snprintf(text, sizeof text, ",\"ph\":\"X\",\"ts\":%.3f,\"dur\":%.3f,\"pid\":%d,\"tid\":%ld}",
             us(at_ns), us(event->id_or_ns), (int)getpid(), thread_id);
  else
    snprintf(
        text, sizeof text,
        ",\"cat\":\"task\",\"ph\":\"%c\",\"id\":\"0x%llx\",\"ts\":%.3f,\"pid\":%d,\"tid\":%ld}",
        event->phase, (unsigned long long)event->id_or_ns, us(at_ns), (int)getpid(), thread_id);
  add_text(out, text);
}

static void add_name(weft_buf *out, const char *what, const char *name, long thread_id) {
  char text[96];
  snprintf(text, sizeof text,
           "{\"name\":\"%s\",\"ph\":\"M\",\"pid\":%d,\"tid\":%ld,\"args\":{\"name\":", what,
           (int)getpid(), thread_id);
  add_text(out, text);
  add_string(out, name);
  add_text(out, "}}");
}

/* ---- writing ---- */

static const char tail_text[] = "\n]\n";

/* Behind what is whole so far. Returns 0 or an errno value. */
static int write_at_end(const void *bytes, size_t size) {
  for (size_t done = 0; done < size;) {
    ssize_t count = pwrite(file, (const char *)bytes + done, size - done, file_end + (off_t)done);
    if (count <= 0)
      return count < 0 ? errno : ENOSPC;
    done += (size_t)count;
  }
  return 0;
}

/* Over the tail of the last time, and with a new one, in one write. When that fails, as on a full
 * disk, what was written of it is taken back. Returns 0 or an errno value. */
static int write_out(weft_buf *out) {
  if (out->size == 0)
    return 0;
  weft_buf_append(out, tail_text, TAIL);
  int rc = write_at_end(out->data, out->size);
  if (rc == 0)
    file_end += (off_t)(out->size - TAIL);
  else if (ftruncate(file, file_end) == 0)
    write_at_end(tail_text, TAIL);
  out->size = 0;
  return rc;
}

/* Returns how many events it took. */
static uint32_t drain(buffer *buffer, weft_buf *out) {
  uint32_t head = atomic_load_explicit(&buffer->head, memory_order_relaxed);
  uint32_t tail = atomic_load_explicit(&buffer->tail, memory_order_acquire);
  uint32_t number = atomic_load(&trace_number);
  if (head != tail && atomic_exchange(&buffer->named, number) != number) {
    add_text(out, ",\n");
    add_name(out, "thread_name", buffer->thread_name, buffer->thread_id);
  }
  for (uint32_t i = head; i != tail; i++)
    add_event(out, &buffer->events[i % EVENTS], buffer->thread_id);
  atomic_store_explicit(&buffer->head, tail, memory_order_release);
  return tail - head;
}

static void drain_all(weft_buf *out) {
  pthread_mutex_lock(&list_lock);
  buffer *first = buffers;
  pthread_mutex_unlock(&list_lock);
  for (buffer *buffer = first; buffer; buffer = buffer->next) { /* they stay */
    uint32_t count = drain(buffer, out);
    if (write_out(out) != 0) {
      atomic_fetch_add_explicit(&buffer->dropped, count, memory_order_relaxed);
      atomic_store(&buffer->named, 0); /* its name may be among what is lost */
    }
  }
}

static void write_events(void *unused) {
  weft_buf out;
  (void)unused;
  weft_buf_init(&out, 0);
  while (!atomic_load(&is_stopping)) {
    weft_parker_park(&writer_parker, weft_clock_real_ns() + WRITE_EVERY_MS * 1000000ull);
    drain_all(&out);
  }
  drain_all(&out); /* of what was added before the end */
  weft_buf_free(&out);
}

/* ---- start and stop ---- */

/* What was left from the trace before is none of this one's. */
static void forget_events(void) {
  pthread_mutex_lock(&list_lock);
  for (buffer *buffer = buffers; buffer; buffer = buffer->next) {
    atomic_store(&buffer->head, atomic_load(&buffer->tail));
    atomic_store(&buffer->dropped, 0);
  }
  pthread_mutex_unlock(&list_lock);
}

/* Does not wait for a pipe's reader, and refuses pipes: each write goes over the end of the last.
 */
static int open_at_start(const char *path) {
  file = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NONBLOCK, 0666);
  if (file < 0)
    return errno == ENXIO ? ESPIPE : errno;
  if (lseek(file, 0, SEEK_SET) == 0)
    return 0;
  close(file);
  return ESPIPE;
}

static int open_file(const char *path) {
  weft_buf out;
  int rc = open_at_start(path);
  if (rc)
    return rc;
  file_end = 0;
  weft_buf_init(&out, 0);
  add_text(&out, "[\n");
  add_name(&out, "process_name", "weft", 0);
  rc = write_out(&out);
  weft_buf_free(&out);
  if (rc)
    close(file);
  return rc;
}

static int start_locked(const char *path) {
  if (writer_process == weft_process_generation() + 1)
    return EBUSY;
  int rc = open_file(path);
  if (rc)
    return rc;
  forget_events();
  start_ns = weft_clock_real_ns();
  atomic_fetch_add(&trace_number, 1);
  atomic_store(&is_stopping, 0);
  weft_parker_init(&writer_parker, 0);
  rc = weft_thread_start_joinable(write_events, NULL, "weft-trace", &writer);
  if (rc) {
    close(file);
    return rc;
  }
  writer_process = weft_process_generation() + 1;
  atomic_store(&weft_trace_on, 1);
  return 0;
}

int weft_trace_start(const char *path) {
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, set_up);
  pthread_mutex_lock(&lock);
  int rc = start_locked(path);
  pthread_mutex_unlock(&lock);
  return rc;
}

static uint64_t count_dropped(void) {
  uint64_t dropped = 0;
  pthread_mutex_lock(&list_lock);
  for (buffer *buffer = buffers; buffer; buffer = buffer->next)
    dropped += atomic_load(&buffer->dropped);
  pthread_mutex_unlock(&list_lock);
  return dropped;
}

uint64_t weft_trace_stop(void) {
  uint64_t dropped = 0;
  pthread_mutex_lock(&lock);
  atomic_store(&weft_trace_on, 0);
  if (writer_process == weft_process_generation() + 1) {
    atomic_store(&is_stopping, 1);
    weft_parker_unpark(&writer_parker);
    pthread_join(writer, NULL);
    close(file);
    dropped = count_dropped();
  }
  writer_process = 0;
  pthread_mutex_unlock(&lock);
  return dropped;
}

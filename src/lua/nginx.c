/* nginx.c: what nginx tells about requests and phases, and the connection that wakes its loop.
 *
 * A cosocket is the one thing that Lua code in nginx can wait for and a thread can write to. So one
 * light thread a VM connects to a Unix socket of ours, in a private folder that is gone at once;
 * our end becomes the descriptor of the scheduler's inbox. Owns that socket while it is being
 * connected. Entered by the state's thread. Invariant: an inbox's descriptor, once set, is never
 * closed: a new connection replaces the file behind the same number, since a sender may be about to
 * use it.
 */
#include "nginx.h"

#include "errors.h"
#include "fibers.h"
#include "mem.h"
#include "objects.h"
#include "platform.h"
#include "state.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static const char host_key, meeting_key; /* in the registry */
static _Atomic int is_here;              /* this process is nginx */
static _Atomic uint32_t lingering; /* the process, plus one, in which some VM's loop lingers */

/* ---- what nginx tells ---- */

/* nginx's own record of a clean-up, of its http and its stream module alike; its layout is part of
 * their interface for modules. */
typedef struct cleanup {
  void (*handler)(void *data);
  void *data;
  struct cleanup *next;
} cleanup;

/* Functions of nginx and of the VM, looked up once a process; NULL where they do not exist. */
typedef struct symbols {
  cleanup *(*add_cleanup)(void *request, size_t size);
  int (*context_table)(void *request, int *in_ssl_phase, int *ssl_reference);
} symbols;

static symbols of_http, of_stream;
static void *(*exdata_of)(lua_State *);

static void look_up(void) {
  *(void **)&exdata_of = dlsym(RTLD_DEFAULT, "lua_getexdata");
  *(void **)&of_http.add_cleanup = dlsym(RTLD_DEFAULT, "ngx_http_cleanup_add");
  *(void **)&of_http.context_table = dlsym(RTLD_DEFAULT, "ngx_http_lua_ffi_get_ctx_ref");
  *(void **)&of_stream.add_cleanup = dlsym(RTLD_DEFAULT, "ngx_stream_lua_cleanup_add");
  *(void **)&of_stream.context_table = dlsym(RTLD_DEFAULT, "ngx_stream_lua_ffi_get_ctx_ref");
}

/* Where ngx_lua keeps the request: in OpenResty's LuaJIT beside the coroutine, else in a global. */
static void *request_of(lua_State *L) {
  void *request = exdata_of ? exdata_of(L) : NULL;
  if (!request) {
    weft_push_globals(L);
    lua_pushliteral(L, "__ngx_req");
    lua_rawget(L, -2);
    request = lua_touserdata(L, -1);
    lua_pop(L, 2);
  }
  return request;
}

/* Pushes the name of the phase that runs. */
static const char *push_phase(lua_State *L) {
  lua_getglobal(L, "ngx");
  lua_getfield(L, -1, "get_phase");
  lua_replace(L, -2);
  if (lua_pcall(L, 0, 1, 0) != 0 || lua_type(L, -1) != LUA_TSTRING) {
    lua_pop(L, 1);
    lua_pushliteral(L, "unknown");
  }
  return lua_tostring(L, -1);
}

static int is_one_of(const char *phase, const char *const *phases) {
  while (*phases)
    if (strcmp(phase, *phases++) == 0)
      return 1;
  return 0;
}

/* Phases that work for no request have one that is not cleaned up; before "log" it has been. */
static int watch_end(lua_State *L, const symbols *nginx, void *request, void (*ended)(void *),
                     void *arg) {
  static const char *const without_end[] = {"init", "init_worker", "exit_worker", "log", NULL};
  int has_end = !is_one_of(push_phase(L), without_end);
  lua_pop(L, 1);
  cleanup *entry = has_end && nginx->add_cleanup ? nginx->add_cleanup(request, 0) : NULL;
  if (!entry)
    return 0;
  entry->handler = ended;
  entry->data = arg;
  return 1;
}

static int watch_http(lua_State *L, void *request, void (*ended)(void *), void *arg) {
  return watch_end(L, &of_http, request, ended, arg);
}

static int watch_stream(lua_State *L, void *request, void (*ended)(void *), void *arg) {
  return watch_end(L, &of_stream, request, ended, arg);
}

/* ngx.ctx, where lua-resty-core keeps it, unless nobody has asked for it yet. */
static const void *table_of(lua_State *L, const symbols *nginx) {
  int unused[2], number = -1;
  void *request = request_of(L);
  if (nginx->context_table && request)
    number = nginx->context_table(request, &unused[0], &unused[1]);
  if (number < 0)
    return NULL;
  lua_getfield(L, LUA_REGISTRYINDEX, "ngx_lua_ctx_tables");
  const void *table = NULL;
  if (lua_istable(L, -1)) {
    lua_rawgeti(L, -1, number);
    table = lua_topointer(L, -1);
    lua_pop(L, 1);
  }
  lua_pop(L, 1);
  return table;
}

static const void *table_of_http(lua_State *L) {
  return table_of(L, &of_http);
}

static const void *table_of_stream(lua_State *L) {
  return table_of(L, &of_stream);
}

static int turn_away(lua_State *L, const weft_park_op *op) {
  static const char *const that_can_wait[] = {
      "rewrite",  "server_rewrite",    "access",           "content", "timer",
      "ssl_cert", "ssl_session_fetch", "ssl_client_hello", NULL};
  const char *phase = push_phase(L);
  if (is_one_of(phase, that_can_wait))
    return weft_raise_in_c_call(L, L, op->what);
  weft_fail(weft_state_of(L), L, "phase", "%s would wait, which nginx cannot do in the phase '%s'",
            op->what, phase);
  return op->flags & WEFT_PARK_STEPS ? lua_error(L) : 2;
}

const weft_guest_loop *weft_nginx_loop(lua_State *L) {
  static const weft_guest_loop http = {request_of, watch_http, table_of_http, turn_away};
  static const weft_guest_loop stream = {request_of, watch_stream, table_of_stream, turn_away};
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  const weft_guest_loop *found = NULL;
  int top = lua_gettop(L);
  lua_getglobal(L, "ngx");
  if (lua_istable(L, -1)) {
    lua_getfield(L, -1, "get_phase");
    lua_getfield(L, -2, "config");
    if (lua_isfunction(L, -2) && lua_istable(L, -1)) {
      lua_getfield(L, -1, "subsystem");
      const char *subsystem = lua_tostring(L, -1);
      found = subsystem && strcmp(subsystem, "stream") == 0 ? &stream : &http;
    }
  }
  lua_settop(L, top);
  if (found) {
    pthread_once(&once, look_up);
    atomic_store(&is_here, 1);
  }
  return found;
}

/* ---- the meeting of a cosocket and its other end ---- */

typedef struct meeting {
  int listener;     /* -1: none */
  uint32_t process; /* in which the state was opened */
  char folder[sizeof((struct sockaddr_un *)0)->sun_path - 4];
  struct sockaddr_un address;
} meeting;

static meeting *meeting_of(lua_State *L) {
  lua_rawgetp(L, LUA_REGISTRYINDEX, &meeting_key);
  meeting *self = lua_touserdata(L, -1);
  lua_pop(L, 1);
  return self;
}

static void end_meeting(meeting *self) {
  if (self->listener >= 0) {
    close(self->listener);
    unlink(self->address.sun_path);
    rmdir(self->folder);
  }
  self->listener = -1;
}

static int collect_meeting(lua_State *L) {
  end_meeting(lua_touserdata(L, 1));
  return 0;
}

static int fail_errno(lua_State *L, const char *what, const char *path, int error) {
  return weft_fail(WEFT_STATE(L), L, "nginx", "%s %s: %s", what, path, strerror(error));
}

static int open_listener(meeting *self) {
  self->address = (struct sockaddr_un){.sun_family = AF_UNIX};
  strcpy(self->address.sun_path, self->folder);
  strcat(self->address.sun_path, "/w");
  int fd = weft_fd_socket(AF_UNIX, SOCK_STREAM, 0);
  if (fd >= 0 && bind(fd, (void *)&self->address, sizeof self->address) == 0 &&
      listen(fd, 1) == 0) {
    self->listener = fd;
    return 0;
  }
  int error = errno;
  if (fd >= 0)
    close(fd);
  unlink(self->address.sun_path);
  rmdir(self->folder);
  return error;
}

/*** Makes a socket in a new private folder below `parent`; returns its path, or nil and an error.
 * @function host.listen
 * @local
 */
static int host_listen(lua_State *L) {
  meeting *self = meeting_of(L);
  const char *parent = luaL_checkstring(L, 1);
  end_meeting(self);
  if (snprintf(self->folder, sizeof self->folder, "%s/weft-XXXXXX", parent) >=
      (int)sizeof self->folder)
    return weft_fail(WEFT_STATE(L), L, "nginx", "the path %s is too long for a socket", parent);
  if (!mkdtemp(self->folder)) /* with mode 0700 */
    return fail_errno(L, "a folder cannot be made in", parent, errno);
  int error = open_listener(self);
  if (error)
    return fail_errno(L, "a socket cannot be made in", self->folder, error);
  lua_pushstring(L, self->address.sun_path);
  return 1;
}

/* The folder is private to this user; processes of the same user are turned away. */
static int accept_own(int listener) {
  for (;;) {
    int fd = weft_fd_accept(listener);
    if (fd < 0)
      return -1;
    if (weft_fd_peer_is_own(fd))
      return fd;
    close(fd);
  }
}

static int adopt(weft_parker *parker, int fd) {
  if (parker->fd < 0) {
    parker->fd = fd; /* no sender reads it before the parker is first armed */
    return 1;
  }
  int rc = weft_fd_replace(fd, parker->fd);
  close(fd);
  return rc >= 0;
}

/*** Once the cosocket is connected: true, or nil and an error. The folder is gone then.
 * @function host.accept
 * @local
 */
static int host_accept(lua_State *L) {
  meeting *self = meeting_of(L);
  weft_scheduler *scheduler = &WEFT_STATE(L)->scheduler;
  weft_guests_ready(scheduler, L);
  weft_parker_disarm(&scheduler->inbox->parker);
  int fd = self->listener >= 0 ? accept_own(self->listener) : -1, error = errno;
  end_meeting(self);
  if (fd < 0 || !adopt(&scheduler->inbox->parker, fd))
    return weft_fail(WEFT_STATE(L), L, "nginx", "the connection that wakes nginx failed: %s",
                     strerror(fd < 0 ? error : errno));
  lua_pushboolean(L, 1);
  return 1;
}

/*** Gives the socket up that nobody connected to.
 * @function host.unlisten
 * @local
 */
static int host_unlisten(lua_State *L) {
  end_meeting(meeting_of(L));
  return 0;
}

/*** Whether this VM's loop may stay when nobody waits. The VMs that nginx makes for each request
 * with lua_code_cache off must not, or they would never be freed.
 * @function host.may_linger
 * @local
 */
static int host_may_linger(lua_State *L) {
  uint32_t process = weft_process_generation() + 1;
  int is_first = atomic_exchange(&lingering, process) != process;
  lua_pushboolean(L, is_first || meeting_of(L)->process != weft_process_generation());
  return 1;
}

/* ---- serving the inbox ---- */

/*** True: the next wake is written to the connection. False: something has come already.
 * @function host.arm
 * @local
 */
static int host_arm(lua_State *L) {
  lua_pushboolean(L, weft_parker_arm(&WEFT_STATE(L)->scheduler.inbox->parker));
  return 1;
}

/*** No wake is written until the next arm.
 * @function host.disarm
 * @local
 */
static int host_disarm(lua_State *L) {
  weft_scheduler *scheduler = &WEFT_STATE(L)->scheduler;
  if (scheduler->inbox)
    weft_parker_disarm(&scheduler->inbox->parker);
  return 0;
}

/*** The number of a guest that was woken, or nothing.
 * @function host.take
 * @local
 */
static int host_take(lua_State *L) {
  uint32_t number = weft_guests_take(&WEFT_STATE(L)->scheduler);
  if (!number)
    return 0;
  weft_push_integer(L, number);
  return 1;
}

static uint32_t number_at(lua_State *L) {
  return (uint32_t)luaL_checknumber(L, 1);
}

/*** Of a guest that was woken: nobody waits for it any more.
 * @function host.drop
 * @local
 */
static int host_drop(lua_State *L) {
  weft_guest_drop(&WEFT_STATE(L)->scheduler, number_at(L));
  return 0;
}

/*** Its caller cannot wait: nil and an error; or true when it has been woken after all.
 * @function host.withdraw
 * @local
 */
static int host_withdraw(lua_State *L) {
  if (weft_guest_withdraw(&WEFT_STATE(L)->scheduler, number_at(L)))
    return weft_fail(WEFT_STATE(L), L, "nginx", "nginx cannot wait: %s", luaL_checkstring(L, 2));
  lua_pushboolean(L, 1);
  return 1;
}

/*** How many callers wait.
 * @function host.waiting
 * @local
 */
static int host_waiting(lua_State *L) {
  weft_push_integer(L, weft_guests_waiting(&WEFT_STATE(L)->scheduler));
  return 1;
}

/*** From now on the loop ends when nobody waits.
 * @function host.end_when_idle
 * @local
 */
static int host_end_when_idle(lua_State *L) {
  weft_guests_end_when_idle(&WEFT_STATE(L)->scheduler);
  return 0;
}

/*** Whether it shall end now.
 * @function host.shall_end
 * @local
 */
static int host_shall_end(lua_State *L) {
  lua_pushboolean(L, weft_guests_shall_end(&WEFT_STATE(L)->scheduler));
  return 1;
}

/*** Cancels the context of every request, with a message as the cause.
 * @function host.cancel_requests
 * @local
 */
static int host_cancel_requests(lua_State *L) {
  weft_error *cause = weft_error_new("canceled", luaL_checkstring(L, 1));
  weft_guests_cancel_requests(&WEFT_STATE(L)->scheduler, cause);
  weft_error_release(cause);
  return 0;
}

/*** This coroutine runs under the context until host.leave. False: it works for no request.
 * @function host.enter
 * @local
 */
static int host_enter(lua_State *L) {
  weft_context *context =
      (weft_context *)weft_check_handle(L, 1, &weft_context_type, "enter", "ctx");
  lua_pushboolean(L, weft_guests_enter(&WEFT_STATE(L)->scheduler, L, context));
  return 1;
}

/*** Undoes the last enter of this coroutine.
 * @function host.leave
 * @local
 */
static int host_leave(lua_State *L) {
  weft_guests_leave(&WEFT_STATE(L)->scheduler, L);
  return 0;
}

/*** Settings of the default pool. False: it has threads already.
 * @function host.setup_pool
 * @local
 */
static int host_setup_pool(lua_State *L) {
  uint32_t threads = weft_check_count(L, 1, "weft.ngx.setup", "threads", 1, WEFT_POOL_MAX_THREADS);
  lua_pushboolean(
      L, weft_default_pool_setup(threads, (int)luaL_checknumber(L, 2), lua_toboolean(L, 3)));
  return 1;
}

/*** How many processors this process may run on.
 * @function host.processors
 * @local
 */
static int host_processors(lua_State *L) {
  weft_push_integer(L, weft_cpu_count());
  return 1;
}

/* ---- opening ---- */

void weft_nginx_push_host(lua_State *L) {
  lua_rawgetp(L, LUA_REGISTRYINDEX, &host_key);
  if (!lua_isnil(L, -1))
    return;
  lua_pop(L, 1);
  lua_newtable(L);
  lua_pushvalue(L, -1);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &host_key);
}

static void make_meeting(lua_State *L) {
  meeting *self = lua_newuserdata(L, sizeof *self);
  *self = (meeting){.listener = -1, .process = weft_process_generation()};
  lua_newtable(L);
  lua_pushcfunction(L, collect_meeting);
  lua_setfield(L, -2, "__gc");
  lua_setmetatable(L, -2);
  lua_rawsetp(L, LUA_REGISTRYINDEX, &meeting_key);
}

void weft_open_nginx(weft_state *state, lua_State *L) {
  static const weft_function functions[] = {{"listen", host_listen, 0},
                                            {"accept", host_accept, 0},
                                            {"unlisten", host_unlisten, 0},
                                            {"may_linger", host_may_linger, 0},
                                            {"arm", host_arm, 0},
                                            {"disarm", host_disarm, 0},
                                            {"take", host_take, 0},
                                            {"drop", host_drop, 0},
                                            {"withdraw", host_withdraw, 0},
                                            {"waiting", host_waiting, 0},
                                            {"end_when_idle", host_end_when_idle, 0},
                                            {"shall_end", host_shall_end, 0},
                                            {"cancel_requests", host_cancel_requests, 0},
                                            {"setup_pool", host_setup_pool, 0},
                                            {"processors", host_processors, 0},
                                            {"enter", host_enter, 0},
                                            {"leave", host_leave, 0},
                                            {NULL, NULL, 0}};
  if (!state->scheduler.guests)
    return;
  make_meeting(L);
  weft_nginx_push_host(L);
  weft_register(L, state, functions);
  weft_open_guest_tasks(state, L);
  lua_setfield(L, -2, "host");
}

/* ---- tasks ---- */

static int raise_no_nginx(lua_State *L) {
  const char *name = lua_type(L, 2) == LUA_TSTRING ? lua_tostring(L, 2) : "?";
  return luaL_error(
      L,
      "ngx.%s is not there in a task, which runs on a native thread outside of nginx: "
      "use it in the handler, and give the task what it needs",
      name);
}

void weft_nginx_refuse_in_tasks(lua_State *L) {
  if (!atomic_load(&is_here))
    return;
  lua_newtable(L);
  lua_pushlightuserdata(L, NULL);
  lua_setfield(L, -2, "null");
  lua_newtable(L);
  lua_pushcfunction(L, raise_no_nginx);
  lua_setfield(L, -2, "__index");
  lua_pushcfunction(L, raise_no_nginx);
  lua_setfield(L, -2, "__newindex");
  lua_setmetatable(L, -2);
  lua_getfield(L, LUA_REGISTRYINDEX, "_LOADED");
  lua_pushvalue(L, -2);
  lua_setfield(L, -2, "ngx");
  lua_pop(L, 1);
  lua_setglobal(L, "ngx");
}

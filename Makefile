# Builds weft. `make` builds for Lua 5.4, `make LUA=luajit` for LuaJIT 2.1; `make demo` and `make test`
# install what they need on Debian and do all the rest. SAN=address or SAN=thread builds beside.

LUA ?= lua54
SAN ?=
SYSTEM := $(shell uname -s)
PLATFORM ?= $(if $(filter Linux,$(SYSTEM)),linux,posix)
CC ?= gcc
AR ?= ar
OPT ?= -O2
WARN = -Wall -Wextra -Wno-unused-parameter -Wno-missing-field-initializers

ifeq ($(LUA),luajit)
LUA_BIN ?= luajit
LUA_INCDIR ?= /usr/include/luajit-2.1
LUA_LIB ?= -lluajit-5.1
else
LUA_BIN ?= lua5.4
LUA_INCDIR ?= /usr/include/lua5.4
LUA_LIB ?= -llua5.4
endif

# On Linux `posix` takes away what is not POSIX, so that the code for other systems is compiled and tested.
STRICT = $(filter Linux-posix,$(SYSTEM)-$(PLATFORM))
GNU = -std=gnu11 -D_GNU_SOURCE
FEATURES = $(if $(STRICT),-std=c11 -D_POSIX_C_SOURCE=200809L -D_XOPEN_SOURCE=700 -Werror=implicit-function-declaration,$(GNU))
KIND = $(if $(STRICT),-posix)$(if $(SAN),-$(SAN))
SAN_FLAGS = $(if $(filter address,$(SAN)),-fsanitize=address$(comma)undefined -fno-omit-frame-pointer,$(if $(SAN),-fsanitize=$(SAN)))
comma := ,
BUILD = build/$(LUA)$(KIND)
CORE_BUILD = build/core$(KIND)

BASE_CFLAGS = $(FEATURES) $(OPT) -g -fPIC -fvisibility=hidden -pthread $(WARN) $(SAN_FLAGS)
CURL_CFLAGS = $(if $(CURL_INCDIR),-I$(CURL_INCDIR))
CURL_LIBS = $(if $(CURL_LIBDIR),-L$(CURL_LIBDIR)) -lcurl
ifeq ($(SYSTEM),Darwin)
LIBFLAG ?= -bundle -undefined dynamic_lookup
LINK = $(CC) $(LIBFLAG) -pthread $(SAN_FLAGS)
else
LIBFLAG ?= -shared
LINK = $(CC) $(LIBFLAG) -pthread $(SAN_FLAGS) -Wl,-z,nodelete -Wl,-z,relro
endif

POLLER = $(if $(filter linux,$(PLATFORM)),poller_epoll,poller_poll)
# In the order of the data's way: what carries it, what waits, who runs it, what it waits for.
CORE = platform platform_$(PLATFORM) census mem ledger clock random fingerprint buf error parcel waiter block inbox timer $(POLLER) io trace context signals \
       task group queue pool pool_worker pool_call monitor channel ticker select semaphore waitgroup limiter dict \
       singleflight budget health http_settings http_proxy http_target http_request http_redirect \
       http_spare http_response http_stream http_error \
       http_socket http_timeout http_shard http_lane http_turn http sse lines stats
CORE_SRC = $(wildcard $(CORE:%=src/core/%.c))
# closure → names → ship → encode → decode → scheduler → outcome, and one file a userdata.
BINDING = module state classes errors bytecode bytecode_54 bytecode_jit lostwrite vmprobe names ship \
          encode_plain encode refuse decode shared scheduler fiber_base park wake guest guest_task nginx coroutines coroutines_54 coroutines_jit outcome roster sight roll deadlock slab worker objects \
          context pool group group_go group_drain group_wait group_task group_leave group_unseen time channel \
          ticker select sync limiter dict singleflight budget health sse http http_stream tasks metrics trace ledger virtual_clock
BINDING_SRC = $(wildcard $(BINDING:%=src/lua/%.c))
# The model server for tests: C alone, and its face in Lua.
MODEL = model_timer model_arena model_json model_json_write model_gzip model_http model_record \
        model_style model_config model_fault model_ask model_routes model_template model_mock model_content \
        model_turn model_api model_vector model_openai model_anthropic model_ollama model_head \
        model_quota model_answer model_reply model_conn model_server
MODEL_SRC = $(MODEL:%=src/testing/%.c)
SERVER = lua_model_reader lua_model_style lua_model_faults lua_model_replies lua_model_matcher \
         lua_model_options lua_model_server
SERVER_SRC = $(SERVER:%=src/testing/%.c)

CORE_OBJ = $(CORE_SRC:src/core/%.c=$(CORE_BUILD)/%.o)
BINDING_OBJ = $(BINDING_SRC:src/lua/%.c=$(BUILD)/lua/%.o)
MODEL_OBJ = $(MODEL_SRC:src/testing/%.c=$(CORE_BUILD)/testing/%.o)
SERVER_OBJ = $(SERVER_SRC:src/testing/%.c=$(BUILD)/testing/%.o)

all: $(BUILD)/weft/core.so $(BUILD)/weft/testing/server.so

# The core has no Lua include path: it cannot depend on Lua by accident.
$(CORE_BUILD)/%.o: src/core/%.c
	@mkdir -p $(@D)
	$(CC) $(BASE_CFLAGS) $(CFLAGS) -Isrc/core $(CURL_CFLAGS) -MMD -MP -c $< -o $@

$(CORE_BUILD)/libweft.a: $(CORE_OBJ)
	$(AR) rcs $@ $^

$(CORE_BUILD)/testing/%.o: src/testing/%.c
	@mkdir -p $(@D)
	$(CC) $(BASE_CFLAGS) $(CFLAGS) -Isrc/core -MMD -MP -c $< -o $@

$(CORE_BUILD)/libmodel.a: $(MODEL_OBJ)
	$(AR) rcs $@ $^

$(BUILD)/lua/%.o: src/lua/%.c
	@mkdir -p $(@D)
	$(CC) $(BASE_CFLAGS) $(CFLAGS) -Isrc/core -I$(LUA_INCDIR) -MMD -MP -c $< -o $@

$(BUILD)/testing/%.o: src/testing/%.c
	@mkdir -p $(@D)
	$(CC) $(BASE_CFLAGS) $(CFLAGS) -Isrc/core -I$(LUA_INCDIR) -MMD -MP -c $< -o $@

$(BUILD)/weft/core.so: $(BINDING_OBJ) $(CORE_BUILD)/libweft.a
	@mkdir -p $(@D)
	$(LINK) -o $@ $^ $(CURL_LIBS) -lm

$(BUILD)/weft/testing/server.so: $(SERVER_OBJ) $(CORE_BUILD)/libmodel.a $(CORE_BUILD)/libweft.a
	@mkdir -p $(@D)
	$(LINK) -o $@ $^ -lm

-include $(CORE_OBJ:.o=.d) $(BINDING_OBJ:.o=.d) $(MODEL_OBJ:.o=.d) $(SERVER_OBJ:.o=.d)

# ---- C programs: the core's tests, and the example that embeds it ----

C_TESTS = $(patsubst spec/core/test_%.c,%,$(filter-out spec/core/test_bytecode.c,$(wildcard spec/core/test_*.c)))
C_BUILD = build/c$(KIND)

$(C_BUILD)/embed: examples/embed.c $(CORE_BUILD)/libweft.a
	@mkdir -p $(@D)
	$(CC) $(BASE_CFLAGS) $(GNU) -Isrc/core $^ -o $@ -lcurl -lm

$(C_BUILD)/test_%: spec/core/test_%.c $(CORE_BUILD)/libmodel.a $(CORE_BUILD)/libweft.a $(wildcard spec/core/*.h)
	@mkdir -p $(@D)
	$(CC) $(BASE_CFLAGS) $(GNU) -fvisibility=default -rdynamic -Isrc/core -Isrc/testing -Ispec/core $< $(CORE_BUILD)/libmodel.a $(CORE_BUILD)/libweft.a -o $@ -lcurl -lssl -lcrypto -lz -lm

# Links the VM, since it tests what is made of its dumps.
$(C_BUILD)/$(LUA)-test_bytecode: spec/core/test_bytecode.c $(BUILD)/lua/bytecode.o $(BUILD)/lua/bytecode_54.o $(BUILD)/lua/bytecode_jit.o $(BUILD)/lua/lostwrite.o $(CORE_BUILD)/libweft.a
	@mkdir -p $(@D)
	$(CC) $(BASE_CFLAGS) $(GNU) -Isrc/core -Isrc/lua -Ispec/core -I$(LUA_INCDIR) $^ -o $@ $(LUA_LIB) -lm -ldl

embed: $(C_BUILD)/embed
	$<

C_PROGRAMS = $(C_TESTS:%=$(C_BUILD)/test_%) $(C_BUILD)/$(LUA)-test_bytecode $(C_BUILD)/embed

.SECONDARY: $(C_PROGRAMS)
test-c: $(C_PROGRAMS:%=run-c/%)

# One line of output a program, all of it when that fails.
run-c/%: %
	@TSAN_OPTIONS=die_after_fork=0 timeout 300 $(TEST_WRAPPER) $< > $<.log 2>&1 || { cat $<.log; echo "FAILED: $<"; exit 1; }; \
	  printf '== %s\n%s\n' "$<" "$$(tail -n 1 $<.log)"

# ---- the suite in Lua: busted, on one VM, with one way of shipping ----

SPEC_TIMEOUT_S ?= 300
SPECS ?= $(sort $(wildcard spec/*_spec.lua))
PRELOAD = $(if $(filter address,$(SAN)),LD_PRELOAD=$(shell $(CC) -print-file-name=libasan.so) ASAN_OPTIONS=detect_leaks=0)$(if $(filter thread,$(SAN)),LD_PRELOAD=$(shell $(CC) -print-file-name=libtsan.so) TSAN_OPTIONS="suppressions=$(CURDIR)/spec/support/tsan.supp exitcode=66 report_signal_unsafe=0")
RUN_LUA = LUA_PATH="$(CURDIR)/lua/?.lua;$(CURDIR)/lua/?/init.lua;$(CURDIR)/?.lua;;" LUA_CPATH="$(CURDIR)/$(BUILD)/?.so;;"

# What specs need of the system and Lua does not have.
$(BUILD)/forking.so: spec/support/forking.c
	@mkdir -p $(@D)
	$(CC) $(BASE_CFLAGS) $(GNU) -I$(LUA_INCDIR) -shared $< -o $@

test-lua: $(SPECS:%=run-lua/%)

run-lua/%: all $(BUILD)/forking.so
	@mkdir -p $(BUILD)/logs; log=$(BUILD)/logs/$(notdir $*)$(WEFT_SHIP).log; \
	  env $(RUN_LUA) $(PRELOAD) WEFT_SAN=$(SAN) WEFT_PLATFORM=$(PLATFORM) timeout $(SPEC_TIMEOUT_S) $(TEST_WRAPPER) /usr/bin/$(LUA_BIN) spec/support/run.lua $* > $$log 2>&1 \
	    || { cat $$log; echo "FAILED: $(LUA) $(WEFT_SHIP) $(SAN) $*"; exit 1; }; \
	  printf '== %s\n%s\n' "$(LUA) $(WEFT_SHIP) $(SAN) $*" "$$(grep -E "^[0-9]+ success" $$log)"

# ---- what the README names ----

lint:
	luacheck -q lua spec examples bench scripts
	lua5.4 scripts/check_docs.lua
	lua5.4 scripts/check_links.lua
	@! grep -nE '<sys/(epoll|eventfd|syscall|prctl)\.h>|<linux/|SOCK_(CLOEXEC|NONBLOCK)|"/proc/' $(filter-out %_linux.c %_epoll.c,$(wildcard src/*/*.[ch])) \
	  || { echo "Linux's own belongs behind src/core/platform.h and poller.h" >&2; exit 1; }

# Programs and specs run several at a time; each prints when it ends, and all run though one fails.
JOBS ?= $(shell getconf _NPROCESSORS_ONLN)
RUN_ALL = $(MAKE) --no-print-directory -s -k -j$(JOBS)

# Everything: both VMs, both ways of shipping, the core's C tests, checks of sources and docs.
test:
	@sh scripts/deps.sh test
	@$(MAKE) --no-print-directory -s -j$(JOBS) all
	@$(MAKE) --no-print-directory -s -j$(JOBS) LUA=luajit all
	@$(MAKE) --no-print-directory -s lint
	@$(RUN_ALL) test-c
	@$(RUN_ALL) LUA=luajit test-c C_TESTS=
	@$(RUN_ALL) test-lua
	@WEFT_SHIP=portable $(RUN_ALL) test-lua
	@$(RUN_ALL) LUA=luajit test-lua
	@WEFT_SHIP=portable $(RUN_ALL) LUA=luajit test-lua
	@sh spec/rock_smoke.sh
	@echo "weft: all tests passed"

# The code for systems without epoll and futexes, on Linux.
test-posix:
	@sh scripts/deps.sh test
	@$(RUN_ALL) PLATFORM=posix all
	@$(RUN_ALL) PLATFORM=posix test-c test-lua
	@$(RUN_ALL) PLATFORM=posix LUA=luajit all
	@$(RUN_ALL) PLATFORM=posix LUA=luajit test-lua
	@echo "weft: passed with what POSIX has"

# The same suite under the sanitizers.
asan:
	@sh scripts/deps.sh test
	@$(RUN_ALL) SAN=address all
	@$(RUN_ALL) SAN=address test-c test-lua
	@$(RUN_ALL) SAN=address LUA=luajit all
	@$(RUN_ALL) SAN=address LUA=luajit test-lua
	@echo "weft: AddressSanitizer and UBSan found nothing"

tsan:
	@sh scripts/deps.sh test
	@$(RUN_ALL) SAN=thread all
	@$(RUN_ALL) SAN=thread test-c test-lua
	@echo "weft: ThreadSanitizer found nothing"

# The same where everything is slower or scarcer: a collector that never rests, one processor, valgrind.
stress:
	@sh scripts/deps.sh test
	@$(RUN_ALL) all
	@SPEC_GC=hostile $(RUN_ALL) test-lua
	@taskset -c 0 $(RUN_ALL) JOBS=1 test-c test-lua
	@$(RUN_ALL) test-c TEST_WRAPPER="valgrind -q --error-exitcode=9 --fair-sched=yes"
	@echo "weft: passed with a hostile collector, on one processor, and under valgrind"

# Ten reloads under load, 100,000 requests: some minutes.
test-nginx-long:
	@sh scripts/deps.sh test
	@$(MAKE) --no-print-directory -s LUA=luajit all
	@env LUA_PATH="$(CURDIR)/lua/?.lua;$(CURDIR)/lua/?/init.lua;$(CURDIR)/?.lua;;" LUA_CPATH="$(CURDIR)/build/luajit/?.so;;" \
	  /usr/bin/luajit spec/support/run.lua spec/nginx_long.lua

demo:
	@sh scripts/deps.sh demo
	@$(MAKE) --no-print-directory -s all
	@env $(RUN_LUA) $(LUA_BIN) examples/triage.lua

# The gateway of examples/nginx before a model server, with Debian's nginx.
demo-nginx:
	@sh scripts/deps.sh demo-nginx
	@$(MAKE) --no-print-directory -s LUA=luajit all
	@sh examples/nginx/demo.sh

clean:
	rm -rf build

include bench/bench.mk spec/fuzz/fuzz.mk

# ---- installing: by hand, or by the rockspec, which sets the folders ----

PREFIX ?= /usr/local
LUADIR ?= $(PREFIX)/share/lua/$(if $(filter luajit,$(LUA)),5.1,5.4)
LIBDIR ?= $(PREFIX)/lib/lua/$(if $(filter luajit,$(LUA)),5.1,5.4)

install: all
	cd lua && find weft -type d -exec mkdir -p '$(DESTDIR)$(LUADIR)/{}' ';'
	cd lua && find weft -name '*.lua' -exec install -m 644 '{}' '$(DESTDIR)$(LUADIR)/{}' ';'
	mkdir -p '$(DESTDIR)$(LIBDIR)/weft/testing'
	install -m 755 $(BUILD)/weft/core.so '$(DESTDIR)$(LIBDIR)/weft/core.so'
	install -m 755 $(BUILD)/weft/testing/server.so '$(DESTDIR)$(LIBDIR)/weft/testing/server.so'

# the core for C programs: weft.h and libweft.a, to be linked with -lcurl -lm -pthread
install-core: $(CORE_BUILD)/libweft.a
	mkdir -p '$(DESTDIR)$(PREFIX)/include' '$(DESTDIR)$(PREFIX)/lib'
	install -m 644 src/core/weft.h '$(DESTDIR)$(PREFIX)/include/weft.h'
	install -m 644 $(CORE_BUILD)/libweft.a '$(DESTDIR)$(PREFIX)/lib/libweft.a'

rock:
	@grep -q 'LUA_VERSION_NUM.*504' '$(LUA_INCDIR)/lua.h' || test -e '$(LUA_INCDIR)/luajit.h' \
	  || { echo "weft needs Lua 5.4 or LuaJIT 2.1, and $(LUA_INCDIR) is neither: try luarocks --lua-version 5.4 make" >&2; exit 1; }
	@$(MAKE) --no-print-directory -s all

rock-test:
	@sh spec/rock_smoke.sh

.PHONY: all embed test-c test-lua lint test test-posix asan tsan stress test-nginx-long demo demo-nginx clean install install-core rock rock-test

# Builds weft. `make` builds for Lua 5.4, `make LUA=luajit` for LuaJIT 2.1; `make demo` and `make test`
# install what they need on Debian and do all the rest. SAN=address or SAN=thread builds beside.

LUA ?= lua54
SAN ?=
CC ?= gcc
AR ?= ar
OPT ?= -O2
WARN = -Wall -Wextra -Wno-unused-parameter

ifeq ($(LUA),luajit)
LUA_BIN ?= luajit
LUA_INCDIR ?= /usr/include/luajit-2.1
LUA_LIB ?= -lluajit-5.1
else
LUA_BIN ?= lua5.4
LUA_INCDIR ?= /usr/include/lua5.4
LUA_LIB ?= -llua5.4
endif

SAN_FLAGS = $(if $(filter address,$(SAN)),-fsanitize=address$(comma)undefined -fno-omit-frame-pointer,$(if $(SAN),-fsanitize=$(SAN)))
comma := ,
BUILD = build/$(LUA)$(if $(SAN),-$(SAN))
CORE_BUILD = build/core$(if $(SAN),-$(SAN))

BASE_CFLAGS = -std=gnu11 -D_GNU_SOURCE $(OPT) -g -fPIC -fvisibility=hidden -pthread $(WARN) $(SAN_FLAGS)
LINK = $(CC) $(if $(LIBFLAG),$(LIBFLAG),-shared) -pthread $(SAN_FLAGS) -Wl,-z,nodelete -Wl,-z,relro

# In the order of the data's way: what carries it, what waits, who runs it, what it waits for.
CORE = platform mem clock buf error parcel waiter block inbox timer io context task group \
       pool monitor channel semaphore waitgroup http_settings http_request http_response http_error \
       http_socket http_shard http_turn http stats
CORE_SRC = $(wildcard $(CORE:%=src/core/%.c))
# closure → names → ship → value → scheduler → outcome, and one file a userdata.
BINDING = module state errors bytecode bytecode_54 bytecode_jit lostwrite vmprobe names ship value \
          scheduler outcome slab worker objects context pool group time sync http
BINDING_SRC = $(wildcard $(BINDING:%=src/lua/%.c))
SERVER = model_timer model_json model_http model_record model_config model_fault model_mock \
         model_reply model_conn model_server lua_model_options lua_model_server
SERVER_SRC = $(SERVER:%=src/testing/%.c)

CORE_OBJ = $(CORE_SRC:src/core/%.c=$(CORE_BUILD)/%.o)
BINDING_OBJ = $(BINDING_SRC:src/lua/%.c=$(BUILD)/lua/%.o)
SERVER_OBJ = $(SERVER_SRC:src/testing/%.c=$(BUILD)/testing/%.o)

all: $(BUILD)/weft/core.so $(BUILD)/weft/testing/server.so

# The core has no Lua include path: it cannot depend on Lua by accident.
$(CORE_BUILD)/%.o: src/core/%.c
	@mkdir -p $(@D)
	$(CC) $(BASE_CFLAGS) $(CFLAGS) -Isrc/core -MMD -MP -c $< -o $@

$(CORE_BUILD)/libweft.a: $(CORE_OBJ)
	$(AR) rcs $@ $^

$(BUILD)/lua/%.o: src/lua/%.c
	@mkdir -p $(@D)
	$(CC) $(BASE_CFLAGS) $(CFLAGS) -Isrc/core -I$(LUA_INCDIR) -MMD -MP -c $< -o $@

$(BUILD)/testing/%.o: src/testing/%.c
	@mkdir -p $(@D)
	$(CC) $(BASE_CFLAGS) $(CFLAGS) -Isrc/core -I$(LUA_INCDIR) -MMD -MP -c $< -o $@

$(BUILD)/weft/core.so: $(BINDING_OBJ) $(CORE_BUILD)/libweft.a
	@mkdir -p $(@D)
	$(LINK) -o $@ $^ -lcurl -lm

$(BUILD)/weft/testing/server.so: $(SERVER_OBJ) $(CORE_BUILD)/libweft.a
	@mkdir -p $(@D)
	$(LINK) -o $@ $^ -lm

-include $(CORE_OBJ:.o=.d) $(BINDING_OBJ:.o=.d) $(SERVER_OBJ:.o=.d)

clean:
	rm -rf build

.PHONY: all clean

# What weft costs, beside its peers, in one run each. Included by the Makefile; docs/performance.md has the results.

# From C: what each is made of.
$(C_BUILD)/bench_sync: bench/sync.c
$(C_BUILD)/bench_stream: bench/stream.c
$(C_BUILD)/bench_http: bench/http/client.c

$(C_BUILD)/bench_%: $(CORE_BUILD)/libweft.a
	@mkdir -p $(@D)
	$(CC) $(BASE_CFLAGS) -Isrc/core $(filter %.c,$^) $(CORE_BUILD)/libweft.a -o $@ -lcurl -lm

# Installs what the target needs, and builds for both VMs, with $(1) beside that.
define ready
	@sh scripts/deps.sh $@
	@$(MAKE) --no-print-directory -s all $(1)
	@$(MAKE) --no-print-directory -s LUA=luajit all
endef

# Tasks, against Go's and Lua's.
bench:
	$(call ready)
	@sh bench/run.sh

# Channels, select and what else tasks meet at, against Go's, and from C.
bench-sync:
	$(call ready,$(C_BUILD)/bench_sync)
	@sh bench/sync.sh

# weft in nginx, measured by wrk against nginx's own ways.
bench-nginx:
	$(call ready)
	@sh bench/nginx.sh

# Streams: the parser, and many at once.
bench-stream:
	$(call ready,$(C_BUILD)/bench_stream)
	@cd bench/gostream && go build -o ../../build/gostream .
	@ulimit -n 4096 && $(C_BUILD)/bench_stream
	@ulimit -n 4096 && build/gostream 1000 100
	@ulimit -n 4096 && env LUA_PATH="$(CURDIR)/lua/?.lua;$(CURDIR)/lua/?/init.lua;;" LUA_CPATH="$(CURDIR)/build/lua54/?.so;;" lua5.4 bench/stream.lua
	@ulimit -n 4096 && env LUA_PATH="$(CURDIR)/lua/?.lua;$(CURDIR)/lua/?/init.lua;;" LUA_CPATH="$(CURDIR)/build/luajit/?.so;;" luajit bench/stream.lua

# The HTTP client against Go's and Lua's.
bench-http:
	$(call ready,$(C_BUILD)/bench_http)
	@sh bench/http/run.sh

.PHONY: bench bench-sync bench-nginx bench-stream bench-http

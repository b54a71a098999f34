# What weft costs, beside its peers, in one run each. Included by the Makefile; docs/performance.md has the results.

# Tasks, against Go's and Lua's.
bench:
	@sh scripts/deps.sh bench
	@$(MAKE) --no-print-directory -s all
	@$(MAKE) --no-print-directory -s LUA=luajit all
	@sh bench/run.sh

# Channels, select and what else tasks meet at, against Go's, and from C.
$(C_BUILD)/bench_sync: bench/sync.c $(CORE_BUILD)/libweft.a
	@mkdir -p $(@D)
	$(CC) $(BASE_CFLAGS) -Isrc/core $^ -o $@ -lcurl -lm

bench-sync: $(C_BUILD)/bench_sync
	@sh scripts/deps.sh bench
	@$(MAKE) --no-print-directory -s all
	@$(MAKE) --no-print-directory -s LUA=luajit all
	@sh bench/sync.sh

# weft in nginx, measured by wrk against nginx's own ways.
bench-nginx:
	@sh scripts/deps.sh bench-nginx
	@$(MAKE) --no-print-directory -s LUA=luajit all
	@sh bench/nginx.sh

# Streams: the parser, and many at once.
$(C_BUILD)/bench_stream: bench/stream.c $(CORE_BUILD)/libweft.a
	@mkdir -p $(@D)
	$(CC) $(BASE_CFLAGS) -Isrc/core $^ -o $@ -lcurl -lm

bench-stream: $(C_BUILD)/bench_stream
	@sh scripts/deps.sh bench
	@$(MAKE) --no-print-directory -s all
	@$(MAKE) --no-print-directory -s LUA=luajit all
	@cd bench/gostream && go build -o ../../build/gostream .
	@ulimit -n 4096 && $<
	@ulimit -n 4096 && build/gostream 1000 100
	@ulimit -n 4096 && env LUA_PATH="$(CURDIR)/lua/?.lua;$(CURDIR)/lua/?/init.lua;;" LUA_CPATH="$(CURDIR)/build/lua54/?.so;;" lua5.4 bench/stream.lua
	@ulimit -n 4096 && env LUA_PATH="$(CURDIR)/lua/?.lua;$(CURDIR)/lua/?/init.lua;;" LUA_CPATH="$(CURDIR)/build/luajit/?.so;;" luajit bench/stream.lua

# The HTTP client against Go's and Lua's.
$(C_BUILD)/bench_http: bench/http/client.c $(CORE_BUILD)/libweft.a
	@mkdir -p $(@D)
	$(CC) $(BASE_CFLAGS) -Isrc/core $^ -o $@ -lcurl -lm

bench-http:
	@sh scripts/deps.sh bench-http
	@$(MAKE) --no-print-directory -s all $(C_BUILD)/bench_http
	@$(MAKE) --no-print-directory -s LUA=luajit all
	@sh bench/http/run.sh

.PHONY: bench bench-sync bench-nginx bench-stream bench-http

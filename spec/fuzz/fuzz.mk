# Parsers of what strangers send, by libFuzzer, for a while. Included by the Makefile. Findings are left in build/fuzz.

FUZZ_S ?= 60
FUZZ_CC ?= clang
FUZZ_BUILD = $(FUZZ_CC) -std=gnu11 -D_GNU_SOURCE -O1 -g -pthread -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=undefined -Isrc/core -Isrc/testing

build/fuzz/fuzz_stream: spec/fuzz/fuzz_stream.c spec/core/sse_streams.h src/core/sse.c src/core/lines.c src/core/buf.c src/core/mem.c
	@mkdir -p $(@D)
	$(FUZZ_BUILD) $(filter %.c,$^) -o $@

build/fuzz/fuzz_model: spec/fuzz/fuzz_model.c spec/core/model_parsers.h $(filter-out %_server.c %_conn.c,$(MODEL_SRC)) src/core/buf.c src/core/mem.c
	@mkdir -p $(@D)
	$(FUZZ_BUILD) $(filter %.c,$^) -o $@ -lm

# Each has its dictionary, and what it found is its corpus for the next time.
run-fuzz/%: build/fuzz/fuzz_%
	@mkdir -p build/fuzz/corpus-$*
	$< -max_total_time=$(FUZZ_S) -max_len=2000 -rss_limit_mb=1024 -dict=spec/fuzz/$*.dict -artifact_prefix=build/fuzz/$*- -print_final_stats=1 build/fuzz/corpus-$* 2> build/fuzz/$*.log || { tail -n 60 build/fuzz/$*.log; exit 1; }
	@grep -E "^(stat::number_of_executed_units|DONE|Done)" build/fuzz/$*.log

fuzz:
	@sh scripts/deps.sh fuzz
	@$(MAKE) --no-print-directory -s run-fuzz/stream run-fuzz/model

.PHONY: fuzz

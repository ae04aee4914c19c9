# The words to know. Everything happens in .venv; nothing is installed outside it.
PYTHON ?= python3
ARGS ?=
FUZZ ?= gguf
BIN := .venv/bin
TOGETHER := -n auto --dist loadfile --no-loadscope-reorder
EVERY := -m 'slow or not slow'
SLOW := -m 'slow and not by_hand'
SHELL := /bin/sh
# Hundreds of tests start processes of their own, and pytest rewrites every test file: bytecode is kept even where an
# environment forbids to write it.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup setup-ray setup-tune serve test test-ray same-outputs test-all test-clients clients-latest llama-server-tests test-variants wheels rebuild release test-wheels test-wheels-elsewhere test-wheels-twice vulkan test-openvino foreign-libraries docs typing slow test-arm64 check bench attack bench-adapters bench-start bench-builds bench-dialects bench-cluster bench-cluster-kills bench-serve bench-answers bench-speed bench-speed-gpu bench-bytes bench-memory bench-learning bench-regret bench-ternary bench-embed bench-onnx bench-onnx-engine bench-page bench-tuning bench-tuning-memory bench-usefulness screenshots onnx-parity onnx-exporters ternary-parity sanitize fuzz fuzz-http soak soak-downloads clean python \
  test-tools lint

help: ## show this list
	@awk -F':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-18s %s\n", $$1, $$2}' Makefile

python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 || { \
	  echo "EdgeLLM needs Python 3.11 or newer, and '$(PYTHON)' is not that."; \
	  for p in python3.14 python3.13 python3.12 python3.11; do \
	    $$p -c '' >/dev/null 2>&1 && echo "  There is one here: make PYTHON=$$p $(MAKECMDGOALS)"; \
	  done; \
	  echo "  Or install one (Debian, Ubuntu: apt-get install python3 python3-venv)."; \
	  exit 1; } >&2

setup: python ## create .venv, and install the core and every plugin
	@$(PYTHON) plugins/install.py

serve: setup ## set up, then choose, fetch and serve a model on 127.0.0.1 (ARGS="--port 9000" is passed to `edgellm serve`)
	@exec $(BIN)/edgellm serve $(ARGS)

test-tools: python
	@$(PYTHON) plugins/install.py --extras test,check

lint: test-tools
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict
	$(BIN)/lint-imports --no-cache

check: lint ## lint, types, import layers, and the tests that keep docs and code in step
	$(BIN)/pytest -q tests/test_docs.py tests/test_errors.py

test: lint ## lint, types, import layers, then every test that is not slow (ARGS="-k name" is passed to pytest; ARGS="-n 0" runs one file at a time)
	$(BIN)/pytest $(TOGETHER) $(ARGS)

setup-tune: setup ## install the tuner and torch too: says what that takes, and fetches nothing for GPUs (ARGS=--gpu does)
	@$(PYTHON) plugins/install.py --with edgellm-tune $(ARGS)

setup-ray: setup ## install what answers on several machines together, and Ray: says what that takes
	@$(PYTHON) plugins/install.py --with edgellm-ray $(ARGS)

test-all: python ## run the slow tests, which `make test` leaves out; makes wheels first, and builds for Vulkan where that can be built
	@$(PYTHON) plugins/install.py --extras test,check,typing --with edgellm-tune
	-PYTHONPATH=tests $(BIN)/python tests/support/vulkan_build.py
	@$(MAKE) wheels ARGS="--python 3.13"
	$(BIN)/pytest $(TOGETHER) $(SLOW) $(ARGS)

test-ray: python ## run clusters of several boxes on this machine, on Ray Serve, in .venv-ray
	@$(PYTHON) plugins/install.py --venv .venv-ray --extras test --with edgellm-ray
	.venv-ray/bin/pytest -q -n 0 -W default $(EVERY) tests/ray $(ARGS)

vulkan: test-tools ## build the Vulkan backend that tests use, in build/vulkan, unless it is there
	PYTHONPATH=tests $(BIN)/python tests/support/vulkan_build.py

test-clients: test-tools ## run official clients, for Python and Node, against `edgellm serve`: pinned releases, in .venv-clients
	EDGELLM=$(CURDIR)/$(BIN)/edgellm $(PYTHON) tests/clients/run.py .venv-clients $(ARGS)

clients-latest: test-tools ## run the newest releases of those clients, in .venv-clients-latest: what is newer, fields in no list, tests that fail
	EDGELLM=$(CURDIR)/$(BIN)/edgellm $(PYTHON) tests/clients/run.py .venv-clients-latest --latest $(ARGS)

test-variants: python ## build llama.cpp with code for each kind of processor, in .venv-variants, and run the tests of the GGUF backend on it
	EDGELLM_LLAMA_BUILD=variants $(PYTHON) plugins/install.py --venv .venv-variants --extras test
	.venv-variants/bin/pytest -q $(EVERY) tests/gguf/test_variants.py tests/gguf/test_library.py tests/gguf/test_layout.py tests/gguf/test_contract.py tests/gguf/test_batching.py tests/gguf/test_calibrate.py tests/gguf/test_engine.py $(ARGS)

wheels: python ## make wheels in dist/ for Linux on x86-64 and aarch64, with code for each kind of processor (ARGS="--python 3.13" adds what they need there, ARGS="--target NAME" makes others)
	@test -x .venv-wheels/bin/python || $(PYTHON) -m venv .venv-wheels
	@.venv-wheels/bin/python -m pip install --quiet --disable-pip-version-check -r plugins/wheels/requirements.txt
	.venv-wheels/bin/python plugins/wheels/make.py $(ARGS)

rebuild: python ## make wheels of llama.cpp with a fix, try them, and say who read which lists of faults (PATCH=fix.patch ARGS="--target x86_64")
	@test -n "$(PATCH)" || { echo "PATCH=... is needed: a fix of llama.cpp, made by git diff" >&2; exit 2; }
	@test -x .venv-wheels/bin/python || $(PYTHON) -m venv .venv-wheels
	@.venv-wheels/bin/python -m pip install --quiet --disable-pip-version-check -r plugins/wheels/requirements.txt
	@.venv-wheels/bin/python plugins/wheels/rebuild.py $(PATCH) $(ARGS)

release: python ## make a release in dist/release: wheels, tried, their hashes and signature, notes from CHANGELOG.md (ARGS="--key FILE")
	@test -x .venv-wheels/bin/python || $(PYTHON) -m venv .venv-wheels
	@.venv-wheels/bin/python -m pip install --quiet --disable-pip-version-check -r plugins/wheels/requirements.txt -r plugins/wheels/requirements-release.txt
	@.venv-wheels/bin/python plugins/wheels/release.py $(ARGS)

test-wheels: test-tools ## make wheels, install them and bundles of them in bare Debians, and run them on emulated processors
	@$(MAKE) wheels ARGS="--python 3.11 --python 3.13"
	$(BIN)/pytest -q $(EVERY) tests/test_wheels.py tests/test_wheels_on_processors.py tests/bundle/test_on_arm.py tests/bundle/test_own_python.py $(ARGS)

test-wheels-elsewhere: test-tools ## make wheels for musl, Windows and 32-bit Arm, and compute with them under musl's loader, wine and qemu
	@$(MAKE) wheels ARGS="$(foreach target,x86_64 x86_64-musl aarch64-musl x86_64-windows aarch64-windows x86_64-macos aarch64-macos armv7,--target $(target))"
	$(BIN)/pytest -q $(EVERY) tests/test_wheels_elsewhere.py $(ARGS)

test-wheels-twice: wheels ## make wheels once more elsewhere, with other dates and jobs, and compare each byte (ARGS="--target x86_64")
	.venv-wheels/bin/python plugins/wheels/again.py $(ARGS)

foreign-libraries: test-tools ## check that a wheel of the package index with other structs is refused (ARGS=--commits: two other commits of llama.cpp, too; ARGS=--drifts: 20 moved fields)
	PYTHONPATH=tests EDGELLM_HOME=$(CURDIR)/build/foreign/home $(BIN)/python tests/support/foreign_libraries.py build/foreign $(ARGS)

test-openvino: python ## run the ONNX backend's tests on OpenVINO's provider, with its processor as the device, in .venv-openvino (fetches 84 MB)
	@$(PYTHON) plugins/install.py --venv .venv-openvino --extras test
	.venv-openvino/bin/pip uninstall --quiet --yes onnxruntime
	.venv-openvino/bin/pip install --quiet --disable-pip-version-check --no-deps onnxruntime-openvino==1.24.1
	.venv-openvino/bin/pytest -q tests/onnx/test_providers.py tests/onnx/test_engine.py $(ARGS)

llama-server-tests: test-tools ## run llama.cpp's own server tests against `edgellm serve` (LLAMA_SERVER=PATH: against llama-server, as a control; TESTS=FOLDER; ARGS="unit/test_rerank.py")
	@$(PYTHON) -m venv .venv-llama-server-tests
	.venv-llama-server-tests/bin/pip install --quiet --disable-pip-version-check -r tests/llama_server/requirements.txt
	PYTHONPATH=tests $(BIN)/python tests/llama_server/run.py $(if $(TESTS),--tests $(TESTS)) $(if $(LLAMA_SERVER),--llama-server $(LLAMA_SERVER)) $(ARGS)

docs: test-tools ## write docs/sdk.md from the docstrings
	$(BIN)/python tests/support/sdk_page.py

typing: python ## check with basedpyright what an editor says of the SDK: right calls are inferred, wrong ones marked
	@$(PYTHON) plugins/install.py --extras test,typing
	$(BIN)/pytest -q $(EVERY) tests/typing $(ARGS)

slow: test-tools ## list the slow tests of `make test-all`, with their seconds
	@$(BIN)/pytest $(SLOW) --collect-only -qq

test-arm64: python ## run tests on an emulated Arm core, see docs/arm64.md (ARGS="tests/cli" chooses which)
	@PYTHON=$(PYTHON) tests/arm64/run.sh $(ARGS)

bench: setup ## measure what the runtime costs per token, compared with a bare loop over the C API
	$(BIN)/python benchmarks/runtime.py $(ARGS)

bench-start: setup ## measure what a start costs, compared with the interpreter alone (ARGS="--base OTHER/.venv/bin/python" compares two checkouts)
	$(BIN)/python benchmarks/start.py $(ARGS)

bench-grammar: setup ## measure what a grammar costs: mask and draw for each token, compiling, and a whole answer
	$(BIN)/python benchmarks/grammar.py $(ARGS)

bench-dialects: test-tools ## measure what each dialect of HTTP costs beside chat completions, per request and per chunk
	$(BIN)/python benchmarks/dialects.py $(ARGS)

attack: setup ## attack a server of one's own, and measure what other clients notice (ARGS="--model smollm2-135m-instruct", ARGS=--grammars for hostile grammars)
	$(BIN)/python benchmarks/attack.py $(ARGS)

bench-speed: setup ## compare predicted with measured speeds, for 14 types of 4 models (ARGS="qwen3-0.6b --quants Q8_0")
	$(BIN)/python benchmarks/speed.py $(ARGS)

bench-speed-gpu: test-tools ## compare predicted speeds of GPUs with published ones, each device left out (ARGS="--worst 20")
	$(BIN)/python benchmarks/speed_gpu.py $(ARGS)

bench-cluster: python ## measure what a cluster on this machine costs, beside one box (ARGS="--model FILE.gguf --boxes 3")
	@$(PYTHON) plugins/install.py --venv .venv-ray --extras test --with edgellm-ray
	EDGELLM_HOME=$(CURDIR)/build/cluster/home .venv-ray/bin/python benchmarks/cluster.py $(ARGS)

bench-cluster-kills: python ## kill parts of a cluster at 30 random moments under 12 streams; some minutes (ARGS="--model FILE.gguf --seed 18")
	@$(PYTHON) plugins/install.py --venv .venv-ray --extras test --with edgellm-ray
	EDGELLM_HOME=$(CURDIR)/build/cluster/home .venv-ray/bin/python benchmarks/cluster_kills.py $(ARGS)

bench-serve: setup ## compare EdgeLLM over HTTP with llama.cpp's llama-server
	$(BIN)/python benchmarks/serve.py $(ARGS)

bench-adapters: setup ## compare answers with LoRA adapters with llama-server's, in pairs of rounds, and time hot loads (LLAMA_SERVER=PATH)
	$(BIN)/python benchmarks/adapters.py $(ARGS)

bench-builds: setup ## compare another build of libllama with the installed one, in pairs (ARGS="FOLDER --pairs 20")
	$(BIN)/python benchmarks/builds.py $(ARGS)

bench-answers: setup ## count right answers to easy questions by how tokens are drawn; ten minutes (LLAMA_SERVER=PATH compares llama-server)
	$(BIN)/python benchmarks/answers.py $(ARGS)

bench-bytes: setup ## compare predicted sizes with published files and with every type made here; half an hour (ARGS="--models gemma-3-270m --quants Q4_K_M")
	$(BIN)/python benchmarks/bytes.py $(ARGS)

bench-memory: setup ## compare predicted memory with what worker and server take (ARGS="--model gemma-3-270m --results FILE")
	$(BIN)/python benchmarks/memory.py $(ARGS)

bench-learning: setup ## measure how far predictions are off before and after one run; some minutes (then ARGS="--report")
	$(BIN)/python benchmarks/learning.py $(ARGS)

bench-regret: setup ## run all candidates, to see whether selection chooses the best; half an hour (then ARGS="--report")
	$(BIN)/python benchmarks/regret.py $(ARGS)

bench-onnx: test-tools ## compare converted models in onnxruntime alone, by bits and accuracy level, with llama.cpp
	$(BIN)/python benchmarks/onnx_speed.py $(ARGS)

bench-ternary: setup ## compare the ternary engine with llama.cpp, and with bitnet.cpp if BITNET_BENCH names its benchmark (ARGS="--scale")
	$(BIN)/python benchmarks/ternary.py $(ARGS)

bench-tuning: python ## compare tuning with a bare loop over peft, and memory with what is predicted (ARGS="FILE.gguf --pairs 5", ARGS="FILE.gguf --memory")
	@$(PYTHON) plugins/install.py --extras test --with edgellm-tune
	PYTHONPATH=tests $(BIN)/python benchmarks/tuning.py $(ARGS)

bench-usefulness: python ## measure what tuning is worth: definitions of WordNet into ten classes, three seeds and a control; an hour (ARGS="WORDNET --threads 1")
	@$(PYTHON) plugins/install.py --with edgellm-tune
	$(BIN)/python benchmarks/usefulness.py $(ARGS)

bench-tuning-memory: python ## compare the memory of tuning with what is predicted, on models that are made (ARGS="--points 48 --seed 7")
	@$(PYTHON) plugins/install.py --extras test --with edgellm-tune
	PYTHONPATH=tests $(BIN)/python benchmarks/tuning_memory.py $(ARGS)

bench-page: test-tools ## measure what a chunk of an answer costs the page, by where it comes in the answer (ARGS="--characters 20000")
	$(BIN)/python benchmarks/page.py $(ARGS)

screenshots: test-tools ## write docs/screenshots: the page at 360, 1280 and 1920 px, light and dark
	PYTHONPATH=tests $(BIN)/python tests/support/screenshots.py $(ARGS)

bench-embed: setup ## compare embedding through engine, SDK and HTTP with onnxruntime alone on the same batches (ARGS="--threads 1")
	$(BIN)/python benchmarks/embeddings.py $(ARGS)

bench-onnx-engine: setup ## measure the ONNX engine: against onnxruntime-genai (ARGS="FOLDER --peer PYTHON"), its overhead, its growth with the context
	$(BIN)/python benchmarks/onnx_engine.py $(ARGS)

same-outputs: test-tools ## check that 200 commands print the same JSON as another checkout (BASE=OTHER/.venv/bin/python)
	@test -n "$(BASE)" || { echo "BASE=... is needed: the Python of another checkout's .venv" >&2; exit 2; }
	$(BASE) tests/support/recorded_outputs.py record build/outputs.json.xz
	$(BIN)/python tests/support/recorded_outputs.py compare build/outputs.json.xz

fuzz: python ## fuzz a file reader with libFuzzer for a minute (FUZZ=gguf, adapter, safetensors, data or codecs; ARGS="--seconds 1200")
	@$(PYTHON) plugins/install.py --extras test,fuzz
	$(BIN)/python tests/attacks/fuzz_$(FUZZ).py $(ARGS)

fuzz-http: setup ## send requests that /openapi.json describes, and others, to an echo server for 20 minutes (ARGS="--seconds 120")
	@$(PYTHON) -m venv .venv-fuzz-http
	.venv-fuzz-http/bin/pip install --quiet --disable-pip-version-check schemathesis
	$(BIN)/python tests/attacks/fuzz_http.py $(ARGS)

soak: test-tools ## run 200 random mixes of requests on a real model, and compare each answer with the same request alone
	SOAK_MIXES=200 $(BIN)/pytest -q $(EVERY) tests/gguf/test_batching.py $(ARGS)

soak-downloads: test-tools ## kill downloads at random moments: a file must be complete and right, or absent (ARGS="--moments 100")
	$(BIN)/python tests/store/killed_downloads.py $(ARGS)

onnx-parity: test-tools ## compare models converted to ONNX with llama.cpp and numpy; some minutes (ARGS="--model gemma-3-270m")
	$(BIN)/python benchmarks/onnx_parity.py $(ARGS)

ternary-parity: setup ## compare the ternary engine with transformers (TORCH_PYTHON names a Python with torch and transformers)
	@test -n "$(TORCH_PYTHON)" || { echo "TORCH_PYTHON=... is needed: a Python with torch and transformers 5" >&2; exit 2; }
	$(BIN)/python benchmarks/ternary_reference.py --python $(TORCH_PYTHON) $(ARGS)

onnx-exporters: setup ## compare folders of optimum-onnx and onnxruntime-genai with those libraries (ARGS="--optimum PYTHON --genai PYTHON")
	$(BIN)/python benchmarks/onnx_exporters.py $(ARGS)

# Python leaks by its lights, and memory that is freed stays for a while: what measures memory is left out.
sanitize: test-tools ## run the ternary engine's tests with AddressSanitizer and UndefinedBehaviorSanitizer; some minutes
	cmake -S plugins/edgellm-bitnet/native -B build/sanitize -DSANITIZE=ON
	cmake --build build/sanitize -j 2
	LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libubsan.so)" \
	  ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 \
	  EDGELLM_BITNET_LIBRARY=$(CURDIR)/build/sanitize/libedgellm_bitnet.so \
	  $(BIN)/python -m pytest -q $(EVERY) --timeout 1800 tests/attacks/test_hostile_ternary.py tests/bitnet/test_slots.py \
	  tests/bitnet/test_kernels.py tests/bitnet/test_engine.py tests/bitnet/test_contract.py tests/bitnet/test_loading.py tests/bitnet/test_sides.py \
	  -k "not peak_memory and not memory_stays_flat" $(ARGS)

clean: ## remove .venv and caches; models and built libraries in your own folders stay
	rm -rf .venv .venv-variants .venv-wheels .venv-openvino .venv-clients .venv-clients-latest .venv-llama-server-tests build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

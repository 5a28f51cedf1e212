# KVT: a thin front for meson. `make help` lists the targets; each installs with apt what it needs and is missing.

BUILD  ?= build
CC_ENV ?=
MESON_ARGS ?=
KVT_DATA ?= $(abspath ../shared/data)
export KVT_DATA

# Debian packages: what every build needs, and what single targets add.
core_packages   := g++ meson ninja-build pkg-config python3 libxsimd-dev libopenblas-dev nlohmann-json3-dev libcli11-dev zlib1g-dev libstb-dev doctest-dev
bench_packages  := libbenchmark-dev
arm_packages    := g++-aarch64-linux-gnu qemu-user-static
arm_bench_packages := qemu-user llvm-19 gcc
clang_packages  := clang libclang-rt-14-dev
fuzz_packages   := clang-19 llvm-19 libclang-rt-19-dev
format_packages := clang-format
model_packages  := python3-pip
install_packages := cmake g++-aarch64-linux-gnu
python_packages := python3-pip python3-venv

# $(call need,packages): installs those that are missing, as root or through sudo; else prints the one command to type.
need = @missing=""; for p in $(1); do dpkg-query -W -f '$${Status}' $$p 2>/dev/null | grep -q 'ok installed' || missing="$$missing $$p"; done; \
  if [ -n "$$missing" ]; then \
    if [ "$$(id -u)" = 0 ]; then sudo=; elif sudo -n true 2>/dev/null; then sudo=sudo; \
    else echo "Please install what is missing:  sudo apt-get install -y --no-install-recommends$$missing"; exit 1; fi; \
    echo "Installing:$$missing"; \
    { $$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $$missing || \
      { $$sudo apt-get update -q && $$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $$missing; }; } >$(BUILD)-apt.log 2>&1 || \
      { tail -n 5 $(BUILD)-apt.log; exit 1; }; rm -f $(BUILD)-apt.log; \
  fi

# $(call configure,folder,meson arguments)
configure = @[ -f $(1)/build.ninja ] || $(CC_ENV) meson setup $(1) $(2) $(MESON_ARGS) >$(1).log 2>&1 || { tail -n 20 $(1).log; exit 1; }; rm -f $(1).log

.PHONY: help build run run-tiny model demo-model tour train-vit train-translation test bench bench-peers perplexity bench-attention bench-encoders asan tsan fuzz fuzz-coverage arm arm-bench clang format clean install size python test-python test-install test-cycles test-long

help:
	@sed -n 's/^## //p' Makefile

## make build        build/kvt and build/libkvt.a
build:
	$(call need,$(core_packages))
	$(call configure,$(BUILD),)
	@ninja -C $(BUILD)

## make run          the demonstration: fetches a small language model once (93 MB), teaches it a text, shows what it learned
model_file := .cache/SmolLM2-135M-Instruct.Q4_1.gguf
run: build
	@if $(MAKE) --no-print-directory -s model; then \
	  $(BUILD)/kvt demo -m $(model_file) --data tools/demo/manual.txt --valid tools/demo/manual_validation.txt --heldout tools/demo/manual_heldout.txt \
	    --prompts tools/demo/prompts.txt -o .cache/manual-adapter.gguf; \
	else \
	  echo "The model could not be fetched (see above): here is the same with the small model of the repository (make run-tiny)."; echo; \
	  $(MAKE) --no-print-directory run-tiny; \
	fi

## make run-tiny     the same with the 1 MB model of the repository; needs no network
run-tiny: build
	@mkdir -p .cache
	@$(BUILD)/kvt demo $(tiny_demo) -o .cache/tiny-adapter.gguf
tiny_demo := -m tools/demo/tiny.gguf --data tools/demo/tiny.txt --valid tools/demo/tiny_validation.txt --heldout tools/demo/tiny_heldout.txt \
  --prompts tools/demo/tiny_prompts.txt --length 64 --batch 4 --epochs 10 --lr 3e-3

## make model        fetches that model into .cache, checks it, and keeps it
model:
	$(call need,$(model_packages))
	@tools/demo/fetch.sh .cache

## make demo-model   makes tools/demo/tiny.gguf anew: corpus, vocabulary, random weights, training
demo-model: build
	@mkdir -p .cache
	tools/demo/make_corpus.py 3000000 >.cache/corpus.txt
	tools/demo/make_tiny.py .cache/corpus.txt .cache/tiny-init.gguf
	$(BUILD)/kvt adapt -m .cache/tiny-init.gguf --method full --data .cache/corpus.txt --valid-split 0.01 --eval-every 100 --length 256 --batch 8 \
	  --steps 700 --lr 3e-3 --warmup 40 --out-type Q8_0 -o tools/demo/tiny.gguf

## make tour         the reading tour of the README: ten files in order, with their line counts
tour:
	@wc -l $(tour_files)
tour_files := tensor/tensor.h tensor/tape.h ops/kernels.h ops/softmax.cpp ops/attention.cpp models/module.h models/llama.cpp models/adapt.cpp \
  engine/generate.cpp engine/train.cpp

## make test         all tests on this machine
test: build
	@tests/run.sh $(BUILD)

## make install      into PREFIX (/usr/local): kvt, libkvt.so, libkvt.a, kvt.h, kvt.pc, the CMake package
PREFIX ?= /usr/local
install: build
	@meson configure $(BUILD) -Dprefix=$(abspath $(PREFIX)) -Dlibdir=lib
	@meson install -C $(BUILD)

## make size         stripped sizes of the library for 64-bit ARM, by parts and by build options; fails above 1 MB
size:
	$(call need,$(core_packages) $(arm_packages))
	@mkdir -p build-arm/include && ln -sfn /usr/include/xsimd build-arm/include/xsimd
	@tools/size.py

## make python       the Python package as a wheel, in .cache/python
python:
	$(call need,$(core_packages) $(python_packages))
	@mkdir -p .cache/python
	@[ -x .cache/python/build/bin/pip ] || python3 -m venv .cache/python/build
	@.cache/python/build/bin/python -c "import mesonpy, ninja" 2>/dev/null || .cache/python/build/bin/pip install -q "meson-python>=0.15" ninja
	@PATH=$(CURDIR)/.cache/python/build/bin:$$PATH .cache/python/build/bin/pip wheel -q --no-build-isolation --no-deps -Cbuild-dir=$(CURDIR)/.cache/python/meson -w .cache/python tools/python
	@ls .cache/python/*.whl

## make test-python  the package's tests, in a fresh virtual environment
test-python: python
	@rm -rf .cache/python/venv && python3 -m venv .cache/python/venv
	@.cache/python/venv/bin/pip install -q .cache/python/*.whl pytest
	@KVT_ROOT=$(CURDIR) .cache/python/venv/bin/python -m pytest -q -p no:cacheprovider tools/python/tests

## make test-install the library installed, by pkg-config, CMake, statically, as a subproject; the cross file for Android
test-install:
	$(call need,$(core_packages) $(install_packages))
	@tests/install.py build-install

## make test-cycles  10,000 times load, generate, free: resident memory
test-cycles: build
	@mkdir -p .cache
	@$(BUILD)/kvt adapt -m tools/demo/tiny.gguf --method lora --data tools/demo/tiny.txt --steps 1 --length 32 -o .cache/cycles-adapter.gguf >/dev/null
	@$(BUILD)/cycles tools/demo/tiny.gguf .cache/cycles-adapter.gguf

## make test-long    the tests that take minutes: those three, faults at every call, 200 kills of a training run, a short run of every fuzz target
test-long: test-cycles test-install test-python
	@tests/run.sh $(BUILD) long
	@$(MAKE) --no-print-directory fuzz SECONDS=20

# Little optimisation, and line numbers alone of the debugging information: the compiler takes half the time. A null pointer stops the address sanitizer, too.
sanitizer_options := -Db_lundef=false -Dbuildtype=plain -Doptimization=1

## make asan         all tests under the address and undefined-behaviour sanitizers
asan:
	$(call need,$(core_packages))
	$(call configure,build-asan,-Db_sanitize=address$(comma)undefined $(sanitizer_options) -Dcpp_args="-g1 -fno-sanitize=null$(comma)vptr$(comma)object-size")
	@ninja -C build-asan
	@UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 tests/run.sh build-asan

## make tsan         all tests under the thread sanitizer
tsan:
	$(call need,$(core_packages))
	$(call configure,build-tsan,-Db_sanitize=thread $(sanitizer_options) -Dcpp_args=-g1 -Dopenblas=disabled)
	@ninja -C build-tsan
	@TSAN_OPTIONS=halt_on_error=1 tests/run.sh build-tsan

## make fuzz SECONDS=60   every fuzz target for so long under the address and undefined-behaviour sanitizers (libFuzzer, clang-19)
SECONDS ?= 60
fuzz_clang := CC=clang-19 CXX=clang++-19
fuzz_options := -Dfuzz=enabled -Dtools=disabled -Dopenblas=disabled -Dbuildtype=plain
fuzz:
	$(call need,$(core_packages) $(fuzz_packages))
	@[ -f build-fuzz/build.ninja ] || $(fuzz_clang) meson setup build-fuzz $(fuzz_options) -Doptimization=2 -Db_sanitize=address,undefined -Db_lundef=false \
	  -Dcpp_args="-g1 -fno-sanitize-recover=all" >build-fuzz.log 2>&1 || { tail -n 20 build-fuzz.log; exit 1; }; rm -f build-fuzz.log
	@ninja -C build-fuzz fuzz
	@tests/fuzz/run.sh build-fuzz $(SECONDS)

## make fuzz-coverage   which lines of each parser the inputs that fuzzing has collected run through (build-fuzz/corpus; seeds, if there are none)
fuzz-coverage:
	$(call need,$(core_packages) $(fuzz_packages))
	@[ -f build-fuzz-coverage/build.ninja ] || $(fuzz_clang) meson setup build-fuzz-coverage $(fuzz_options) -Doptimization=1 \
	  -Dcpp_args="-fprofile-instr-generate -fcoverage-mapping" -Dcpp_link_args=-fprofile-instr-generate >build-fuzz-coverage.log 2>&1 || { tail -n 20 build-fuzz-coverage.log; exit 1; }; rm -f build-fuzz-coverage.log
	@ninja -C build-fuzz-coverage fuzz
	@tests/fuzz/coverage.py build-fuzz-coverage build-fuzz/corpus

## make clang        build with clang, warnings are errors, and run the tests
clang:
	$(call need,$(core_packages) $(clang_packages))
	@[ -f build-clang/build.ninja ] || CC=clang CXX=clang++ meson setup build-clang -Dwerror=true >build-clang.log 2>&1 || { tail -n 20 build-clang.log; exit 1; }; rm -f build-clang.log
	@ninja -C build-clang
	@tests/run.sh build-clang

## make arm          cross build for aarch64; all tests under qemu as cortex-a72 (ARMv8.0) and as max
arm:
	$(call need,$(core_packages) $(arm_packages))
	$(call configure_arm)
	@ninja -C build-arm/build
	@for cpu in cortex-a72 max; do echo "== aarch64, -cpu $$cpu"; QEMU_CPU=$$cpu tests/run.sh build-arm/build || exit 1; done

# Header-only libraries serve both architectures: build-arm/include shows the cross compiler those, and nothing else of the host.
configure_arm = @mkdir -p build-arm/include && for h in doctest nlohmann CLI xsimd; do ln -sfn /usr/include/$$h build-arm/include/$$h; done; \
  [ -f build-arm/build/build.ninja ] || meson setup build-arm/build --cross-file arm/aarch64.ini -Dopenblas=disabled -Dcpp_args=-isystem$(CURDIR)/build-arm/include >build-arm.log 2>&1 || { tail -n 20 build-arm.log; exit 1; }; rm -f build-arm.log

## make arm-bench    modelled cycles of attention and other kernels on Cortex-A53, Cortex-A72, Neoverse N1 and N2 (tools/armcycles)
arm-bench:
	$(call need,$(core_packages) $(arm_packages) $(arm_bench_packages))
	$(call configure_arm)
	@tools/armcycles/fetch_openblas.sh .cache/arm64 || echo "OpenBLAS for arm64 could not be fetched: its lines are left out."
	@meson setup --reconfigure build-arm/build -Dbench_openblas="$$([ -f .cache/arm64/libopenblas.a ] && echo $(CURDIR)/.cache/arm64)" >/dev/null
	@ninja -C build-arm/build arm_bench
	@tools/armcycles/armcycles.py --json .cache/arm-bench.json build-arm/build/arm_bench

## make bench        what adapters and fusion cost in decoding and reading, then kernels and operations on this machine (Google Benchmark)
bench: model
	$(call need,$(core_packages) $(bench_packages))
	$(call configure,build-bench,-Dbench=enabled)
	@ninja -C build-bench
	@build-bench/overhead_bench $(model_file) 2
	@build-bench/kernels_bench

## make train-vit           the ViT of tools/configs/vit-fashion-mnist.json on Fashion-MNIST, then its accuracy on the 10000 test images
fashion := $(KVT_DATA)/img-fashion-mnist
train-vit: build
	@mkdir -p $(BUILD)/models
	@$(BUILD)/kvt train tools/configs/vit-fashion-mnist.json --data $(fashion) -o $(BUILD)/models/vit.gguf
	@$(BUILD)/kvt eval -m $(BUILD)/models/vit.gguf --images $(fashion)/t10k-images-idx3-ubyte.gz

## make train-translation   the English-German Transformer of tools/configs/translation.json on Multi30k, then its BLEU on test_2016_flickr
multi30k := $(KVT_DATA)/mt-multi30k-en-de
train-translation: build
	@mkdir -p $(BUILD)/models
	@$(BUILD)/kvt train tools/configs/translation.json --data $(multi30k) -o $(BUILD)/models/translation.gguf
	@$(BUILD)/kvt eval -m $(BUILD)/models/translation.gguf --source $(multi30k)/test_2016_flickr.en.gz --reference $(multi30k)/test_2016_flickr.de.gz --beam 5

## make bench-peers  llama.cpp, ONNX Runtime and PyTorch beside KVT, and the host's limits (builds llama.cpp: minutes); ONLY="decode,prefill" N=3 WORK=Q8_0
bench-peers: build
	$(call need,$(model_packages) cmake clang-19 python3-venv)
	@$(MAKE) --no-print-directory -s model
	@ninja -C $(BUILD) host_limits lm_bench encoder_bench
	$(call peers_venv)
	@tools/bench/peers.py build .cache/peers
	@KVT=$(BUILD)/kvt tools/bench/peers.py speed .cache/peers -m $(model_file) --bench $(BUILD) --json .cache/peers/speed.json $(if $(ONLY),--only "$(ONLY)") $(if $(WORK),--work "$(WORK)") $(if $(N),-n $(N))

## make perplexity   what rounding activations costs: perplexity of WikiText-2 for each type of weights, beside F32 arithmetic (builds llama.cpp); WORK=Q8_0 CHUNKS=32
wikitext := $(KVT_DATA)/text-general/wikitext2_test.txt
perplexity: build
	$(call need,$(model_packages) cmake clang-19)
	@$(MAKE) --no-print-directory -s model
	@tools/bench/peers.py build .cache/peers
	@KVT=$(BUILD)/kvt tools/bench/perplexity.py .cache/peers -m $(model_file) -f $(wikitext) $(if $(WORK),--work "$(WORK)") $(if $(CHUNKS),--chunks $(CHUNKS))

## make bench-attention  attention in every variant, unfused, and in PyTorch, in one run (installs PyTorch into .cache/encoders/venv)
bench-attention: build
	$(call need,$(model_packages) python3-venv $(bench_packages))
	$(call configure,build-bench,-Dbench=enabled)
	@ninja -C build-bench attention_bench
	$(call peers_venv)
	@.cache/encoders/venv/bin/python tools/bench/attention.py --json .cache/encoders/attention.json
	@.cache/encoders/venv/bin/python tools/bench/attention.py --json .cache/encoders/attention-2.json -t 2

## make bench-encoders  a BERT-base beside ONNX Runtime and PyTorch in one run (needs their Python packages; they are installed into .cache/encoders/venv)
bench-encoders: build
	$(call need,$(model_packages) python3-venv $(bench_packages))
	$(call configure,build-bench,-Dbench=enabled)
	@ninja -C build-bench encoder_bench
	$(call peers_venv)
	@.cache/encoders/venv/bin/python tools/bench/encoders.py .cache/encoders/model --kvt $(BUILD)/kvt --json .cache/encoders/speed.json
peers_venv = @mkdir -p .cache/encoders && { [ -x .cache/encoders/venv/bin/python ] || python3 -m venv .cache/encoders/venv; } && .cache/encoders/venv/bin/pip install -q $(encoder_peers)
encoder_peers := torch==2.13.0 peft transformers onnx onnxscript onnxruntime==1.32.0 gguf diskcache numpy

## make format       clang-format over all sources
format:
	$(call need,$(format_packages))
	@git ls-files '*.cpp' '*.h' | xargs clang-format -i

## make clean        removes everything that was built; .cache (the fetched model) stays
clean:
	rm -rf build build-*

comma := ,

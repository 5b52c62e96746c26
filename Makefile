# Every target makes the virtual environment it needs: any of them can be the first command.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.stamp

# Libraries that latentrt is measured against; each pins other versions than ours.
PEERS := optimum-onnx openvino-genai
PEERS_DIR := .venv-peers
optimum-onnx_PACKAGES := 'optimum-onnx[onnxruntime]' diffusers
openvino-genai_PACKAGES := openvino-genai 'optimum-intel[openvino]' diffusers

# Extras for NVIDIA GPUs that exclude each other or what .venv has, each in an environment of its own;
# not where there is no such GPU: they are gigabytes.
GPU_EXTRAS := onnxruntime-gpu onnxruntime-tensorrt tensorrt
GPU_DIR := .venv-gpu
GPU_ENVIRONMENTS = $(if $(shell command -v nvidia-smi),$(addprefix $(GPU_DIR)/,$(GPU_EXTRAS)))

DOCS_DIR := .venv-docs

BUNDLE := build/shapes
PICTURE := build/red-circle.png
SERVED := build/served
EXTRAS := $(CURDIR)/models/shapes/extras
RESULTS := benchmarks/results
PLOT := docs/bench.png


.DEFAULT_GOAL := help
.PHONY: help run serve tasks graphs test test-slow scorecard fuzz check bench peers gpu docs format clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# A bundle that is newer than the checkpoint and the code that exports it stays.
$(BUNDLE)/manifest.json: $(STAMP) $(wildcard models/shapes/model_index.json models/shapes/*/* \
	export/latentrt/export/*.py bundle/latentrt/bundle/*.py weights/latentrt/weights/*.py \
	runtime/latentrt/runtime/schedules/*.py)
	$(BIN)/latentrt export models/shapes $(BUNDLE) --golden --force

run: $(STAMP) ## Generate a picture from models/shapes; prints its path last
	$(BIN)/latentrt generate models/shapes "a large red circle on a blue background" \
		-o $(PICTURE) --seed 7 --guidance-scale 5

# A service lists all files of a folder: here one for each kind.
serve: $(STAMP) ## Serve models/shapes at http://127.0.0.1:7860/, a web page; ARGS=--port 8000
	@rm -rf $(SERVED)
	@mkdir -p $(SERVED)/loras $(SERVED)/embeddings $(SERVED)/controls
	@ln -s $(EXTRAS)/night.safetensors $(SERVED)/loras
	@ln -s $(EXTRAS)/sun.safetensors $(SERVED)/embeddings
	@for config in $(wildcard $(EXTRAS)/*/config.json); do ln -s $$(dirname $$config) $(SERVED)/controls; done
	$(BIN)/latentrt serve models/shapes --lora-dir $(SERVED)/loras \
		--embedding-dir $(SERVED)/embeddings --control-dir $(SERVED)/controls $(ARGS)

tasks: $(STAMP) ## Draw docs/tasks.png, a page of every task, with models/shapes; takes a minute or two
	$(BIN)/python docs/tasks.py

graphs: $(STAMP) ## Trace the graphs that ship, and those of the tests' checkpoints; takes an hour
	$(BIN)/python export/scripts/make_graphs.py
	$(BIN)/python -m tests.graphs.tiny

# A thread each: more would wait for each other by turning in circles.
test: $(STAMP) ## Run the tests, in two processes
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder \
		--max-worker-restart 0

test-slow: $(STAMP) ## Run the tests on models of real size
	$(BIN)/python -m pytest -m slow --timeout 0

scorecard: $(STAMP) ## Try the service in storms, faults and floods; writes docs/reliability.md
	$(BIN)/python -m tests.serving.scorecard

fuzz: $(STAMP) ## Run the tests of odd inputs with ten times as many
	LATENTRT_FUZZ=10 $(BIN)/python -m pytest -m fuzz --timeout 0

check: $(STAMP) ## Check format, style, types, the imports between rooms, and the wheel
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports --no-logo
	$(BIN)/python -m tests.check_wheel

bench: $(STAMP) $(BUNDLE)/manifest.json ## Measure speed and errors, beside other libraries too; RESULTS=DIR PLOT=FILE
	mkdir -p $(RESULTS)
	$(BIN)/latentrt bench $(BUNDLE) --precision fp32 --guidance-scale 5 --arrivals 32 \
		--plot $(PLOT) --json > build/bench.json
	mv build/bench.json $(RESULTS)/bench-shapes.json
	$(BIN)/latentrt compare $(BUNDLE) --engine all --json > build/compare.json
	mv build/compare.json $(RESULTS)/compare-shapes.json
	$(BIN)/python -m latentrt.benchmarks.peers --bundle $(BUNDLE) --checkpoint models/shapes \
		--size 128x128 --json $(RESULTS)/peers-shapes.json
	$(BIN)/python benchmarks/scripts/http_overhead.py models/shapes --json $(RESULTS)/http.json

peers: $(addprefix $(PEERS_DIR)/,$(addsuffix /.stamp,$(or $(ARGS),$(PEERS)))) ## Make the environments of the libraries measured against; ARGS=NAME for one

# An environment that cannot be made is no reason to try nothing: what is only in it is left out.
gpu: $(STAMP) ## Build, verify, bench and compare on an NVIDIA GPU; ARGS=--sd15 for more
	@for place in $(GPU_ENVIRONMENTS); do $(MAKE) --no-print-directory $$place/.stamp || \
		echo "$$place was not made" >&2; done
	$(BIN)/python benchmarks/scripts/gpu.py $(addprefix --environment ,$(GPU_ENVIRONMENTS)) $(ARGS)

# mkdocs-material announces its successor at every start; the variable silences that alone.
docs: $(DOCS_DIR)/.stamp ## Build the documentation site in build/docs; a warning is a failure
	NO_MKDOCS_2_WARNING=1 $(DOCS_DIR)/bin/mkdocs build --strict --quiet
	@echo build/docs/index.html

format: $(STAMP) ## Format, and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean: ## Remove what the other targets made, except the virtual environment
	rm -rf $(BUNDLE) $(PICTURE) $(SERVED) build/docs dist
	rm -rf .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . \( -path ./.venv -o -path ./$(PEERS_DIR) -o -path ./$(GPU_DIR) -o -path ./$(DOCS_DIR) \) -prune -o -name __pycache__ -type d -exec rm -rf {} +

# An environment that is already there is installed into, not replaced. -qq: errors only.
$(STAMP): pyproject.toml constraints.txt
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { \
		$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
			echo "latentrt needs Python 3.11 or newer; $(PYTHON) is" \
				"$$($(PYTHON) --version 2>&1). Try: make PYTHON=python3.11" >&2; exit 1; }; \
		$(PYTHON) -m venv .venv; }
	@echo "Installing into .venv (minutes, the first time)"
	@$(BIN)/python -m pip install -qq --disable-pip-version-check \
		-e '.[onnxruntime,openvino,tensorrt-rtx,export,bench,serve,ray,dev]' -c constraints.txt
	@touch $@

# optimum-intel asks for torchvision, which fits one build of torch only and fails beside another;
# nothing here uses it.
$(PEERS_DIR)/%/.stamp: benchmarks/peers/%.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "latentrt needs Python 3.11 or newer" >&2; exit 1; }
	$(PYTHON) -m venv --clear $(@D)
	$(@D)/bin/python -m pip install --disable-pip-version-check $($*_PACKAGES) -c $<
	$(@D)/bin/python -m pip uninstall -qq -y torchvision
	@touch $@

$(GPU_DIR)/%/.stamp: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "latentrt needs Python 3.11 or newer" >&2; exit 1; }
	$(PYTHON) -m venv --clear $(@D)
	@echo "Installing into $(@D) (minutes)"
	@$(@D)/bin/python -m pip install -qq --disable-pip-version-check -e '.[$*]' -c constraints.txt
	@touch $@

$(DOCS_DIR)/.stamp: pyproject.toml constraints.txt
	$(PYTHON) -m venv --clear $(@D)
	@echo "Installing into $(@D)"
	@$(@D)/bin/python -m pip install -qq --disable-pip-version-check -e '.[docs]' -c constraints.txt
	@touch $@

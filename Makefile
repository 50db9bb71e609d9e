# make test    run all tests           make demo    personalise a small network for two people
# make quick   most, within a minute   make clean   remove the environment
# make check   lint, format and types
# make bench-smoke   every recipe in runs/ on a few images, where the data is there
# make page          docs/results.md from results/
# make zoo           published networks of many families, in an environment of its own (6 GB)
#
# All of them need Python 3.11+ and nothing else; what is missing is installed into .venv.

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
TORCH := torch==2.13.0

.PHONY: test quick demo check bench-smoke page zoo clean

# A process for each core, and each with one thread: many small networks gain nothing from more.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto

test: .venv/.dev
	$(PYTEST)

quick: .venv/.dev
	$(PYTEST) -m "not slow"

demo: .venv/.demo
	$(BIN)/python demo/run.py

check: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench-smoke: .venv/.dev
	@for recipe in runs/*.sh; do \
	    echo "$$recipe --smoke"; PYTHON="$(CURDIR)/$(BIN)/python" $$recipe --smoke || exit 1; done
	$(BIN)/python benchmarks/page.py --smoke --out build/smoke

page: .venv/.dev
	$(BIN)/python benchmarks/page.py

# It goes on where it was interrupted.
zoo: build/zoo/.made
	build/zoo/bin/python benchmarks/zoo.py
	build/zoo/bin/python benchmarks/zoo.py --page docs/zoo.md

build/zoo/.made:
	$(PYTHON) -m venv build/zoo
	build/zoo/bin/python -m pip install --quiet torch==2.14.1 torchvision==0.29.1
	build/zoo/bin/python -m pip install --quiet timm transformers --editable '.[deploy]'
	@touch $@

clean:
	rm -rf .venv

# A stamp file for each set of dependencies: installed again when pyproject.toml changes.
.venv/.dev .venv/.demo: .venv/.%: pyproject.toml .venv/.torch
	$(PIP) install --editable '.[$*]'
	@touch $@

# The CPU build of PyTorch where one is offered: the plain one brings gigabytes of CUDA.
.venv/.torch: | .venv/bin/python
	@echo 'Installing PyTorch into .venv ...'
	@if [ "$$(uname)" = Darwin ] || command -v nvidia-smi >/dev/null; then $(PIP) install $(TORCH); else \
	    $(PIP) install $(TORCH)+cpu 2>/dev/null \
	    || $(PIP) install --retries 1 $(TORCH)+cpu \
	        --extra-index-url https://download.pytorch.org/whl/cpu 2>/dev/null \
	    || $(PIP) install $(TORCH); fi
	@touch $@

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo 'Python 3.11 or newer is needed: install it, or name it: make test PYTHON=python3.12'; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	    echo 'Python cannot make a virtual environment: apt-get install python3-venv'; exit 1; }
	@$(PYTHON) -m venv .venv

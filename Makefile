# Every target first makes .venv (see .ci/env), which takes about a minute once and nothing afterwards.
#
#   make PYTHON=/path/to/python3     build .venv with this Python, 3.11 to 3.13
#   make EXTRAS="test cuda13"        and with these extras of setup.cfg
#   make test ARGS="-k order"        pass arguments on to pytest
#   make test WORKERS=8              share the tests among so many processes (2)
PYTHON ?=
EXTRAS ?= test
ARGS ?=
WORKERS ?= 2

export PYTHON EXTRAS
# The clone's own files come first, whatever else the environment holds.
export PYTHONPATH := $(CURDIR)
RUN := .venv/bin/python

.DEFAULT_GOAL := help
.PHONY: help env demo demo-order demo-staleness test test-all lint format bench bench-transformer golden report-full staleness-full tune-full networks-full notebooks gpu clean

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1	/p' Makefile | awk -F '\t' '{ printf "  make %-12s %s\n", $$1, $$2 }'

env:  ## make .venv, with the pinned dependencies
	@.ci/env

demo: env  ## order, staleness and samples in small, on one page (runs/demo/report.html)
	@$(MAKE) --no-print-directory -j2 demo-order demo-staleness
	$(RUN) -m experiments.book runs/demo/report.html --samples runs/demo/digits runs/demo/emoji \
	    --tuned flowjax/assets/digits-smooth/plans/w1-8.json \
	    --chapters runs/demo/order runs/demo/staleness
	@echo "demo: open runs/demo/report.html"

# The two halves of the demo, side by side: each leaves half a core idle.
demo-order: env
	$(RUN) -m experiments.order --config=configs/order.py:quick --workdir=runs/demo/order

demo-staleness: env
	$(RUN) -m experiments.sample --config=configs/sample_digits.py --workdir=runs/demo/digits
	$(RUN) -m experiments.sample --config=configs/sample_emoji.py --config.count=4 --workdir=runs/demo/emoji
	$(RUN) -m experiments.staleness --config=configs/staleness.py:quick --workdir=runs/demo/staleness

test: lint  ## lint, then the tests that take less than ten seconds each
	$(RUN) -m pytest -n $(WORKERS) --dist loadfile --max-worker-restart=0 -m "not slow" $(ARGS)
	@echo "test: lint and quick tests passed; 'make test-all' runs the slow ones too"

test-all: lint  ## lint, then every test
	$(RUN) -m pytest -n $(WORKERS) --dist loadfile --max-worker-restart=0 $(ARGS)
	@echo "test-all: lint and all tests passed"

lint: env  ## look for mistakes in the code
	$(RUN) -m ruff check --quiet --output-format=concise .

format: env  ## lay out the code, and mend what can be mended by rule
	$(RUN) -m ruff check --fix --quiet .
	$(RUN) -m ruff format .

bench: env  ## time the samplers (runs/bench)
	$(RUN) -m experiments.benchmarks.samplers --config=configs/bench.py --workdir=runs/bench
	@echo "bench: made" runs/bench/*

bench-transformer: env  ## time a guided transformer beside Python loops and PyTorch (runs/bench-transformer)
	$(RUN) -m experiments.benchmarks.transformer --config=configs/bench_transformer.py --workdir=runs/bench-transformer $(ARGS)
	@echo "bench-transformer: made" runs/bench-transformer/*

golden: env  ## hold solvers and networks to the public codes' numbers (tests/golden)
	$(RUN) -m tests.golden $(ARGS)
	$(RUN) -m tests.golden_models

report-full: env  ## the full order experiment: measures what results/order lacks, then draws its page
	$(RUN) -m experiments.order --config=configs/order.py --workdir=results/order $(ARGS)
	@echo "report-full: made" results/order/*

tune-full: env  ## tune what results/tune lacks, then draw its page (hours)
	$(RUN) -m experiments.tune --config=configs/tune.py --workdir=results/tune $(ARGS)
	@echo "tune-full: made" results/tune/*

networks-full: env  ## train and measure the networks that differ in one thing (made for a GPU; EXTRAS="test cuda12")
	$(RUN) -m experiments.networks --config=configs/networks.py --workdir=results/networks $(ARGS)
	@echo "networks-full: made" results/networks/*

staleness-full: env  ## the full staleness experiment: measures what results/staleness lacks, then draws its page
	$(RUN) -m experiments.staleness --config=configs/staleness.py --workdir=results/staleness $(ARGS)
	@echo "staleness-full: made" results/staleness/*

notebooks: env  ## run every notebook from the top (runs/notebooks)
	@mkdir -p runs/notebooks
	@set -e; for notebook in notebooks/*.ipynb; do \
	    echo "notebooks: $$notebook"; \
	    .venv/bin/jupyter-execute --timeout=600 --output=../runs/notebooks/{notebook_name} $$notebook; \
	done
	@echo "notebooks: made" runs/notebooks/*

# The card's name is in every row. Each part goes on from its rows, so the same command resumes. Tables are tuned in
# float32 and not in TF32, which is the card's default.
gpu:  ## on a machine with an NVIDIA GPU: tests, benchmark and one tuned table there, in about eight minutes
	@EXTRAS="test cuda12" .ci/env
	@$(RUN) -c "import jax; jax.devices('gpu')" 2>/dev/null || { echo "gpu: JAX finds no NVIDIA GPU here (nvidia-smi shows what the driver sees)"; exit 2; }
	JAX_PLATFORMS=cuda,cpu $(RUN) -m pytest -m gpu tests/gpu
	$(RUN) -m experiments.benchmarks.gpu --config=configs/bench_gpu.py --workdir=results/bench-gpu --config.seconds=240
	JAX_DEFAULT_MATMUL_PRECISION=highest $(RUN) -m experiments.tune --config=configs/tune.py --workdir=runs/gpu-tune --config.model=emoji-smooth \
	    --config.steps=8 --config.questions=ratio
	@echo "gpu: made" results/bench-gpu/* runs/gpu-tune/*

clean:  ## remove what was built here, except the results in runs/
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -not -path "./.venv/*" -prune -exec rm -rf {} +
	if [ -L .venv ]; then rm .venv; fi
	@echo "clean: done; runs/ is kept, and so are the environments in $${XDG_CACHE_HOME:-$$HOME/.cache}/flowjax"

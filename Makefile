# `make` lists the targets. Everything is set up in .venv by pip; nothing else is touched.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
# A CPU-only torch elsewhere: make setup TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH_INDEX ?=
export DAGSTER_HOME ?= $(CURDIR)/.dagster_home
export FINE_TUNE_PIPELINE_HOME ?= $(CURDIR)/.fine_tune_pipeline
# Silences the notice that the dagster command line prints about its successor.
export PYTHONWARNINGS ?= ignore:::click.core
STAMP := $(VENV)/.installed

.PHONY: help setup demo dev test check bench docs clean
.DEFAULT_GOAL := help

help: ## list the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 16

setup: $(STAMP) $(DAGSTER_HOME)/dagster.yaml ## make .venv and install everything (downloads about 1.5 GB once)

$(STAMP): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV): several minutes the first time"
	@if [ -n "$(TORCH_INDEX)" ]; then $(BIN)/pip install --index-url "$(TORCH_INDEX)" "$$(grep -E '^torch==' constraints.txt)"; fi
	@$(BIN)/pip install --progress-bar on --constraint constraints.txt --editable '.[demo,dev]'
	@touch $@

$(DAGSTER_HOME)/dagster.yaml: dagster.yaml
	@mkdir -p $(DAGSTER_HOME) && cp dagster.yaml $@

demo: setup ## the built-in use case through all eight steps, from raw messages to an answering endpoint
	@$(BIN)/python -m fine_tune_pipeline.cli demo

dev: setup ## web UI at http://localhost:3000 with daemon, and MLflow at http://localhost:5000
	@$(BIN)/python -m fine_tune_pipeline.cli dev

test: setup ## the test suite: no network, no GPU
	@$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

check: setup ## format, lint, import rules, types, every shipped YAML
	@$(BIN)/ruff format --check . && $(BIN)/ruff check .
	@$(BIN)/lint-imports
	@$(BIN)/mypy
	@$(BIN)/fine-tune-pipeline check fine_tune_pipeline/defs examples
	@$(BIN)/fine-tune-pipeline check --no-files examples/*.yaml

bench: setup ## side by side: training with stock TRL, answers with generate, the endpoint with a naive server, personal data with Presidio; near duplicates; step 3 by rows; drift (DATA=folder)
	@$(BIN)/python bench/train_speed.py
	@$(BIN)/python bench/predict_speed.py
	@$(BIN)/python bench/serve_speed.py
	@$(BIN)/python bench/vllm_gateway.py
	@$(BIN)/python bench/duplicates.py
	@$(BIN)/python bench/pii_speed.py
	@$(BIN)/python bench/pii_quality.py
	@$(BIN)/python bench/dataset_scale.py
	@if [ -n "$(DATA)" ]; then $(BIN)/python bench/drift_power.py --data "$(DATA)"; else echo "drift_power.py: give DATA=folder of clinc_oos/ and banking77/"; fi
	@$(BIN)/python bench/traffic_speed.py

docs: setup ## the documentation as a web site in site/
	@$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[docs]' && $(BIN)/mkdocs build --strict

clean: ## remove what the pipeline made; .venv stays
	rm -rf .fine_tune_pipeline .dagster_home

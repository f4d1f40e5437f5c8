# Every target prints one line in `make help`: the text after ## beside its name.
.DEFAULT_GOAL := help
SHELL := /bin/sh
.PHONY: help setup demo test test-long lint bench clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-9s  %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## make .venv with everything that requirements.txt pins
	@tests/setup.sh

demo: ## on a bare machine: an engine, a test host, two instances on it, and a web view of every run
	@tests/able.sh
	@tests/setup.sh --install
	@.venv/bin/python tests/demo.py

test: ## run every test (ONLY=stage runs one: lint unit faults sanity integration e2e)
	@tests/setup.sh --install
	@.venv/bin/python tests/all.py $(ONLY)

test-long: ## kill the instance engine at every step there is, not only at a share of them (some minutes)
	@tests/setup.sh
	@MULTIBASE_TEST_LONG=1 .venv/bin/python tests/all.py faults

lint: ## run the linters and type checks
	@tests/setup.sh
	@tests/lint.sh

bench: ## measure against what one would otherwise do (ONLY=name runs one benchmark)
	@tests/setup.sh
	@.venv/bin/python tests/bench/bench.py $(if $(ONLY),--only $(ONLY))

clean: ## remove what demo and tests started, and everything that can be made again
	@tests/clean.sh

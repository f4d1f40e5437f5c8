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

test: ## run the tests (ONLY=stage runs one: lint unit faults sanity browser integration e2e hosts)
	@tests/setup.sh --install
	@.venv/bin/python tests/all.py $(ONLY)

test-long: ## kill at every step there is, and try each role on test hosts of its own (most of an hour)
	@tests/setup.sh --install
	@MULTIBASE_TEST_LONG=1 .venv/bin/python tests/all.py faults hosts

lint: ## run the linters and type checks
	@tests/setup.sh
	@tests/lint.sh

bench: ## measure against what one would otherwise do (ONLY=name runs one benchmark)
	@tests/setup.sh
	@.venv/bin/python tests/bench/bench.py $(if $(ONLY),--only $(ONLY))

clean: ## remove what demo and tests started, and everything that can be made again
	@tests/clean.sh

# The door: `make` lists what there is. Every target does first what it needs, so each works on a new machine.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help deps build demo test test-crash test-poison check bench lint format docs install clean

PREFIX ?= /usr/local
DESTDIR ?=
# make demo ARGS='--brokers 127.0.0.1:9092'
ARGS ?=
# make test-crash N=50: runs per failpoint; make test-poison N=50: kills
N ?= 20
# make build WERROR=ON: warnings are errors (CI; `make test` and `make check` always)
WERROR ?= OFF

# $(call build,<preset>,<warnings are errors>,<targets>): CMake's own output is shown when it fails
define build
cmake --preset $(1) -DTXB_WERROR=$(2) >/dev/null
cmake --build --preset $(1) $(if $(3),--target $(3))
endef

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-11s %s\n", $$1, $$2}' Makefile

deps: ## install what running and building needs (Debian packages, as root or by sudo)
	@deploy/deps.sh run build

build: ## build the program: build/txbroker
	@deploy/deps.sh build
	$(call build,release,$(WERROR))

demo: ## two banks, 2,000 transfers, processes killed on the way, and a verifier (ARGS='--brokers HOST:PORT': on your Kafka)
	@deploy/deps.sh run build
	@$(call build,release,$(WERROR))
	@build/txbroker demo $(ARGS)

check: ## the tests that need no server, within a minute
	@deploy/deps.sh check
	tests/run check

test: ## all tests: both compilers, sanitizers, simulations, real PostgreSQL and Kafka (under 20 minutes)
	@deploy/deps.sh test
	WERROR=$(WERROR) tests/run test

test-crash: ## kill -9 at every failpoint, N times each: make test-crash N=50
	@deploy/deps.sh test
	tests/run crash --runs $(N)

test-poison: ## kill -9 of workers under load of which 2 % is poison, N times: make test-poison N=50
	@deploy/deps.sh test
	tests/run poison --runs $(N)

bench: ## measure relay and worker beside bare loops (some minutes, real PostgreSQL and Kafka)
	@deploy/deps.sh test
	$(call build,release,$(WERROR),all txb_bench)
	tests/bench/run --peers build/tests/bench $(ARGS)

lint: ## formatting, clang-tidy, shellcheck
	@deploy/deps.sh lint check
	tests/lint

format: ## format the C sources (clang-format 14)
	@deploy/deps.sh lint
	tests/lint --format

docs: ## write the pages that the program prints from its own tables
	@deploy/deps.sh build
	@$(call build,release,$(WERROR))
	python3 tests/house/docs.py build/txbroker

install: ## install program, library, headers, man page: make install PREFIX=/usr/local DESTDIR=
	@deploy/deps.sh build
	@$(call build,release,$(WERROR))
	DESTDIR='$(DESTDIR)' cmake --install build --prefix '$(PREFIX)'
	@if [[ -z '$(DESTDIR)' && $$EUID == 0 ]]; then ldconfig; fi

clean: ## remove what was built
	rm -rf build build-*

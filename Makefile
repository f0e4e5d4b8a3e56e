# Everyday commands. `make` lists them.
.DEFAULT_GOAL := help
SHELL := /bin/bash

.PHONY: help run test test-infrastructure check bench chaos release clean

help: ## List the commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 27

run: ## Build everything and run a host on this machine, with the email plugin
	@scripts/setup run
	@scripts/build
	@exec target/debug/patchbay dev

test: ## Build everything and run all tests against a private Postgres and Redis
	@scripts/setup test
	@scripts/build test
	@scripts/test

test-infrastructure: ## Only: other kinds of Postgres, PgBouncer, Redis, Sentinel, clock and log reader
	@scripts/setup test
	@scripts/build test
	@scripts/test -E 'test(/^(infrastructure|pg_bouncer|redis_kinds|redis_failover|stuck|cross_site)::/)'

check: ## Style: formatting, clippy, rustdoc, licences, alert rules
	@scripts/setup test
	@scripts/check

bench: ## Measure: against native code, Node's bullmq and Extism, side by side
	@scripts/setup test
	@scripts/bench

chaos: ## The outage and swap tests at full length (about 15 minutes)
	@scripts/setup test
	@scripts/build test
	@PATCHBAY_TEST_FULL=1 scripts/test

release: ## The optimised binary: target/release/patchbay
	@scripts/setup run
	@cargo build --release --workspace --bins

clean: ## Remove everything that was built, and what `make run` keeps
	@rm -rf target plugins/target tests/guests/target bench/target plugins/*/dist tests/guests/*/dist tests/interop/node_modules tests/languages/node_modules .patchbay

# Targets are one line each; the work is in scripts/.
.DEFAULT_GOAL := build
GO ?= go

.PHONY: build run demo test test-vm check bench conformance gpu-suite deps generate clean fuzz

build: ## dist/orch, static, with runc and the shim inside (GOARCH=arm64 cross-builds)
	scripts/build

run: ## build, start a server, apply the example, show it, keep running until Ctrl-C
	scripts/demo --stay

demo: ## the same, stopping cleanly at the end
	scripts/demo

test: ## all tests, with real containers and network namespaces; needs root
	scripts/test

test-vm: ## cgroup v2 and a bare machine, in a virtual machine; not part of test
	scripts/test-vm

check: ## format, vet, the tree's own rules
	scripts/check

fuzz: ## every fuzz target for TIME each (60s); PATTERN picks some
	scripts/fuzz $(or $(TIME),60s) $(PATTERN)

bench: ## the figures of docs/benchmarks.md
	scripts/bench

conformance: ## the upstream conformance suite, in network namespaces of its own; needs root and minutes to build
	scripts/conformance

gpu-suite: ## the checks on a real NVIDIA card: dist/gpu-suite.tar.gz, and run at once where there is a card
	scripts/gpu-suite

deps: ## what the build and the tests need from Debian or Ubuntu
	scripts/deps

generate: ## OpenAPI documents from the kind table
	$(GO) generate ./server/rest/...

clean:
	rm -rf dist .build

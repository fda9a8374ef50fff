# Copyright The Plumb Authors.
# SPDX-License-Identifier: Apache-2.0

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

GO ?= go
export CGO_ENABLED ?= 0
PRODUCT := plumb plumb-agent plumb-aggregator
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
BUILD_TIME ?= $(shell git log -1 --format=%cI 2>/dev/null || date -u +%Y-%m-%dT%H:%M:%SZ)
LDFLAGS := -s -w -X github.com/plumb-dev/plumb/internal/buildinfo.version=$(VERSION) -X github.com/plumb-dev/plumb/internal/buildinfo.buildTime=$(BUILD_TIME)

##@ Use it

.PHONY: run
run: product ## Run Plumb on this machine, really: agent, aggregator, verdicts; Ctrl-C ends it and cleans up
	@bin/plumb local

.PHONY: demo
demo: build packages ## A cluster of namespaces, a real MTU fault, the verdict with its proof, the mend (root, two minutes; installs what it needs and says what)
	@bin/plumb-lab run demo

.PHONY: lab
lab: build packages ## Every built-in scenario of faults, side by side, with a table (root, 20 minutes; installs what it needs and says what)
	@bin/plumb-lab suite

.PHONY: build
build: product bin/etcd ## Build everything into bin/: the product, and the lab with a real etcd (static, no cgo; needs Go and nothing else)
	@echo "building bin/plumb-lab" >&2
	@$(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/plumb-lab ./cmd/plumb-lab
	@echo "building bin/plumb-agent-plumblab (the agent with a clock that a file sets)" >&2
	@$(GO) build -trimpath -tags plumblab -ldflags '$(LDFLAGS)' -o bin/plumb-agent-plumblab ./cmd/plumb-agent

.PHONY: product
product: ## Build what is shipped into bin/
	@for b in $(PRODUCT); do \
		echo "building bin/$$b" >&2; \
		$(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/$$b ./cmd/$$b; \
	done

# A real etcd for the lab's control-plane nodes, from a module of its own, so that
# nothing of it enters ours.
bin/etcd: test/lab/tools/go.mod test/lab/tools/go.sum
	@echo "building bin/etcd from its Go module (a minute or two the first time)" >&2
	@cd test/lab/tools && $(GO) build -trimpath -ldflags '-s -w' -o ../../../bin/etcd go.etcd.io/etcd/server/v3

.PHONY: packages
packages:
	@test/run packages

##@ Check it

.PHONY: test
test: ## Install what the tests need, then run lint, unit, race, fuzz seeds, privileged and end-to-end tests
	@test/run all

.PHONY: lint
lint: ## gofmt, go vet, staticcheck, policy, generated files up to date
	@test/run lint

.PHONY: unit
unit: ## Unit tests with the race detector (no root needed)
	@test/run unit

.PHONY: privileged
privileged: ## Tests in network namespaces (root)
	@test/run privileged

.PHONY: e2e
e2e: ## The real binaries, end to end, in namespaces (root)
	@test/run e2e

.PHONY: labtest
labtest: ## The lab's core scenarios, and the lab's own tests with the real binaries (root)
	@test/run lab

.PHONY: vmtest
vmtest: ## The agent on kernels 6.1 and 6.12 in QEMU (KERNEL=6.1 for one)
	@test/run vm

.PHONY: bench
bench: ## Benchmarks of test/bench; figures go to docs/benchmarks.md by hand
	@test/run bench

##@ Change it

.PHONY: generate
generate: ## Generate protobuf code, BPF objects, evidence ids and docs (needs protoc and clang-14)
	@test/run generate

.PHONY: cross
cross: ## Build everything for linux amd64 and arm64
	@for arch in amd64 arm64; do echo "building for linux/$$arch" >&2; GOOS=linux GOARCH=$$arch $(GO) build ./...; done

.PHONY: clean
clean: ## Remove what was built
	@rm -rf bin .cache

.PHONY: help
help: ## Show this
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-z0-9_-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo

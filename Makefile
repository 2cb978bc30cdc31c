# duotap. `make` lists the targets.

GO     ?= go
BUILD  := build
# The race detector needs a C compiler; without one the tests run without it.
RACE   ?= $(if $(shell command -v $$($(GO) env CC) 2>/dev/null),-race)
TESTFLAGS ?=
FUZZTIME  ?= 20s

.DEFAULT_GOAL := help
.PHONY: help build demo test test-tap test-peers fuzz bench bench-compare lint ci clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## build the program as build/duotap
	$(GO) build -trimpath -o $(BUILD)/duotap ./cmd/duotap

demo: build ## send a message over a real TAP, IPv4 then IPv6 (no root, no configuration)
	$(BUILD)/duotap demo --link tap

test: ## run the tests; those that need a TAP or other programs are left to the next two
	$(GO) test $(RACE) $(TESTFLAGS) -tags poolcheck ./...

test-tap: ## run the tests on a real TAP, in user and network namespaces (no root)
	DUOTAP_TEST_TAP=1 $(GO) test -count 1 $(RACE) $(TESTFLAGS) -tags poolcheck ./tap/... ./stack/... ./cmd/...

test-peers: ## install postfix, tshark and others with apt-get (as root), and test against them
	./cmd/duotap/testdata/install-peers
	DUOTAP_TEST_TAP=1 DUOTAP_TEST_PEERS=1 $(GO) test $(TESTFLAGS) -count 1 -v -run 'Peer' ./stack/... ./cmd/...

fuzz: ## run each fuzz target for FUZZTIME (20s)
	@set -e; for pkg in $$($(GO) list ./...); do \
		for f in $$($(GO) test -list '^Fuzz' $$pkg | grep '^Fuzz' || true); do \
			echo "== $$pkg $$f"; $(GO) test -tags poolcheck -run '^$$' -fuzz "^$$f$$" -fuzztime $(FUZZTIME) $$pkg; \
		done; \
	done

# What a figure means, and what doesn't follow from it, is in docs/benchmarks.md.
BENCHFILE ?= $(BUILD)/bench.txt
BENCHFLAGS ?= --rounds 6
OLD ?= bench/results/baseline.txt
NEW ?= $(BENCHFILE)
BENCHSTAT := golang.org/x/perf/cmd/benchstat@v0.0.0-20260908200009-22c9c6c9d4da

bench: build ## measure everything, for about 15 minutes, into BENCHFILE (no root)
	@rm -f $(BENCHFILE)
	$(BUILD)/duotap bench tcp --link tap,tap-plain,memory -P 1,4 $(BENCHFLAGS) --go-bench $(BENCHFILE)
	$(BUILD)/duotap bench latency --cpu 0 --link tap,tap-plain,memory $(BENCHFLAGS) --go-bench $(BENCHFILE)
	$(BUILD)/duotap bench connect --link tap,tap-plain,memory $(BENCHFLAGS) --go-bench $(BENCHFILE)
	$(BUILD)/duotap bench udp --link tap,tap-plain $(BENCHFLAGS) --go-bench $(BENCHFILE)
	$(BUILD)/duotap bench smtp $(BENCHFLAGS) --go-bench $(BENCHFILE)
	$(BUILD)/duotap bench smtp --size 1000 -P 16 $(BENCHFLAGS) --go-bench $(BENCHFILE)
	$(BUILD)/duotap bench frames --link tap,tap-plain,memory $(BENCHFLAGS) --go-bench $(BENCHFILE)
	$(BUILD)/duotap bench pool $(BENCHFLAGS) --go-bench $(BENCHFILE)

bench-compare: ## compare the results OLD and NEW with benchstat
	$(GO) run $(BENCHSTAT) $(OLD) $(NEW)

lint: ## check formatting, go.mod, vet and staticcheck
	@test -z "$$(gofmt -l .)" || { gofmt -d .; exit 1; }
	$(GO) mod tidy -diff
	$(GO) vet -tags poolcheck ./...
	$(GO) tool staticcheck -tags poolcheck ./...
	$(GO) tool staticcheck ./...

ci: lint test test-tap demo test-peers ## everything above but fuzz
	$(GO) test ./packetpool/... ./smtpclient/... ./stack/...

clean: ## remove what make has built
	rm -rf $(BUILD)

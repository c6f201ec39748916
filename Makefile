# SPDX-License-Identifier: Apache-2.0
#
# Every target does its own set-up. `make help` lists them.

SHELL       := /bin/bash
GO          ?= go
PREFIX      ?= /usr/local
DESTDIR     ?=
# Where mount(8) looks for mount.fuse.imgfs; it looks nowhere else.
SBINDIR     ?= /sbin
FUZZTIME    ?= 10s
SOAKTIME    ?= 10m
CRASHTIME   ?= 10m
IMAGE       ?=
ROWS        ?=
PROFILE     ?=
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
VERSION     := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS     := -s -w -X main.version=$(VERSION)

# The version is stamped by LDFLAGS; asking git for more fails in a checkout of
# another user, as under sudo.
export GOFLAGS := $(strip $(GOFLAGS) -buildvcs=false)

.DEFAULT_GOAL := build

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo '  IMAGE=REF|FILE   the image make demo mounts (default: a Debian base made here)'
	@echo '  ROWS=NAME,...    which rows make bench measures (default: all but chown and million)'
	@echo '  FUZZTIME=$(FUZZTIME)     how long each fuzz target runs in make check and make fuzz'
	@echo '  PREFIX=$(PREFIX)  where make install puts things; DESTDIR goes before it'

.PHONY: build
build: ## build ./imgfs
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o imgfs ./cmd/imgfs

.PHONY: demo
demo: ## mount an image in a temporary directory, look around, unmount
	@scripts/setup demo
	@$(MAKE) --no-print-directory build
	@IMAGE='$(IMAGE)' scripts/demo

.PHONY: test
test: ## everything: set-up, check, and the tests as an ordinary user
	@scripts/setup test
	@scripts/mkimage tiny base deep >/dev/null
	@$(MAKE) --no-print-directory check
	@scripts/test-as-user

.PHONY: check
check: lint test-race test-one-cpu fuzz ## what must hold before a commit
	@scripts/no-mounts-left

.PHONY: lint
lint: ## gofmt, vet, staticcheck, go.mod, generated files
	@scripts/lint '$(STATICCHECK)'

.PHONY: test-race
test-race: ## all tests, with the race detector
	$(GO) test -race -p 2 -timeout 30m ./...

.PHONY: test-one-cpu
test-one-cpu: ## the tests of packages that mount, on one CPU
	@pkgs=$$(scripts/fuse-packages); [ -z "$$pkgs" ] || \
		{ set -x; GOMAXPROCS=1 $(GO) test -count=1 -p 1 -timeout 30m $$pkgs; }

.PHONY: fuzz
fuzz: ## each fuzz target for FUZZTIME
	@scripts/fuzz '$(FUZZTIME)'

.PHONY: soak
soak: ## fuzz targets and the racing tests again and again, for SOAKTIME
	@scripts/soak '$(SOAKTIME)'

.PHONY: crash
crash: ## lose power, kill servers and fail disks under the upper, each for CRASHTIME; needs root
	@scripts/crash '$(CRASHTIME)'

.PHONY: bench
bench: ## the whole table of figures, or of ROWS=NAME,...; needs root
	@scripts/setup bench
	@$(MAKE) --no-print-directory build
	@ROWS='$(ROWS)' scripts/bench

.PHONY: bench-quick
bench-quick: ## the hot path and the main ratios, in under three minutes; needs root
	@scripts/setup bench
	@$(MAKE) --no-print-directory build
	@ROWS='$(ROWS)' scripts/bench --quick

.PHONY: bench-write
bench-write: ## figures of writable mounts alone; needs root
	@scripts/setup bench
	@$(MAKE) --no-print-directory build
	@ROWS='$(ROWS)' scripts/bench write

.PHONY: bench-write-quick
bench-write-quick: ## the same with fewer runs; needs root
	@scripts/setup bench
	@$(MAKE) --no-print-directory build
	@ROWS='$(ROWS)' scripts/bench write --quick

.PHONY: bench-registry
bench-registry: ## figures of pulling an image, and of a store of many; needs root
	@scripts/setup bench
	@$(MAKE) --no-print-directory build
	@ROWS='$(ROWS)' scripts/bench registry

.PHONY: bench-forensics
bench-forensics: ## figures of the verbs that look into images; needs root
	@scripts/setup bench
	@$(MAKE) --no-print-directory build
	@ROWS='$(ROWS)' scripts/bench forensics

.PHONY: bench-hot
bench-hot: ## Go benchmarks of the hot path, for benchstat; PROFILE=1 for flame graphs
	@scripts/setup
	@scripts/bench gobench $(if $(PROFILE),-profile)

.PHONY: bench-check
bench-check: ## the same against the commit in bench/BASELINE, in turn; fails if one is 25 % slower
	@scripts/setup
	@scripts/bench check

.PHONY: bench-keep
bench-keep: ## put the last make bench on record, redraw the README's charts and table
	@scripts/bench keep build/bench.json
	@scripts/bench plot build/bench.json

.PHONY: man
man: build ## write the man pages to build/man
	@rm -rf build/man && mkdir -p build/man && ./imgfs man build/man

.PHONY: install
install: build man ## install imgfs, its man pages, completion and mount helper
	install -D -m 755 imgfs '$(DESTDIR)$(PREFIX)/bin/imgfs'
	install -d '$(DESTDIR)$(PREFIX)/share/man/man1' '$(DESTDIR)$(SBINDIR)'
	install -m 644 build/man/*.1 '$(DESTDIR)$(PREFIX)/share/man/man1/'
	install -d '$(DESTDIR)$(PREFIX)/share/bash-completion/completions' \
		'$(DESTDIR)$(PREFIX)/share/zsh/site-functions' '$(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d'
	./imgfs completion bash >'$(DESTDIR)$(PREFIX)/share/bash-completion/completions/imgfs'
	./imgfs completion zsh >'$(DESTDIR)$(PREFIX)/share/zsh/site-functions/_imgfs'
	./imgfs completion fish >'$(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/imgfs.fish'
	ln -sf '$(PREFIX)/bin/imgfs' '$(DESTDIR)$(SBINDIR)/mount.fuse.imgfs'

.PHONY: clean
clean: ## remove what was built here (not the cached test images)
	rm -rf imgfs build

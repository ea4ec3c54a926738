# OpenMoat. `make demo` shows it, `make test` tests it; both install what they need first.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
PYTHON ?= python3
export KEEP ?= 0
# Python's compiled files are kept, and apart from the sources.
export PYTHONDONTWRITEBYTECODE :=
export PYTHONPYCACHEPREFIX := $(CURDIR)/.cache/python
VENV := .venv
BIN := $(VENV)/bin
LOCK := requirements/dev.lock
SEED ?= $(shell od -An -N4 -tu4 /dev/urandom | tr -d ' ')
PEERS := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/openmoat/peers
RUST_SOURCES := $(shell find rust -name '*.rs' -not -path '*/target/*') $(wildcard rust/*/Cargo.toml) rust/Cargo.toml
PYTHON_SOURCES := src lab tests docs/conf.py docs/_extensions
PACKAGES := bc bison charon-systemd cmake ethtool flex gcc g++ iperf3 iproute2 iputils-ping libcharon-extra-plugins \
	libstrongswan-extra-plugins libstrongswan-standard-plugins nftables openssl procps python3-venv strongswan-swanctl tcpdump tshark xz-utils

.PHONY: help
help: ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: demo
demo: setup packages ## three moats and a portal in namespaces, with checks (root); KEEP=1 leaves them up
	$(BIN)/python -m openmoat_lab.demo

.PHONY: test
test: setup packages check docs sanitize chaos namespaces ## everything that must pass: lint, types, all tests (installs what it needs)

.PHONY: check
check: PYTEST = --durations=15
check: lint types rust-test quick ## what needs no root: lint, types, Rust tests, unit, scenario, property, layers, fuzzing

.PHONY: format
format: setup ## format Python and Rust, and correct what ruff can
	$(BIN)/ruff check --fix $(PYTHON_SOURCES)
	$(BIN)/ruff format $(PYTHON_SOURCES)
	cargo fmt --manifest-path rust/Cargo.toml --all

.PHONY: lint
lint: setup ## ruff, cargo fmt and clippy, without a warning
	$(BIN)/ruff check $(PYTHON_SOURCES)
	$(BIN)/ruff format --check $(PYTHON_SOURCES)
	cargo fmt --manifest-path rust/Cargo.toml --all --check
	cargo clippy --manifest-path rust/Cargo.toml --workspace --all-targets --release --quiet -- -D warnings

.PHONY: types
types: setup ## mypy --strict, and a comparison of the Rust module with its stub
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest openmoat._native

.PHONY: docs
docs: setup ## the documentation and the API of the library as web pages in docs/_build/html, without a warning
	$(BIN)/sphinx-build -W --keep-going -q -j auto -b html docs docs/_build/html

.PHONY: unit
unit: setup ## unit tests, in a few seconds
	@TIMEFORMAT="make unit: %1R s"; time $(MAKE) --no-print-directory --output-sync=target --jobs=2 unit-tall unit-other

TALL := tests/unit/cli tests/unit/daemon tests/unit/lab
.PHONY: unit-tall unit-other
unit-tall unit-other: # two processes that take about as long
	@$(BIN)/pytest -q $(if $(findstring tall,$@),$(TALL),tests/unit $(addprefix --ignore=,$(TALL)))

.PHONY: layers
layers: setup ## tests of the structure: imports, circles, sizes, names, bounds, documents
	$(BIN)/pytest -q tests/layers

.PHONY: quick
quick: setup ## unit, scenario, property and layer tests, and bounded fuzzing
	$(BIN)/pytest $(PYTEST) tests/unit tests/layers tests/scenario tests/property tests/fuzz

.PHONY: dev
dev: $(VENV)/.installed ## a quick build of a slow Rust module, to edit and run .venv/bin/pytest
	@rm -f $(VENV)/.built  # whatever is measured or released has the other profile: `make setup` builds that again
	$(DEVELOP) --profile dev-opt

.PHONY: chaos
chaos: setup ## two endpoints on a bad line, 1 000 seeds (half a minute)
	CHAOS_SEEDS=1000 $(BIN)/pytest -q tests/scenario/test_chaos.py

.PHONY: rust-test
rust-test: ## cargo test
	cargo test --manifest-path rust/Cargo.toml --workspace --exclude openmoat-native --release --quiet

.PHONY: fuzz
fuzz: export ROUNDS ?= 200000
fuzz: export LIVES ?= 400
fuzz: export HYPOTHESIS_PROFILE = fuzz
fuzz: export SEED := $(SEED)
fuzz: export PROPTEST_RNG_SEED = $(SEED)
fuzz: setup ## parsers, properties, ESP input and engine, for longer and with new random examples (ROUNDS=200000 SEED=)
	@echo "SEED=$(SEED) ROUNDS=$$ROUNDS LIVES=$$LIVES"
	$(BIN)/pytest --hypothesis-seed=$(SEED) tests/fuzz tests/property || { echo "again: make fuzz SEED=$(SEED)" >&2; exit 1; }
	cargo test --manifest-path rust/Cargo.toml -p openmoat-esp -p openmoat-engine --release --quiet \
		|| { echo "again: make fuzz SEED=$(SEED)" >&2; exit 1; }

.PHONY: guest-kernel
guest-kernel: setup packages ## a Linux kernel with IP-TFS as a peer for tests: built once, kept in the cache of the user (root)
	@$(BIN)/python -m openmoat_lab.guest.build

.PHONY: namespaces
namespaces: setup packages guest-kernel ## tests in network namespaces, against real peers (root)
	$(BIN)/pytest tests/interop

.PHONY: soak
soak: setup packages ## a flood with rekeys for ten minutes: every packet arrives or is counted by name (root; SECONDS=600)
	$(BIN)/python -m openmoat_lab.soak --seconds $(or $(SECONDS),600)

.PHONY: sanitize
sanitize: toolchain ## the Rust code that is unsafe under AddressSanitizer (CRATES="-p openmoat-io -p openmoat-engine": what is above it, too)
	@if ! ls $$(rustc --print target-libdir)/librustc-*asan* >/dev/null 2>&1; then \
		echo "could not run: this rustc has no AddressSanitizer, that of rustup has; ALLOW_SKIPS=1 accepts that" >&2; \
		[ "$(ALLOW_SKIPS)" = 1 ]; exit; fi; \
	RUSTC_BOOTSTRAP=1 RUSTFLAGS=-Zsanitizer=address cargo test --manifest-path rust/Cargo.toml --quiet \
		--target $$(rustc -vV | sed -n 's/^host: //p') --target-dir $(or $(CARGO_TARGET_DIR),rust/target)/sanitize \
		$(or $(CRATES),-p openmoat-io)

.PHONY: bench
bench: PACKAGES += openvpn
bench: setup packages peers ## measurements on this machine, of OpenMoat and other VPNs (root, half an hour); BENCH=--quick: main rows
	@rm -f $(VENV)/.built  # nothing but a measurement may use the suite that encrypts nothing: `make setup` builds without it
	$(DEVELOP) --release --features pyo3/extension-module,unsealed
	$(BIN)/moat bench $(BENCH)

.PHONY: peers
peers: # the userspace WireGuards, which Debian does not package, in their newest versions; whoever is missing is named later
	@if [ ! -x "$(PEERS)/bin/wireguard" ]; then \
		echo "getting wireguard-go into $(PEERS)"; \
		if ! command -v go >/dev/null; then echo "no go here: wireguard-go will be missing; remedy: install Go 1.23 or newer" >&2; \
		else GOBIN="$(PEERS)/bin" go install golang.zx2c4.com/wireguard@latest || echo "wireguard-go will be missing" >&2; fi; fi
	@if [ ! -x "$(PEERS)/bin/boringtun-cli" ]; then \
		echo "getting boringtun into $(PEERS), some minutes"; \
		CARGO_TARGET_DIR="$(PEERS)/build" cargo install --quiet --locked --root "$(PEERS)" boringtun-cli \
			|| echo "boringtun will be missing" >&2; \
		rm -rf "$(PEERS)/build"; fi

.PHONY: setup
setup: $(VENV)/.built ## the virtual environment and the Rust module, if they are not up to date

$(VENV)/.installed: $(LOCK) | toolchain
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "openmoat needs Python 3.11 or newer, this is " + sys.version)'
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || $(MAKE) packages
	@echo "setting up $(VENV): Python packages and the Rust engine, some minutes the first time"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --require-hashes --requirement $(LOCK)
	@touch $@

DEVELOP := PATH="$(CURDIR)/$(BIN):$$PATH" VIRTUAL_ENV="$(CURDIR)/$(VENV)" $(BIN)/maturin develop --quiet --locked

$(VENV)/.built: $(VENV)/.installed pyproject.toml lab/pyproject.toml rust/Cargo.lock $(RUST_SOURCES) | toolchain
	@echo "building the Rust engine"
	@$(DEVELOP) --release >$(VENV)/build.log 2>&1 || { cat $(VENV)/build.log >&2; exit 1; }
	@$(BIN)/pip install --quiet --no-build-isolation --no-deps --editable lab
	@touch $@

.PHONY: lock
lock: ## renew the locked versions of Python packages within the bounds of pyproject.toml
	@$(PYTHON) -m venv .cache/lock
	@.cache/lock/bin/pip install --quiet --upgrade uv
	@.cache/lock/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --upgrade --extra dev \
		--no-emit-package openmoat --custom-compile-command "make lock" --output-file $(LOCK) pyproject.toml

.PHONY: changelog
changelog: setup ## print the notes in changes/ as one text; VERSION=x.y.z moves them to CHANGELOG.md
	@$(BIN)/towncrier build $(if $(VERSION),--yes --version $(VERSION),--draft --version "not released")

.PHONY: toolchain
toolchain: # a cargo that is new enough, or a word about how to get one
	@need=$$(sed -n 's/^rust-version = "\(.*\)"/\1/p' rust/Cargo.toml); \
	have=$$(cargo --version 2>/dev/null | cut -d' ' -f2); \
	if [ -z "$$have" ] || [ "$$(printf '%s\n%s\n' "$$need" "$$have" | sort -V | head -1)" != "$$need" ]; then \
		echo "openmoat needs cargo $$need or newer, this machine has $${have:-none}." >&2; \
		echo "Remedy: install it with rustup (apt-get install rustup && rustup default stable on Debian 13;" >&2; \
		echo "on Debian 12 see the instructions of rustup itself), then run make again." >&2; exit 1; fi

.PHONY: packages
packages: # Debian's packages that the lab and its peers need, if any is missing
	@missing=$$(for p in $(PACKAGES); do dpkg-query -W -f='$${Status}' $$p 2>/dev/null | grep -q 'ok installed' || echo $$p; done); \
	if [ -n "$$missing" ]; then \
		if [ "$$(id -u)" != 0 ]; then echo "as root: apt-get install" $$missing >&2; exit 1; fi; \
		echo "installing:" $$missing; \
		apt-get update -qq; \
		DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -y -qq --no-install-recommends $$missing >/dev/null; fi

.PHONY: clean
clean: ## remove what was built
	rm -rf $(VENV) rust/target docs/_build docs/_generated src/openmoat/*.so .cache .pytest_cache .mypy_cache .ruff_cache .hypothesis

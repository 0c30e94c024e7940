# Everything a newcomer needs, from a fresh Debian 12 with Rust (rustup.rs) and make:
#   make demo    builds ibid and shows a pair of nodes at work on this machine
#   make test    formatting, lints, every test, the simulator (CI: .ci/run)
# What is missing is installed with apt first (`make deps`); nothing else on the machine is touched.

# libdpdk-dev brings DPDK's headers, libraries and drivers; clang and libclang are for the generated bindings;
# iproute2 sets up the demo's network, e2fsprogs makes and checks its file system; g++ builds libFuzzer.
PACKAGES = gcc g++ libc6-dev libdpdk-dev pkg-config clang libclang-dev iproute2 e2fsprogs
CARGO   ?= cargo
BENCH_ARGS ?=
ROUNDS     ?= 300
STORM      ?= 10000
LINK_SECONDS ?= 4
DEMO_ARGS  ?=
SEEDS      ?= 1000
# "dev" takes what `make test` has built, with every assertion in it, and is slower.
PROFILE    ?= release
MINUTES    ?= 5

TARGET_DIR = $(or $(CARGO_TARGET_DIR),target)
IBID       = $(TARGET_DIR)/$(PROFILE:dev=debug)/ibid

.PHONY: help deps rust build demo test test-kill test-storm test-link test-hosts test-devices test-pci fuzz bench clean
.DEFAULT_GOAL = help

help:
	@echo 'make demo    build ibid, run two nodes on this machine, show what they do   (DEMO_ARGS=...)'
	@echo 'make build   build target/release/ibid'
	@echo 'make test    formatting, lints, every test, the simulator                 (SEEDS=1000)'
	@echo 'make test-kill   kill -9 of a pair under load, again and again               (ROUNDS=300)'
	@echo 'make test-storm  connections that come and go while a host writes            (STORM=10000)'
	@echo 'make test-link   goodput over a bad link, and after a minute without one   (LINK_SECONDS=4)'
	@echo 'make test-hosts  a real Linux, emulated, and SPDK as clients; gets a kernel      (tests/hosts)'
	@echo 'make test-devices   the link over each virtual device that there is a profile for'
	@echo 'make test-pci   DPDK drives NICs of an emulated machine; gets a kernel            (tests/hosts)'
	@echo 'make fuzz    made-up hosts, so long for each target                        (MINUTES=5)'
	@echo 'make bench   benchmarks                                                   (BENCH_ARGS=...)'
	@echo 'make deps    install the Debian packages that are missing'
	@echo 'make clean   remove what was built'

# Asks dpkg first, so that a machine that has everything needs neither root nor a network.
deps: rust
	@missing=; \
	for package in $(PACKAGES); do \
		case "$$(dpkg-query -W -f '$${Status}' $$package 2>/dev/null)" in \
			'install ok installed') ;; \
			*) missing="$$missing $$package" ;; \
		esac; \
	done; \
	[ -n "$$missing" ] || exit 0; \
	if ! command -v apt-get >/dev/null; then \
		echo "make deps: this is no Debian; install the equivalents of:$$missing" >&2; exit 1; \
	elif [ "$$(id -u)" = 0 ]; then as_root=; \
	elif command -v sudo >/dev/null; then as_root=sudo; \
	else \
		echo "make deps: neither root nor sudo; ask an administrator to run" >&2; \
		echo "    apt-get install --no-install-recommends$$missing" >&2; exit 1; \
	fi; \
	echo "installing:$$missing"; \
	$$as_root apt-get update && \
	$$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $$missing

rust:
	@command -v $(CARGO) >/dev/null || { \
		echo "make: cargo is missing; install Rust from https://rustup.rs and open a new shell" >&2; exit 1; }

build: deps
	$(CARGO) build --profile $(PROFILE) --locked

demo: build
	$(IBID) demo $(DEMO_ARGS)

test: deps
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	$(CARGO) test --workspace --locked -- --nocapture
	$(CARGO) xtask sim --seeds $(SEEDS)
	$(CARGO) xtask mutants --quick --cap 100
	$(CARGO) xtask sweep crash
	$(CARGO) xtask fuzz --smoke

# About three seconds a round; the seed is printed, and IBID_KILL_SEED takes it.
test-kill: deps
	IBID_KILL_ROUNDS=$(ROUNDS) IBID_RESTART_LOG_MIB=1024 \
	$(CARGO) test --release --locked --test pair -- --nocapture rounds::

# Fails where the host's p99 doubles: for a machine that has nothing else to do. About a minute.
test-storm: deps
	IBID_STORM=$(STORM) $(CARGO) test --release --locked --test pair -- --nocapture target::storm::

# A quarter of an hour: for a machine that has nothing else to do.
test-link: deps
	IBID_LINK_SECONDS=$(LINK_SECONDS) $(CARGO) test --release --locked --test pair -- --nocapture faulty::

# Prints PASS, FAIL or SKIPPED per step; needs root for packages and for one of the two links. SPDK only where there is one (IBID_SPDK names
# its folder). About five minutes.
test-hosts: build
	@status=0; \
	IBID=$(IBID) tests/hosts/linux-guest.sh || status=1; \
	IBID=$(IBID) tests/hosts/spdk.sh || status=1; \
	exit $$status

# Wants root; about a minute and a half, two or three times that where others are at work. What can't be had here says SKIPPED.
test-devices: build
	IBID=$(IBID) tests/hosts/devices.sh

# The link over DPDK's PCI drivers, vfio-pci and an IOMMU, in QEMU. About three minutes.
test-pci: build
	IBID=$(IBID) tests/hosts/pci-guest.sh

# Guided by coverage, see docs/fuzzing.md. What it finds worth keeping lies in target/fuzz/corpus and is where the next run begins.
fuzz: deps
	$(CARGO) xtask fuzz --seconds $$(($(MINUTES) * 60))

# The stages first, so that the table of the whole pair stands last. BENCH_ARGS is for the pair: its --help lists what there is.
bench: build
	$(CARGO) bench --bench stages --locked
	$(CARGO) bench --bench pair --locked -- $(or $(BENCH_ARGS),--quick)

clean:
	$(CARGO) clean

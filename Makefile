# `make` lists the targets. Every option of the program can be given as a variable:
#   make run-client TRACKER=udp://10.0.0.1:6969 ETCD_HOST=10.0.0.1

CARGO ?= cargo
DATA ?= $(or $(XDG_DATA_HOME),$(if $(HOME),$(HOME)/.local/share,target/run))/torrent-cache

# Defaults that work together on one machine, without root. Make hands them, what stands on its
# command line, and the environment to the program.
run-client: export TRACKER ?= http://127.0.0.1:6969/announce
run-client: export ETCD_HOST ?= 127.0.0.1
run-client: export CERTFILE ?= $(DATA)/client/cert.pem
run-client: export PRIVATEKEY ?= $(DATA)/client/key.pem
run-client: export STORAGE ?= $(DATA)/client/storage
run-tracker: export STORAGE ?= $(DATA)/tracker

STATIC := target/$(shell uname -m)-unknown-linux-musl/release/torrent-cache

.PHONY: help build static image image-files test interop check fmt lint doc tidy demo deb run-tracker run-client fuzz sim soak bench bench-swarm deps clean

help:
	@echo 'make build         the release binary, target/release/torrent-cache'
	@echo 'make static        a static binary for any Linux, with musl (needs musl-gcc); prints its path'
	@echo 'make image         the container images client and tracker, from the static binary and etcd'
	@echo 'make test          all tests (make deps once before)'
	@echo 'make interop       the tests with other BitTorrent clients, and with rqbit, which it builds'
	@echo 'make check         format, lints, documentation and all tests: what a change must pass'
	@echo 'make demo          three clients on this machine pull one image; shows who sent what'
	@echo 'make deb           a Debian package in target/deb, of the static binary, for any Debian or Ubuntu'
	@echo 'make run-tracker   the tracker and its etcd, in the foreground'
	@echo 'make run-client    a client that uses them, in the foreground'
	@echo 'make deps          Debian packages for tests and demo, with apt-get (root or sudo)'
	@echo 'make fuzz          every fuzz target for FUZZ_SECONDS, or FUZZ_TARGETS (gets cargo-fuzz)'
	@echo 'make soak          pulls while processes are killed and frozen, for SOAK_SECONDS (300)'
	@echo 'make sim           200 seeds of each simulated network (SIM_SEEDS, or one: SIM_SEED)'
	@echo 'make bench         the benches, against peers that it installs; BENCH=front: one of them'
	@echo 'make bench-swarm   up to 32 hosts in network namespaces, with lines; also drawn (root)'
	@echo 'make clean         removes what was built'
	@echo
	@echo 'Options are variables: make run-client TRACKER=udp://10.0.0.1:6969 ETCD_HOST=10.0.0.1'
	@echo 'BINARY=path is tested, or put into the images or the package, instead of one that is built.'
	@echo 'Data of run-tracker and run-client: $(DATA)'

build:
	$(CARGO) build --release --locked

# TOOLCHAIN=debian builds it with Debian's packages, where rustup cannot fetch what musl needs.
static:
	packaging/static.sh

# With BINARY and ETCD these programs go into the images.
image: $(if $(BINARY),,static)
	packaging/docker/build.sh $(or $(BINARY),$(STATIC)) $(ETCD)

# What the Dockerfile puts into the images.
image-files: $(if $(BINARY),,static)
	packaging/docker/root.sh $(or $(BINARY),$(STATIC)) $(ETCD)

# Most tests wait for what other programs do: twice as many at a time as there are cores.
test: export RUST_TEST_THREADS ?= $(shell expr 2 '*' "$$(nproc)")
test:
	$(CARGO) test --locked

interop:
	benches/install.sh wire
	$(CARGO) test --locked --test interop --test rqbit

check: fmt lint doc test

fmt:
	$(CARGO) fmt --check

lint:
	$(CARGO) clippy --locked --all-targets -- -D warnings

doc:
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --locked --no-deps --document-private-items

tidy:
	$(CARGO) test --locked --test tidy

demo:
	@tests/demo.sh

deb: $(if $(BINARY),,static)
	@packaging/deb/build.sh $(or $(BINARY),$(STATIC))

run-tracker: build
	@mkdir -p "$$STORAGE"
	@exec target/release/torrent-cache tracker

run-client: build
	@mkdir -p "$$STORAGE" "$$(dirname "$$CERTFILE")" "$$(dirname "$$PRIVATEKEY")"
	@exec target/release/torrent-cache client

SIM_SEEDS ?= 200
sim:
	SIM_SEEDS=$(SIM_SEEDS) $(CARGO) test --locked --release --test sim -- --nocapture

FUZZ_SECONDS ?= 60
fuzz: export FUZZ_SECONDS := $(FUZZ_SECONDS)
fuzz:
	@fuzz/run.sh $(FUZZ_TARGETS)

# An hour: make soak SOAK_SECONDS=3600
SOAK_SECONDS ?= 300
soak: export SOAK_SECONDS := $(SOAK_SECONDS)
soak:
	$(CARGO) test --locked --release --test soak -- --nocapture

# All benches, or the one that BENCH names; ROWS are words that select rows of it.
bench: build
	benches/install.sh $(BENCH)
	$(CARGO) bench --locked $(if $(BENCH),--bench $(BENCH),--benches) -- $(ROWS)

# Draws target/bench-swarm.svg.
bench-swarm: build
	benches/install.sh swarm
	$(CARGO) bench --locked --bench swarm -- $(ROWS)

deps:
	tests/install.sh

clean:
	$(CARGO) clean

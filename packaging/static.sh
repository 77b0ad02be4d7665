#!/usr/bin/env bash
# Builds the static binary that runs on any Linux of this architecture, and checks that it is one.
#
#   packaging/static.sh [cargo build arguments...]
#
# The result is target/ARCH-unknown-linux-musl/release/torrent-cache. The standard library for musl comes from
# rustup; with TOOLCHAIN=debian, from Debian's packages (x86_64 only), for places that rustup does not reach.
set -euo pipefail
cd "$(dirname "$0")/.."

target=$(uname -m)-unknown-linux-musl
binary=${CARGO_TARGET_DIR:-target}/$target/release/torrent-cache

command -v musl-gcc >/dev/null || {
  echo "musl-gcc is missing, which compiles the C code of ring: apt-get install musl-tools" >&2
  exit 1
}

# The triple with dashes or underscores, as the variables of cc and cargo spell it.
name=${target//-/_}
export "CC_$name=musl-gcc"

case ${TOOLCHAIN:-rustup} in
  rustup)
    # In this folder rustup takes the toolchain that builds us.
    if [[ ! -d $(rustc --print target-libdir --target "$target") ]]; then
      command -v rustup >/dev/null || {
        echo "this Rust has no $target, and there is no rustup to fetch it; TOOLCHAIN=debian takes Debian's" >&2
        exit 1
      }
      rustup target add "$target" || {
        echo "rustup cannot fetch $target; TOOLCHAIN=debian takes Debian's packages instead" >&2
        exit 1
      }
    fi
    cargo build --release --locked --target "$target" "$@"
    ;;
  debian)
    packaging/static-debian.sh "$@"
    ;;
  *)
    echo "TOOLCHAIN=$TOOLCHAIN: rustup or debian" >&2
    exit 2
    ;;
esac
packaging/check-static.sh "$binary"

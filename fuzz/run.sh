#!/usr/bin/env bash
# Runs fuzz targets, all of them or those that are named, one after the other.
#
#   fuzz/run.sh [TARGET...]
#
# FUZZ_SECONDS    how long each runs: 60
# FUZZ_SANITIZER  none, or address. The codecs have no unsafe code; none is twice as fast.
#
# cargo-fuzz wants nightly Rust. Where there is none, RUSTC_BOOTSTRAP lets the stable compiler do it.
# What is found on the way is kept in fuzz/corpus, which is not committed; what is committed is
# fuzz/seeds: `fuzz/keep.sh` makes it of the corpus.
set -euo pipefail
cd "$(dirname "$0")/.."

command -v cargo-fuzz >/dev/null || cargo install --locked cargo-fuzz
sanitizer=${FUZZ_SANITIZER:-none}
if cargo +nightly --version >/dev/null 2>&1; then
  fuzz=(cargo +nightly fuzz)
else
  export RUSTC_BOOTSTRAP=1
  fuzz=(cargo fuzz)
fi

targets=("$@")
((${#targets[@]})) || mapfile -t targets < <("${fuzz[@]}" list)
for target in "${targets[@]}"; do
  "${fuzz[@]}" build --sanitizer "$sanitizer" "$target"
done
for target in "${targets[@]}"; do
  mkdir -p "fuzz/corpus/$target" "fuzz/seeds/$target"
  echo "== $target: ${FUZZ_SECONDS:-60} s"
  "${fuzz[@]}" run --sanitizer "$sanitizer" "$target" \
    "fuzz/corpus/$target" "fuzz/seeds/$target" tests/vectors -- \
    -max_total_time="${FUZZ_SECONDS:-60}" -print_final_stats=1 -verbosity=0 -timeout=10
done

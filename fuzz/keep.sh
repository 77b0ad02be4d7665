#!/usr/bin/env bash
# Makes fuzz/seeds of what the targets have found: for each the smallest set of short inputs that
# reaches as much of the code. Run after `make fuzz`.
set -euo pipefail
cd "$(dirname "$0")/.."
host=$(rustc -vV | sed -n 's/^host: //p')

for corpus in fuzz/corpus/*/; do
  target=$(basename "$corpus")
  smallest=$(mktemp -d)
  "fuzz/target/$host/release/$target" -set_cover_merge=1 -max_len=512 "$smallest" \
    "$corpus" "fuzz/seeds/$target" tests/vectors 2>/dev/null
  rm -rf "fuzz/seeds/$target"
  mv "$smallest" "fuzz/seeds/$target"
  chmod 755 "fuzz/seeds/$target"
done

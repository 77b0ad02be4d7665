#!/usr/bin/env bash
# Fails unless the program FILE needs nothing of the system that it runs on, and is small.
#
#   packaging/check-static.sh FILE
set -euo pipefail

file=$1
mib_max=8

# A program that starts through a loader names it (PT_INTERP), and its libraries (DT_NEEDED).
headers=$(readelf --wide --program-headers --dynamic "$file")
if needs=$(grep -E '\(NEEDED\)|program interpreter' <<<"$headers"); then
  printf '%s is not static:\n%s\n' "$file" "$needs" >&2
  exit 1
fi
bytes=$(stat --format=%s "$file")
if ((bytes > mib_max << 20)); then
  echo "$file has $bytes bytes, more than $mib_max MiB" >&2
  exit 1
fi
echo "$file: static, $bytes bytes"

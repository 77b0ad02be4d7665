#!/usr/bin/env bash
# Makes ostree/ again with the ostree of this machine: superblocks of every kind, a summary, an
# index, what `ostree static-delta show` says of the first; and parts, with what is in them.
set -euo pipefail
out=$(cd "$(dirname "$0")" && pwd)/ostree
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
mkdir -p "$out" tree
export SOURCE_DATE_EPOCH=1700000000
run() { ostree --repo=repo "$@" >/dev/null; }
file() { head -c "$2" /dev/urandom >"tree/$1"; }

run init --mode=archive
for n in 1 2 3 4 5 6; do file "f$n" 700000; done
file big 5000000
run commit -b main --tree=dir=tree -s one
run static-delta generate --empty --max-chunk-size=1 main
first=$(ostree --repo=repo rev-parse main)
file f2 700000
run commit -b main --tree=dir=tree -s two
run static-delta generate --from="$first" --to=main
run summary -u
delta() { # FROM-TO or TO -> its folder
  local name
  name=$(for hex in ${1/-/ }; do printf %s "$hex" | xxd -r -p | base64 | tr / _ | tr -d '=\n'; printf -- -; done)
  name=${name%-}
  echo "repo/deltas/${name:0:2}/${name:2}"
}
second=$(ostree --repo=repo rev-parse main)
keep() { # NAME FROM-TO
  cp "$(delta "$2")/superblock" "$out/$1.superblock"
  # `show` looks for the files of parts that are inside, and fails.
  ostree --repo=repo static-delta show "$2" >"$out/$1.txt" || [ "$1" = inline ]
  (cd "$(delta "$2")" && sha256sum [0-9]* 2>/dev/null >"$out/$1.sums" || true)
}
keep fallback "$first"
keep update "$first-$second"
cp repo/summary "$out/summary"
name=$(basename "$(delta "$second")")
cp repo/delta-indexes/*/"$name.index" "$out/second.index"

# Small ones for the other forms: with its parts inside, of the other byte order, signed.
rm -rf tree/*
file small 300
run commit -b other --orphan --tree=dir=tree -s small
other=$(ostree --repo=repo rev-parse other)
run static-delta generate --empty --inline other
keep inline "$other"
run static-delta generate --empty --swap-endianness other
keep swapped "$other"
# Debian builds ostree without ed25519; the form around the superblock is the same.
OSTREE_DUMMY_SIGN_ENABLED=1 run static-delta generate --empty --sign-type=dummy --sign=key other
cp "$(delta "$other")/superblock" "$out/signed.superblock"

# Parts, with what is in them: files of each kind, whole; then some that are made of others.
keep_part() { # NAME FROM-TO
  keep "$1" "$2"
  rm "$out/$1.sums"
  cp "$(delta "$2")/0" "$out/$1.part"
}
# What each file begins with before its compressed bytes: its header, and the length of that.
heads() {
  python3 - "$@" <<'EOF'
import pathlib, sys
for path in sorted(pathlib.Path("repo/objects").glob("*/*.filez")):
    file = path.read_bytes()
    print(path.parent.name + path.stem, file[: 8 + int.from_bytes(file[:4], "big")].hex())
EOF
}
rm -rf repo tree && mkdir -p tree/sub/empty
run init --mode=archive
seq 3000 >tree/text
seq 40000 >tree/long
seq 5000 9000 | sed 's/1/x/' >tree/sub/patched
head -c 140000 /dev/zero >tree/zeros
: >tree/none
ln -s text tree/link
ln -s "/usr/$(head -c 300 /dev/zero | tr '\0' x)/far" tree/sub/link
printf '#!/bin/sh\n' >tree/run && chmod 755 tree/run
python3 -c 'import os
os.setxattr("tree/text", "user.one", b"1")
os.setxattr("tree/text", "user.long", bytes(300))'
run commit -b files --tree=dir=tree -s files
files=$(ostree --repo=repo rev-parse files)
run static-delta generate --empty files
keep_part whole "$files"
heads >"$out/whole.heads"
run static-delta generate --empty --inline --swap-endianness files
cp "$(delta "$files")/superblock" "$out/whole-inline.superblock"
{ seq 20000; echo new; seq 20001 40000; } >tree/long
seq 5000 9000 | sed 's/1/y/' >tree/sub/patched
echo new >tree/new
run commit -b files --tree=dir=tree -s changed
changed=$(ostree --repo=repo rev-parse files)
run static-delta generate --from="$files" --to=files
keep_part changed "$files-$changed"
run static-delta generate --from="$files" --to=files --disable-bsdiff
keep_part unpatched "$files-$changed"

# Files as an archive repository keeps them.
rm -rf tree/* files
yes "some text of a file" | head -500 >tree/text || true
: >tree/empty
file random 3000
chmod 755 tree/random
ln -s text tree/link
ostree --repo=files init --mode=archive
ostree --repo=files commit -b main --owner-uid=1000 --owner-gid=7 --tree=dir=tree >/dev/null
rm -rf "$out/files" && mkdir "$out/files"
for path in files/objects/*/*.filez; do
  cp "$path" "$out/files/$(basename "$(dirname "$path")")$(basename "$path")"
done

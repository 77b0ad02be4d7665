#!/usr/bin/env bash
# Builds the static x86_64 binary with Debian's packages alone, where rustup cannot fetch the standard library
# for musl: `make static TOOLCHAIN=debian`. Arguments are those of `cargo build`.
#
# rustc-web and rust-web-src are a compiler and the sources of its standard library, musl-tools a libc and a
# linker, libunwind-14-dev the unwinder. That one was compiled with glibc's fortified headers, whose functions
# musl lacks: two stand below.
set -euo pipefail
cd "$(dirname "$0")/.."
target=x86_64-unknown-linux-musl
parts=${CARGO_TARGET_DIR:-$PWD/target}/static-debian

[[ $(uname -m) == x86_64 ]] || { echo "Debian's way builds on x86_64 only" >&2; exit 1; }
for file in /usr/bin/rustc /usr/bin/musl-gcc /usr/lib/llvm-14/lib/libunwind.a; do
  [[ -e $file ]] || {
    echo "$file is missing: apt-get install rustc-web rust-web-src musl-tools libunwind-14-dev" >&2
    exit 1
  }
done

rm -rf "$parts"
mkdir -p "$parts/objects"
cat >"$parts/fortify.c" <<'C'
#include <stdarg.h>
#include <stdio.h>

int __fprintf_chk(FILE *stream, int flag, const char *format, ...) {
    (void)flag;
    va_list arguments;
    va_start(arguments, format);
    int written = vfprintf(stream, format, arguments);
    va_end(arguments);
    return written;
}

int __snprintf_chk(char *out, size_t len, int flag, size_t room, const char *format, ...) {
    (void)flag, (void)room;
    va_list arguments;
    va_start(arguments, format);
    int written = vsnprintf(out, len, format, arguments);
    va_end(arguments);
    return written;
}
C
(
  cd "$parts/objects"
  ar x /usr/lib/llvm-14/lib/libunwind.a
  musl-gcc -O2 -c ../fortify.c -o fortify.o
  ar rcs ../libunwind.a ./*.o
)

# Bootstrap: the compiler is a stable one, and building its standard library is not.
export RUSTC=/usr/bin/rustc RUSTC_BOOTSTRAP=1
export CARGO_TARGET_X86_64_UNKNOWN_LINUX_MUSL_LINKER=musl-gcc
flags="-C link-self-contained=no -C target-feature=+crt-static -C relocation-model=static -L native=$parts"
export CARGO_TARGET_X86_64_UNKNOWN_LINUX_MUSL_RUSTFLAGS=$flags
exec cargo build -Zbuild-std=std,panic_unwind --release --locked --target "$target" "$@"

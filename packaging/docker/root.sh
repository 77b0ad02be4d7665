#!/usr/bin/env bash
# Lays out the files of the container images under target/image, from where the Dockerfile takes them.
#
#   packaging/docker/root.sh BINARY [ETCD]
#
# BINARY is a static torrent-cache. ETCD is the etcd for the tracker's image, by default the one in PATH; the
# loader and the libraries that it needs, if it is not static itself, come with it.
set -euo pipefail

binary=$1
etcd=${2:-$(command -v etcd || true)}
root=$(dirname "$0")/../../target/image

"$(dirname "$0")/../check-static.sh" "$binary"
[[ -n $etcd ]] || { echo "no etcd in PATH for the tracker's image: apt-get install etcd-server" >&2; exit 1; }

rm -rf "$root"
install -D --mode=755 "$binary" "$root/client/bin/torrent-cache"
mkdir -p "$root/client/storage"
install -D --mode=755 "$etcd" "$root/tracker/bin/etcd"
if readelf --wide --program-headers "$etcd" | grep -q 'program interpreter'; then
  # ldd says "name => path (address)", and the bare path of the loader.
  ldd "$etcd" | grep -o '/[^ ]*' | sort -u | while read -r library; do
    install -D --mode=755 "$library" "$root/tracker$library"
  done
fi

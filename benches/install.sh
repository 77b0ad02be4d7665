#!/usr/bin/env bash
# Installs the peers that the benches measure against.
#
#   benches/install.sh            those of all benches
#   benches/install.sh BENCH      only those of one
set -euo pipefail
cd "$(dirname "$0")/.."

install() {
  case $1 in
    crowd) tests/install.sh curl docker-registry etcd-server skopeo ;;
    front) tests/install.sh curl docker-registry etcd-server nginx-light skopeo wrk ;;
    ostree) tests/install.sh etcd-server nginx-light ostree ;;
    scale) tests/install.sh python3-libtorrent ;;
    swarm) tests/install.sh etcd-server iproute2 util-linux ;;
    tracker)
      tests/install.sh opentracker wrk
      # Without what they report to, which is not built by the compilers of today.
      [[ -x target/peers/bin/aquatic_udp ]] ||
        cargo install --locked aquatic_udp --version ^0.9 --root target/peers \
          --no-default-features --features mimalloc
      [[ -x target/peers/bin/aquatic_udp_load_test ]] ||
        cargo install --locked aquatic_udp_load_test --version ^0.9 --root target/peers
      ;;
    wire)
      tests/install.sh aria2 python3-libtorrent
      [[ -x target/peers/bin/rqbit ]] ||
        cargo install --locked rqbit --version ^9.1 --root target/peers \
          --no-default-features --features rust-tls
      ;;
    *) echo "there is no bench $1" >&2; exit 2 ;;
  esac
}

benches=("$@")
((${#benches[@]})) || benches=(crowd front ostree scale tracker wire)
for bench in "${benches[@]}"; do
  install "$bench"
done

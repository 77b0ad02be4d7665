#!/usr/bin/env bash
# Installs Debian packages for tests and the demo, as root or through sudo.
#
#   tests/install.sh                 everything that the tests use
#   tests/install.sh PACKAGE...      only these
#
# No service is started: the tests run etcd, registries and the like themselves.
set -euo pipefail

packages=("$@")
python_tools=no
if ((${#packages[@]} == 0)); then
  packages=(etcd-server etcd-client docker-registry skopeo curl python3 gcc libc6-dev)
  # The programs that pull, for tests/clients.rs.
  packages+=(containerd docker.io ostree podman)
  # The static binary, the container images, and a network to run them in, for tests/image.
  packages+=(musl-tools binutils iproute2 iptables docker-compose)
  # What serves and pulls repositories, for tests/ostree.
  packages+=(flatpak nginx-light)
  # Other BitTorrent software, for tests/interop.rs.
  packages+=(aria2 opentracker python3-libtorrent transmission-cli)
  # A wall clock that jumps, for tests/faults.
  packages+=(libfaketime)
  # A disk that fails, for the same.
  packages+=(strace)
  # What the program is packaged for, for tests/packaging.
  packages+=(systemd systemd-container dbus openssl dpkg-dev lintian groff mandoc bash zsh fish)
  packages+=(python3-venv)
  python_tools=yes
fi

# The schema of Kubernetes and its checker, from PyPI, in a folder of their own.
install_python_tools() {
  local folder
  folder=$(dirname "$0")/../target/kubernetes-validate
  if [[ $python_tools == no ]] || "$folder/bin/kubernetes-validate" --version >/dev/null 2>&1; then
    return
  fi
  python3 -m venv "$folder"
  "$folder/bin/pip" install --quiet --disable-pip-version-check kubernetes-validate==1.37.0
}

missing=()
for package in "${packages[@]}"; do
  [[ $(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) == installed ]] ||
    missing+=("$package")
done
if ((${#missing[@]} == 0)); then
  echo "installed already: ${packages[*]}"
  install_python_tools
  exit 0
fi

as_root=()
if ((EUID != 0)); then
  command -v sudo >/dev/null || { echo "run as root: apt-get install ${missing[*]}" >&2; exit 1; }
  as_root=(sudo)
fi
echo "installing with apt-get: ${missing[*]}"

# Debian starts the services of what it installs unless this file says no; a policy that is there stays.
policy=/usr/sbin/policy-rc.d
if [[ ! -e $policy ]]; then
  trap '"${as_root[@]}" rm -f "$policy"' EXIT
  printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee "$policy" >/dev/null
  "${as_root[@]}" chmod 755 "$policy"
fi
"${as_root[@]}" apt-get update -qq
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
  apt-get install -y -qq --no-install-recommends "${missing[@]}"
install_python_tools

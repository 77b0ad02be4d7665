#!/usr/bin/env bash
# Builds the images `client` and `tracker` without pulling anything: from a static binary that is there and this
# machine's etcd. `make image` calls it.
#
#   packaging/docker/build.sh BINARY [ETCD]
#
# DOCKER is the program to build with, default docker. The Dockerfile builds from the sources as well, where base
# images can be pulled: see there.
set -euo pipefail
cd "$(dirname "$0")/../.."

# The files lie in one place, whoever builds: one after the other.
mkdir -p target
exec {lock}>target/image.lock
flock "$lock"

packaging/docker/root.sh "$@"
for target in client tracker; do
  # With BuildKit, a stage that is not used is neither pulled nor run.
  DOCKER_BUILDKIT=1 "${DOCKER:-docker}" build --quiet --build-arg FILES=given --target "$target" --tag "$target" .
  size=$("${DOCKER:-docker}" image inspect --format '{{.Size}}' "$target")
  echo "image $target: $size bytes"
done
etcd=$(du --summarize --bytes target/image/tracker | cut -f 1)
echo "of the tracker's, $etcd bytes are etcd and the libraries that it needs"

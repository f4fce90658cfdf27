#!/usr/bin/env bash
# Build images: docker/build.sh [NAME …] (default: all). `make images` passes ENGINE, IMAGE_PREFIX, IMAGE_TAG and BUILD_ARGS.
set -euo pipefail
cd "$(dirname "$0")/.."
engine=${ENGINE:-${CONTAINER_TOOL:-docker}}
prefix=${IMAGE_PREFIX:-${EOLGUL_IMAGE_PREFIX:-eolgul}}
version=$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
tag=${IMAGE_TAG:-${EOLGUL_IMAGE_TAG:-$version}}
# Not every builder looks at the content of mounted files to decide whether a layer must be made anew.
inputs=$(cat pyproject.toml constraints.txt requirements-*.txt docker/install.py | sha256sum | cut -c1-16)
ours=$(find pyproject.toml README.md LICENSE NOTICE src serving components pipelines -type f ! -name '*.pyc' ! -path '*.egg-info/*' -print0 |
  LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum | cut -c1-16)
# The commit's time in place of the build's: the same commit gives the same files and times.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}
export SOURCE_DATE_EPOCH
reproducible=()
case $(basename "$engine") in
  podman | buildah) reproducible=(--layers --timestamp "$SOURCE_DATE_EPOCH" --build-arg NOW="$(date +%s%N)") ;;
esac
[ $# -gt 0 ] || set -- $(basename -s .Dockerfile docker/*.Dockerfile)
for name; do
  # shellcheck disable=SC2086  # BUILD_ARGS are words
  "$engine" build "${reproducible[@]}" --build-arg VERSION="$version" \
    --build-arg REVISION="$(git rev-parse HEAD 2>/dev/null || echo unknown)" \
    --build-arg INPUTS="$inputs" --build-arg SOURCE="$ours" ${BUILD_ARGS:-} \
    -f "docker/$name.Dockerfile" -t "$prefix/$name:$tag" .
done

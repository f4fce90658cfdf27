#!/usr/bin/env bash
# Build the images and run every component, the whole pipeline and the service in them (`make images-test`). With buildah the base image
# is made of Debian's packages once (docker/base.sh), where PYTHON_IMAGE names none. NAMES="serving extract": these only.
# SKIP_BUILD=1: test what is there. BUILD_ARGS: of the build, such as the volumes with a proxy's certificates and pip.conf.
set -euo pipefail
cd "$(dirname "$0")/.."
export ENGINE=${ENGINE:-buildah} IMAGE_PREFIX=${IMAGE_PREFIX:-localhost/eolgul} IMAGE_TAG=${IMAGE_TAG:-test}
base=${PYTHON_IMAGE:-}
if [ "$(basename "$ENGINE")" = buildah ]; then
  [ -n "$base" ] || { base=localhost/eolgul/base:bookworm; docker/base.sh "$base"; }
  # As in a cluster: no layer of the host's rights; and no registry is asked.
  BUILD_ARGS="--isolation chroot --network host --pull-never --format docker ${BUILD_ARGS:-}"
fi
export BUILD_ARGS="${BUILD_ARGS:-} ${base:+--build-arg PYTHON_IMAGE=$base}"
# shellcheck disable=SC2086  # NAMES are words
[ -n "${SKIP_BUILD:-}" ] || docker/build.sh ${NAMES:-}
EOLGUL_IMAGES_TEST=1 EOLGUL_IMAGE_PREFIX=$IMAGE_PREFIX EOLGUL_IMAGE_TAG=$IMAGE_TAG \
  exec "${PYTHON:-python3}" -m pytest tests/containers --durations=0 "$@"

#!/usr/bin/env bash
# Copy the bill of materials (CycloneDX) out of the built images, to docker/sbom/NAME.cdx.json. ENGINE, IMAGE_PREFIX, IMAGE_TAG as in build.sh.
set -euo pipefail
cd "$(dirname "$0")/.."
engine=${ENGINE:-${CONTAINER_TOOL:-docker}}
prefix=${IMAGE_PREFIX:-${EOLGUL_IMAGE_PREFIX:-eolgul}}
tag=${IMAGE_TAG:-${EOLGUL_IMAGE_TAG:-$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)}}
mkdir -p docker/sbom
[ $# -gt 0 ] || set -- $(basename -s .Dockerfile docker/*.Dockerfile)
for name; do
  for place in venv mxnet; do
    [ "$place" = venv ] || [ "$name" = extract ] || continue
    out=docker/sbom/$name$([ "$place" = venv ] || echo "-$place").cdx.json
    if [ "$(basename "$engine")" = buildah ]; then
      container=$(buildah from --pull-never "$prefix/$name:$tag")
      cp "$(buildah mount "$container")/opt/$place/sbom.cdx.json" "$out"
      buildah rm "$container" >/dev/null
    else
      "$engine" run --rm --network none --entrypoint cat "$prefix/$name:$tag" "/opt/$place/sbom.cdx.json" >"$out"
    fi
    echo "$out"
  done
done

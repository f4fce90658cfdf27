#!/usr/bin/env bash
# Make a base image from Debian's packages, where no registry of images can be reached: TAG (default localhost/eolgul/base:bookworm).
# Needs root, debootstrap and buildah. `make images-test` uses it; for production, take python:3.11-slim by digest.
set -euo pipefail
tag=${1:-localhost/eolgul/base:bookworm}
buildah inspect --type image "$tag" >/dev/null 2>&1 && exit 0
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/root"
debootstrap --variant=minbase --include=python3.11,python3.11-venv,python3-pip,ca-certificates \
  bookworm "$work/root" ${DEBIAN_MIRROR:+"$DEBIAN_MIRROR"} >"$work/log" 2>&1 ||
  { tail -5 "$work/log" >&2; exit 1; }
# debootstrap configures venv only beside pip, which is not needed: a virtual environment brings its own.
chroot "$work/root" dpkg --purge python3-pip python3-wheel python3-setuptools python3-pkg-resources >/dev/null
# As Debian's own slim image: no package lists, no documentation but the licences, no translations.
cd "$work/root"
rm -rf var/lib/apt/lists/* var/cache/apt/* var/cache/debconf/*-old var/log/* var/cache/ldconfig/aux-cache \
  usr/share/man usr/share/info usr/share/locale usr/share/lintian usr/share/bug tmp/* dev/*
find usr/share/doc -type f ! -name copyright -delete
find usr/share/doc -type l -delete
find usr/share/doc -type d -empty -delete
find . -name __pycache__ -type d -prune -exec rm -rf {} +
container=$(buildah from scratch)
buildah add -q "$container" "$work/root" / >/dev/null
buildah config --cmd /bin/bash --env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$container"
buildah commit -q --rm "$container" "$tag" >/dev/null

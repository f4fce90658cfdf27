#!/usr/bin/env bash
# Images for the cluster of node.sh, of what cannot be pulled here. They have the names and versions that the manifests ask for, not the
# content of the makers' images: Redis of Debian 13 with its shell in place of busybox, and SeaweedFS' program from PyPI.
#
#   tests/cluster/images.sh make          redis, seaweedfs and pause: those that are not there yet. Needs buildah, debootstrap, `weed`
#   tests/cluster/images.sh push FILE      inside: push them and the service (SERVING, default: localhost/eolgul/serving:test) to the
#                                         registry of the cluster, and write FILE as `make push` does
#
# PAUSE is the program of build.sh.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
redis=$(sed -n 's/^ *image: *\(redis:[^ ]*\).*/\1/p' "$root/k8s/base/redis.yaml" | head -n 1)
seaweedfs=$(sed -n 's/^ *image: *\(chrislusf[^ ]*\).*/\1/p' "$root/k8s/components/seaweedfs/seaweedfs.yaml")
pause=pause:3.2
names=("$redis" "$seaweedfs" "$pause")

there() { buildah inspect --type image "localhost/stand-in/$1" >/dev/null 2>&1; }

image() { # NAME FOLDER: an image of a folder
    local container
    container=$(buildah from scratch)
    buildah add -q "$container" "$2" / >/dev/null
    [ -z "${3:-}" ] || buildah config --entrypoint "[\"$3\"]" "$container"
    buildah config --env PATH=/usr/local/bin:/usr/bin:/bin "$container"
    buildah commit -q --rm "$container" "localhost/stand-in/$1" >/dev/null
}

make_all() {
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    # Debian 13's: the Redis of Debian 12 does not know client|setinfo, which redis-start.sh allows.
    if ! there "$redis" || ! there "$seaweedfs"; then
        debootstrap --variant=minbase --include=redis-server trixie "$work/debian" ${DEBIAN_MIRROR:+"$DEBIAN_MIRROR"} >"$work/log" 2>&1 ||
            { tail -n 5 "$work/log" >&2; exit 1; }
        rm -rf "$work"/debian/var/lib/apt/lists/* "$work"/debian/var/cache/apt/* "$work"/debian/dev/*
        image "$redis" "$work/debian"
        cp "$(command -v weed || echo "$root/.venv/bin/weed")" "$work/debian/usr/bin/weed"
        image "$seaweedfs" "$work/debian"
    fi
    mkdir "$work/pause"
    cp "${PAUSE:?the program pause, which build.sh makes}" "$work/pause/pause"
    there $pause || image $pause "$work/pause" /pause
}

push_all() {
    local name target
    printf '[[registry]]\nlocation = "127.0.0.1:5000"\ninsecure = true\n' >"$1.registries"
    export CONTAINERS_REGISTRIES_CONF=$1.registries
    for name in "${names[@]}"; do
        case $name in */* | pause:*) target=$name ;; *) target=library/$name ;; esac
        buildah push -q "localhost/stand-in/$name" "127.0.0.1:5000/$target"
    done
    buildah tag "${SERVING:-localhost/eolgul/serving:test}" 127.0.0.1:5000/eolgul/serving:test
    CONTAINER_TOOL=${CONTAINER_TOOL:-buildah} python3 "$root/docker/push.py" 127.0.0.1:5000/eolgul/serving:test --out "$1"
}

case ${1:-} in
    make) make_all ;;
    push) push_all "${2:?the file to write}" ;;
    *) sed -n '2,9s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac

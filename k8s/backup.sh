#!/usr/bin/env bash
# Back the deployed service up and restore it: the bucket (models, data sets, checkpoints) and the gallery (its people, sealed).
# Needs kubectl and the command `eolgul` of this version, with the extra `serve` (`make install` has it).
#
#   k8s/backup.sh backup FOLDER [OVERLAY]     bring FOLDER up to date: FOLDER/bucket, FOLDER/gallery.jsonl, FOLDER/counts.json
#   k8s/backup.sh restore FOLDER [OVERLAY]    put both back into the cluster, whose gallery must be empty, and compare the counts
#
# PREFIX=registry limits the bucket to what is below that key. The keys are those of the overlay's secrets; they are not in the
# backup: the gallery opens only with `encryption-keys` of its time. Exit codes: 0 whole; 1 not whole; 2 something is missing here.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
namespace=eolgul

fail() {
    echo "backup: $1" >&2
    exit "${2:-2}"
}

# shellcheck source=k8s/lib/overlays.sh
. "$here/lib/overlays.sh"
# shellcheck source=k8s/lib/check.sh
. "$here/lib/check.sh"
# shellcheck source=k8s/lib/forward.sh
. "$here/lib/forward.sh"
# shellcheck source=k8s/lib/store.sh
. "$here/lib/store.sh"

connect() {
    render "$folder" "$secrets" >"$scratch/manifests.yaml"
    connect_store "$scratch/manifests.yaml"
    place=${place#s3://}
    bucket=s3://${place%%/*}${PREFIX:+/$PREFIX}
    forward_to gallery 6379
    value_of REDIS_PASSWORD >"$scratch/password"
    export EOLGUL_GALLERY_URL=redis://127.0.0.1:$port/0 EOLGUL_REDIS_USERNAME=eolgul EOLGUL_REDIS_PASSWORD_FILE=$scratch/password
    export EOLGUL_GALLERY_TIMEOUT_S=30 EOLGUL_ENCRYPTION_KEYS_FILE=$secrets/encryption-keys EOLGUL_API_KEYS_FILE=$secrets/api-keys.json
    export EOLGUL_MODEL=$scratch
    unset EOLGUL_REGISTRY
}

number_of() { # KEY FILE: of a line of JSON
    sed -n "s/.*\"$1\": *\([0-9]*\).*/\1/p" "$2" | tail -n 1
}

backup() {
    mkdir -p "$target"
    if "$eolgul" gallery backup "$target/gallery.jsonl" >"$scratch/gallery" 2>"$scratch/error"; then
        [ "$(number_of unreadable "$scratch/gallery")" = 0 ] ||
            fail "$(number_of unreadable "$scratch/gallery") values of the gallery are sealed with a key that is not in $secrets/encryption-keys" 1
    else
        grep -q 'the gallery is empty' "$scratch/error" || fail "$(tail -n 1 "$scratch/error")" 1
        echo '{"people": 0, "templates": 0}' >"$scratch/gallery"
        rm -f "$target/gallery.jsonl"
    fi
    "$eolgul" mirror "$bucket" "$target/bucket" >"$scratch/bucket" || exit 1
    counts >"$target/counts.json"
    cat "$target/counts.json"
}

counts() {
    echo "{\"people\": $(number_of people "$scratch/gallery"), \"templates\": $(number_of templates "$scratch/gallery")," \
        "\"objects\": $(number_of objects "$scratch/bucket"), \"bytes\": $(number_of bytes "$scratch/bucket")}"
}

restore() {
    [ -f "$target/counts.json" ] || fail "$target/counts.json is missing: not a whole backup"
    "$eolgul" mirror "$target/bucket" "$bucket" >"$scratch/bucket" || exit 1
    if [ -f "$target/gallery.jsonl" ]; then
        "$eolgul" gallery restore "$target/gallery.jsonl" >"$scratch/gallery" || exit 1
    else
        echo '{"people": 0, "templates": 0}' >"$scratch/gallery"
    fi
    counts
    # Objects of earlier backups that are gone since stay in the folder, so there may be more of them.
    local key
    for key in people templates; do
        [ "$(number_of $key "$scratch/gallery")" = "$(number_of $key "$target/counts.json")" ] ||
            fail "$(number_of $key "$scratch/gallery") $key are there, the backup had $(number_of $key "$target/counts.json")" 1
    done
    [ "$(number_of objects "$scratch/bucket")" -ge "$(number_of objects "$target/counts.json")" ] ||
        fail "$(number_of objects "$scratch/bucket") objects are there, the backup had $(number_of objects "$target/counts.json")" 1
}

case ${1:-} in backup | restore) action=$1 ;; *) fail "expected k8s/backup.sh backup|restore FOLDER [OVERLAY]" ;; esac
[ $# = 2 ] || [ $# = 3 ] || fail "expected k8s/backup.sh $action FOLDER [OVERLAY]"
mkdir -p "$(dirname "$2")"
target=$(cd "$(dirname "$2")" && pwd)/$(basename "$2")
folder=$(folder_of "${3:-local}")
[ "${3:-}" != kubeflow ] || fail "kubeflow: its data is in the bucket of another overlay"
secrets=$(secrets_folder "$folder")
signing=$(signing_folder "$folder")
umask 077
scratch=$(mktemp -d)
trap 'end_forward; rm -rf "$scratch"' EXIT
kubectl=$(find_kubectl)
eolgul=$(find_eolgul)
check_secrets "$secrets"
check_signing "$signing"
connect
"$action"

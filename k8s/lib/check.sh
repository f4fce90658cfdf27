# What can be wrong before anything is changed. Sourced by deploy.sh, backup.sh and cluster-test.sh.
# shellcheck shell=bash disable=SC2154  # here, kubectl, namespace, oldest: deploy.sh

# The overlay on which the overlay of a folder is built; nothing for one that is built on the base.
base_of() {
    local name
    name=$(sed -n 's|^ *- *"\{0,1\}\.\./\([A-Za-z0-9._-]*\)/\{0,1\}"\{0,1\} *\(#.*\)\{0,1\}$|\1|p' "$1/kustomization.yaml" | head -n 1)
    [ -z "$name" ] || [ ! -f "$here/overlays/$name/kustomization.yaml" ] || echo "$here/overlays/$name"
}

# The first of a folder and those it is built on for which a command succeeds; nothing if there is none.
first_folder() { # FOLDER COMMAND…
    local folder=$1 depth
    shift
    for ((depth = 0; depth < 10; depth++)); do
        if "$@" "$folder"; then
            echo "$folder"
            return
        fi
        folder=$(base_of "$folder")
        [ -n "$folder" ] || return 0
    done
}

has_secrets() { [ -f "$1/secrets.env.example" ]; }
names_trusted_keys() { grep -v '^ *#' "$1/kustomization.yaml" | grep -q 'trusted-keys'; }

# The folder of an overlay's secrets: its own, or that of the overlay on which it is built, directly or through others.
secrets_folder() {
    local found
    found=$(first_folder "$1" has_secrets)
    [ -n "$found" ] || fail "k8s/${1#"$here"/} has no secrets.env.example and is built on no overlay (- ../production) that has one"
    echo "$found"
}

# The folder of an overlay's signing-key and trusted-keys; nothing where the service takes unsigned models.
signing_folder() {
    first_folder "$1" names_trusted_keys
}

check_signing() { # FOLDER or nothing
    [ -z "$1" ] || [ -s "$1/trusted-keys" ] || fail "k8s/${1#"$here"/}/trusted-keys is missing: make secrets OVERLAY=${1##*/} makes it, or put the public keys (PEM) there that sign your models"
}

# Kustomize takes values literally, including quotes, and would deploy the example's values.
check_secrets() {
    local folder=$1 key value
    local file=$folder/secrets.env short=k8s/${folder#"$here"/}/secrets.env name=${folder##*/}
    [ -f "$file" ] || fail "$short is missing: make secrets OVERLAY=$name makes it, or copy $short.example to it and replace the values"
    while IFS='=' read -r key _; do
        case $key in '' | \#*) continue ;; esac
        value=$(sed -n "s/^$key=//p" "$file")
        case $value in
            '') fail "$short: $key has no value" ;;
            *change-me*) fail "$short: $key still has the example's value; replace it" ;;
            *from-your-store*) fail "$short: $key is given by your object store; fill it in" ;;
            *[!A-Za-z0-9._~-]*)
                case $key$short in
                    *_S3_*external-s3*) ;; # a store of somebody else makes keys with / and +
                    *) fail "$short: $key may contain only letters, digits and . _ ~ -, and no quotes" ;;
                esac
                ;;
        esac
        # MinIO refuses shorter values, but only at run time.
        [ ${#value} -ge 8 ] || fail "$short: $key is shorter than 8 characters"
    done <"$folder/secrets.env.example"
    grep -q api-keys.json "$folder/kustomization.yaml" || return 0
    for key in api-keys.json encryption-keys; do
        [ -s "$folder/$key" ] || fail "${short%secrets.env}$key is missing: the end of $short.example explains how to make it"
    done
}

# Nobody may be sent to an image that is not theirs: `eolgul/serving` is a name of Docker Hub that anybody could own. Everywhere
# but on one machine (local) the service's image therefore names its registry and its digest.
check_images() {
    local overlay=$1 image
    [ "$overlay" != local ] || return 0
    sed -n 's/^ *\(- \)\{0,1\}image: *"\{0,1\}\([^" ]*\).*/\2/p' "$2" | sort -u >"$scratch/images"
    while read -r image; do
        case $image in
            redis:* | minio/minio:* | chrislusf/seaweedfs:*) ;; # theirs, by a version
            localhost/*) fail "overlay $overlay: $image is on one machine only; push it (make push) and name it with its digest: EOLGUL_IMAGES=docker/digests.json" ;;
            *.*/*@sha256:* | *:*/*@sha256:*) ;;
            *) fail "overlay $overlay: the image $image has no registry and digest of your own: make push IMAGE_PREFIX=registry.example/eolgul, then EOLGUL_IMAGES=docker/digests.json, or images: in k8s/overlays/$overlay/kustomization.yaml" ;;
        esac
    done <"$scratch/images"
}

check_endpoint() {
    local endpoint
    endpoint=$(sed -n 's/^  EOLGUL_S3_ENDPOINT: *//p' "$1" | head -n 1)
    case $endpoint in
        *your-store*) fail "EOLGUL_S3_ENDPOINT still has the example's value; set it in the overlay's kustomization.yaml" ;;
    esac
}

check_cluster() {
    local version
    version=$("$kubectl" version 2>/dev/null | sed -n 's/^Server Version: v1\.\([0-9]*\).*/\1/p') || true
    [ -n "$version" ] || fail "the cluster does not answer: $("$kubectl" version 2>&1 | tail -n 1)" 1
    [ "$version" -ge "$oldest" ] || fail "the cluster runs Kubernetes 1.$version; the manifests are for 1.$oldest and later" 1
    grep -q '^kind: HorizontalPodAutoscaler$' "$1" || return 0
    "$kubectl" get --raw /apis/metrics.k8s.io/v1beta1 >/dev/null 2>&1 ||
        echo "note: the cluster has no metrics server, so the number of replicas stays at its least (https://github.com/kubernetes-sigs/metrics-server)"
}

# The volume of a StatefulSet has the size it was made with: Kubernetes refuses another one with two screens of JSON.
check_volumes() {
    local name wanted there
    sizes_of "$1" >"$scratch/sizes"
    while read -r name wanted; do
        there=$("$kubectl" -n $namespace get statefulset "$name" --ignore-not-found \
            -o 'jsonpath={.spec.volumeClaimTemplates[0].spec.resources.requests.storage}')
        [ -z "$there" ] || [ "$there" = "$wanted" ] || fail "the volume of $name was made with $there and this overlay asks for $wanted, which Kubernetes cannot change in place. To go on: kubectl -n $namespace patch pvc data-$name-0 --type merge -p '{\"spec\":{\"resources\":{\"requests\":{\"storage\":\"$wanted\"}}}}' (a storage class that allows expansion; leave it out to keep $there), then kubectl -n $namespace delete statefulset $name --cascade=orphan (its pod and its data stay), then deploy again" 1
    done <"$scratch/sizes"
}

# ---- reading rendered manifests, whose form kustomize fixes: documents between ---, two spaces, metadata.name at two

names_of() { # KIND FILE: the names of its objects
    awk -v kind="$1" '
        function flush() { if (k == kind) print n; k = n = ""; inside = 0 }
        /^---/ { flush(); next }
        /^kind: / { k = $2 }
        /^[a-z]/ { inside = ($1 == "metadata:") }
        inside && /^  name: / { n = $2 }
        END { flush() }' "$2"
}

sizes_of() { # FILE: "name size" of the first volume of every StatefulSet
    awk '
        function flush() { if (k == "StatefulSet" && s != "") print n, s; k = n = s = ""; inside = 0 }
        /^---/ { flush(); next }
        /^kind: / { k = $2 }
        /^[a-z]/ { inside = ($1 == "metadata:") }
        inside && /^  name: / { n = $2 }
        $1 == "storage:" && s == "" { s = $2 }
        END { flush() }' "$1"
}

without_namespace() { # FILE: all documents but the Namespace
    awk '
        function flush() { if (k != "Namespace" && text != "") printf "---\n%s", text; k = text = "" }
        /^---/ { flush(); next }
        /^kind: / { k = $2 }
        { text = text $0 "\n" }
        END { flush() }' "$1"
}

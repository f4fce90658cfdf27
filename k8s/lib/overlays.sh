# Find kubectl and an overlay, and render it. Sourced by deploy.sh and backup.sh.
# shellcheck shell=bash disable=SC2154  # here, kubectl, scratch: the script

find_kubectl() {
    if command -v kubectl >/dev/null; then
        command -v kubectl
    elif [ -x "$here/../.venv/bin/kubectl" ]; then
        echo "$here/../.venv/bin/kubectl"
    else
        fail "kubectl is missing: install it (https://kubernetes.io/docs/tasks/tools)"
    fi
}

overlays() { # their names, separated by ", "
    local path names=
    for path in "$here"/overlays/*/kustomization.yaml; do
        path=${path%/kustomization.yaml}
        names="$names${names:+, }${path##*/}"
    done
    echo "$names or kubeflow"
}

folder_of() {
    case $1 in
        kubeflow) echo "$here/kubeflow" ;;
        */* | .*) fail "$1: not an overlay; expected $(overlays)" ;;
        *)
            [ -f "$here/overlays/$1/kustomization.yaml" ] || fail "$1: no such overlay; expected $(overlays)"
            echo "$here/overlays/$1"
            ;;
    esac
}

# Print the manifests of an overlay from a copy of this folder, so that examples can stand in for missing secrets.
render() {
    local folder=$1 copy=$scratch/k8s secrets
    rm -rf "$copy"
    mkdir "$copy"
    cp -R "$here/." "$copy/"
    secrets=$copy/${2#"$here"/}
    if [ ! -f "$secrets/secrets.env" ]; then
        cp "$secrets/secrets.env.example" "$secrets/secrets.env"
        echo "deploy: secrets.env is missing; rendered with the example's values" >&2
    fi
    if grep -q api-keys.json "$secrets/kustomization.yaml"; then
        [ -f "$secrets/api-keys.json" ] || echo '{"format": 1, "keys": []}' >"$secrets/api-keys.json"
        [ -f "$secrets/encryption-keys" ] || echo "example:$(printf %043d 0)=" >"$secrets/encryption-keys"
    fi
    if [ -n "${signing:-}" ] && [ ! -f "$signing/trusted-keys" ]; then
        echo "none is made yet" >"$copy/${signing#"$here"/}/trusted-keys"
    fi
    set_image "$copy/base/kustomization.yaml"
    "$kubectl" kustomize "$copy/${folder#"$here"/}"
}

# Put the service's image into a copy of the base, if the environment names one.
set_image() {
    local file=$1 image='' prefix tag
    tag=$(sed -n 's/.*newTag: "\([^"]*\)".*/\1/p' "$file")
    if [ -n "${EOLGUL_IMAGES:-}" ]; then
        [ -f "$EOLGUL_IMAGES" ] || fail "EOLGUL_IMAGES: $EOLGUL_IMAGES is missing; \`make push\` writes it"
        image=$(sed -n 's/.*"serving": *"\([^"]*\)".*/\1/p' "$EOLGUL_IMAGES")
        [ -n "$image" ] || fail "EOLGUL_IMAGES: $EOLGUL_IMAGES names no image \"serving\""
    elif [ -n "${IMAGE_PREFIX:-}${EOLGUL_IMAGE_PREFIX:-}${IMAGE_TAG:-}${EOLGUL_IMAGE_TAG:-}" ] || [ "$(engine_prefix)" != eolgul ]; then
        prefix=${IMAGE_PREFIX:-${EOLGUL_IMAGE_PREFIX:-$(engine_prefix)}}
        image=$prefix/serving:${IMAGE_TAG:-${EOLGUL_IMAGE_TAG:-$tag}}
    fi
    [ -n "$image" ] || return 0
    case $image in
        *[!A-Za-z0-9._:/@-]*) fail "$image: not the name of an image" ;;
        *@sha256:*) image="newName: ${image%@*}\n    digest: ${image#*@}" ;;
        *) image="newName: ${image%:*}\n    newTag: \"${image##*:}\"" ;;
    esac
    sed "s|newTag: \"$tag\".*|$image|" "$file" >"$file.new" && mv "$file.new" "$file"
}

# What `make images` puts before the name: podman and buildah call an image without a registry localhost/….
engine_prefix() {
    case ${ENGINE:-${CONTAINER_TOOL:-docker}} in
        podman | */podman | buildah | */buildah) echo localhost/eolgul ;;
        *) echo eolgul ;;
    esac
}

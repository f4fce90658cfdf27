#!/usr/bin/env bash
# Put eolgul on the cluster that kubectl points at.
#
#   k8s/deploy.sh [local|production]      the service, its two Redis and MinIO (default: local)
#   k8s/deploy.sh kubeflow                what the pipeline's pods read, into KUBEFLOW_NAMESPACE (default: kubeflow)
#   k8s/deploy.sh --render [overlay]      only print the manifests; nothing is applied, no cluster is needed
#
# YES=1 does not ask. TIMEOUT is how many seconds each part may take to come up (default: 300).
# Exit codes: 0 done, 1 the cluster did not come up, 2 something is missing here, with one sentence.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
namespace=eolgul
timeout=${TIMEOUT:-300}

fail() {
    echo "deploy: $1" >&2
    exit "${2:-2}"
}

find_kubectl() {
    if command -v kubectl >/dev/null; then
        command -v kubectl
    elif [ -x "$here/../.venv/bin/kubectl" ]; then
        echo "$here/../.venv/bin/kubectl"
    else
        fail "kubectl is not here: install it, or run 'make test' once, which brings one into .venv"
    fi
}

folder_of() {
    case $1 in
        kubeflow) echo "$here/kubeflow" ;;
        */* | .*) fail "$1: expected the name of an overlay: local, production or kubeflow" ;;
        *)
            [ -f "$here/overlays/$1/kustomization.yaml" ] || fail "there is no overlay '$1': local, production or kubeflow"
            echo "$here/overlays/$1"
            ;;
    esac
}

# Kustomize takes the file as it is, quotes and all, and an example's value would make an open door: better said here.
check_secrets() {
    local folder=$1 key value
    local file=$folder/secrets.env short=k8s/${folder#"$here"/}/secrets.env
    [ -f "$file" ] || fail "$short is missing: copy $short.example to it and put values of your own in"
    while IFS='=' read -r key _; do
        case $key in '' | \#*) continue ;; esac
        value=$(sed -n "s/^$key=//p" "$file")
        case $value in
            '') fail "$short: $key has no value" ;;
            *change-me*) fail "$short: $key is still the example's; put a value of your own in" ;;
            *[!A-Za-z0-9._~-]*) fail "$short: $key may hold letters, digits and . _ ~ - only, and no quotes" ;;
        esac
        # MinIO refuses shorter ones, and only once it is running.
        [ ${#value} -ge 8 ] || fail "$short: $key is shorter than 8 characters"
    done <"$folder/secrets.env.example"
    grep -q api-keys.json "$folder/kustomization.yaml" || return 0
    for key in api-keys.json encryption-keys; do
        [ -s "$folder/$key" ] || fail "${short%secrets.env}$key is missing: the end of $short.example says how to make it"
    done
}

render() {
    local folder=$1 scratch
    scratch=$(mktemp -d)
    # shellcheck disable=SC2064  # expanded now: the variable is gone when the trap runs
    trap "rm -rf '$scratch'" EXIT
    cp -R "$here/." "$scratch/"
    folder=$scratch/${folder#"$here"/}
    if [ ! -f "$folder/secrets.env" ]; then
        cp "$folder/secrets.env.example" "$folder/secrets.env"
        echo "deploy: no secrets.env, rendered with the example's values" >&2
    fi
    if grep -q api-keys.json "$folder/kustomization.yaml"; then
        [ -f "$folder/api-keys.json" ] || echo '{"format": 1, "keys": []}' >"$folder/api-keys.json"
        [ -f "$folder/encryption-keys" ] || echo "example:$(printf %043d 0)=" >"$folder/encryption-keys"
    fi
    "$kubectl" kustomize "$folder"
}

confirm() {
    local what=$1 context reply
    context=$("$kubectl" config current-context 2>/dev/null) || fail "kubectl has no current context: choose a cluster first"
    echo "This puts $what onto the cluster of the context '$context'."
    [ "${YES:-}" = 1 ] && return
    [ -t 0 ] || fail "nobody is here to say yes: set YES=1 to go on without asking"
    read -r -p "Go on? [y/N] " reply
    case $reply in [yY] | [yY][eE][sS]) ;; *) fail "nothing was changed" 1 ;; esac
}

# Ready, or waiting for a first model, which is no failure: the pipeline comes after the service. 1 when it is neither.
wait_for_serving() {
    local readyz="
import urllib.error, urllib.request
try:
    urllib.request.urlopen('http://127.0.0.1:3000/readyz', timeout=3)
except urllib.error.HTTPError as error:
    print(error.read().decode())"
    local until=$((SECONDS + timeout)) said=
    while [ "$SECONDS" -lt "$until" ]; do
        if "$kubectl" -n $namespace rollout status deployment/serving --timeout=5s >/dev/null 2>&1; then
            echo "The service is up."
            return 0
        fi
        said=$("$kubectl" -n $namespace exec deployment/serving -- python -c "$readyz" 2>/dev/null) || said=
        case $said in *"no model has been promoted"*)
            echo "The service is up and has no model yet: it takes the first one that the pipeline promotes by itself."
            return 0
            ;;
        esac
        sleep 2
    done
    echo "deploy: the service is not ready after $timeout s: ${said:-its pods do not run}" >&2
    "$kubectl" -n $namespace get pods >&2 || true
    return 1
}

deploy_service() {
    local folder=$1
    # A Job's pods cannot be changed, so that of the last deploy has to go before this one's can come.
    "$kubectl" -n $namespace delete job minio-setup --ignore-not-found
    "$kubectl" apply -k "$folder"
    "$kubectl" -n $namespace rollout status statefulset/minio --timeout="${timeout}s"
    "$kubectl" -n $namespace rollout status deployment/redis --timeout="${timeout}s"
    "$kubectl" -n $namespace rollout status statefulset/gallery --timeout="${timeout}s"
    "$kubectl" -n $namespace wait --for=condition=complete job/minio-setup --timeout="${timeout}s"
    wait_for_serving || exit 1
    cat <<TEXT

To reach the API from here:
  kubectl -n $namespace port-forward service/serving 3000:3000
  curl -F image1=@a.jpg -F image2=@b.jpg http://127.0.0.1:3000/v1/verify      (the page: http://127.0.0.1:3000/ui/)
From inside the cluster: http://serving.$namespace.svc:3000
For the pipeline: fill in k8s/kubeflow/secrets.env, then KUBEFLOW_NAMESPACE=<where runs happen> k8s/deploy.sh kubeflow
TEXT
}

only_render=
if [ "${1:-}" = --render ]; then
    only_render=1
    shift
fi
[ $# -le 1 ] || fail "too many arguments: k8s/deploy.sh [--render] [local|production|kubeflow]"
overlay=${1:-local}
folder=$(folder_of "$overlay")
kubectl=$(find_kubectl)

if [ -n "$only_render" ]; then
    render "$folder"
    exit
fi
check_secrets "$folder"
if [ "$overlay" = kubeflow ]; then
    target=${KUBEFLOW_NAMESPACE:-kubeflow}
    confirm "the ConfigMap and the Secret 'eolgul-s3' (namespace $target)"
    "$kubectl" apply -n "$target" -k "$folder"
    exit
fi
confirm "eolgul's service, its two Redis and MinIO (overlay $overlay, namespace $namespace)"
deploy_service "$folder"

#!/usr/bin/env bash
# Deploy eolgul on the cluster of kubectl's current context.
#
#   k8s/deploy.sh [local|production]      the service, two Redis instances and MinIO (default: local)
#   k8s/deploy.sh kubeflow                the ConfigMap and the Secret of the pipeline, in KUBEFLOW_NAMESPACE (default: kubeflow);
#                                         with KUBEFLOW_TRAINJOBS=1 also the rights to train on several machines, for
#                                         KUBEFLOW_SERVICE_ACCOUNT (default: pipeline-runner in kubeflow, else default-editor)
#   k8s/deploy.sh --render [overlay]      print the manifests; nothing is applied and no cluster is needed
#
# YES=1 skips the question. TIMEOUT is the number of seconds that each part may take to become ready (default: 300).
# Exit codes: 0 deployed; 1 not confirmed or not ready in time; 2 something is missing on this machine, with one sentence.
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
        fail "kubectl is missing: install it, or run 'make install', which puts one into .venv"
    fi
}

folder_of() {
    case $1 in
        kubeflow) echo "$here/kubeflow" ;;
        */* | .*) fail "$1: not an overlay; expected local, production or kubeflow" ;;
        *)
            [ -f "$here/overlays/$1/kustomization.yaml" ] || fail "$1: no such overlay; expected local, production or kubeflow"
            echo "$here/overlays/$1"
            ;;
    esac
}

# Kustomize takes values literally, including quotes, and would deploy the example's values: check before applying.
check_secrets() {
    local folder=$1 key value
    local file=$folder/secrets.env short=k8s/${folder#"$here"/}/secrets.env
    [ -f "$file" ] || fail "$short is missing: copy $short.example to it and replace the values"
    while IFS='=' read -r key _; do
        case $key in '' | \#*) continue ;; esac
        value=$(sed -n "s/^$key=//p" "$file")
        case $value in
            '') fail "$short: $key has no value" ;;
            *change-me*) fail "$short: $key still has the example's value; replace it" ;;
            *[!A-Za-z0-9._~-]*) fail "$short: $key may contain only letters, digits and . _ ~ -, and no quotes" ;;
        esac
        # MinIO refuses shorter values, but only at run time.
        [ ${#value} -ge 8 ] || fail "$short: $key is shorter than 8 characters"
    done <"$folder/secrets.env.example"
    grep -q api-keys.json "$folder/kustomization.yaml" || return 0
    for key in api-keys.json encryption-keys; do
        [ -s "$folder/$key" ] || fail "${short%secrets.env}$key is missing: the end of $short.example explains how to make it"
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
        echo "deploy: secrets.env is missing; rendered with the example's values" >&2
    fi
    if grep -q api-keys.json "$folder/kustomization.yaml"; then
        [ -f "$folder/api-keys.json" ] || echo '{"format": 1, "keys": []}' >"$folder/api-keys.json"
        [ -f "$folder/encryption-keys" ] || echo "example:$(printf %043d 0)=" >"$folder/encryption-keys"
    fi
    "$kubectl" kustomize "$folder"
}

confirm() {
    local what=$1 context reply
    context=$("$kubectl" config current-context 2>/dev/null) || fail "kubectl has no current context: select a cluster first"
    echo "This deploys $what to the cluster of the context '$context'."
    [ "${YES:-}" = 1 ] && return
    [ -t 0 ] || fail "no terminal to ask for confirmation: set YES=1 to deploy without asking"
    read -r -p "Continue? [y/N] " reply
    case $reply in [yY] | [yY][eE][sS]) ;; *) fail "nothing was changed" 1 ;; esac
}

# Wait until the service is ready, or waits for its first model (which the pipeline promotes later). Fails after $timeout s.
wait_for_serving() {
    local readyz="
import urllib.error, urllib.request
try:
    urllib.request.urlopen('http://127.0.0.1:3000/readyz', timeout=3)
except urllib.error.HTTPError as error:
    print(error.read().decode())"
    local until=$((SECONDS + timeout)) answer=
    while [ "$SECONDS" -lt "$until" ]; do
        if "$kubectl" -n $namespace rollout status deployment/serving --timeout=5s >/dev/null 2>&1; then
            echo "The service is up."
            return 0
        fi
        answer=$("$kubectl" -n $namespace exec deployment/serving -- python -c "$readyz" 2>/dev/null) || answer=
        case $answer in *"no model has been promoted"*)
            echo "The service is up and has no model yet: it loads the first one that the pipeline promotes."
            return 0
            ;;
        esac
        sleep 2
    done
    echo "deploy: the service is not ready after $timeout s: ${answer:-its pods do not run}" >&2
    "$kubectl" -n $namespace get pods >&2 || true
    return 1
}

deploy_service() {
    local folder=$1
    # A Job's pods cannot be changed, so the previous deploy's Job is deleted first.
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
  curl -H "Authorization: Bearer \$EOLGUL_API_KEY" -F image1=@a.jpg -F image2=@b.jpg http://127.0.0.1:3000/v1/verify      (the page: http://127.0.0.1:3000/ui/)
From inside the cluster: http://serving.$namespace.svc:3000
For the pipeline: fill in k8s/kubeflow/secrets.env, then KUBEFLOW_NAMESPACE=<where pipelines run> k8s/deploy.sh kubeflow
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
    [ "${KUBEFLOW_TRAINJOBS:-}" = 1 ] || exit 0
    account=${KUBEFLOW_SERVICE_ACCOUNT:-$([ "$target" = kubeflow ] && echo pipeline-runner || echo default-editor)}
    case $target$account in *[!a-z0-9.-]*) fail "KUBEFLOW_NAMESPACE and KUBEFLOW_SERVICE_ACCOUNT may contain only a-z, 0-9, . and -" ;; esac
    sed -e "s/KUBEFLOW_NAMESPACE/$target/" -e "s/KUBEFLOW_SERVICE_ACCOUNT/$account/" "$folder/trainjobs.yaml" | "$kubectl" apply -f -
    exit
fi
confirm "the service, two Redis instances and MinIO (overlay $overlay, namespace $namespace)"
deploy_service "$folder"

#!/usr/bin/env bash
# Deploy eolgul on the cluster of kubectl's current context. Needs kubectl, a shell and, for --secrets, openssl; nothing else.
#
#   k8s/deploy.sh [OVERLAY]               the service, two Redis instances and an object store (default: local)
#   k8s/deploy.sh kubeflow                the ConfigMap and the Secret of the pipeline, in KUBEFLOW_NAMESPACE (default: kubeflow);
#                                         with KUBEFLOW_TRAINJOBS=1 also the rights to train on several machines, for
#                                         KUBEFLOW_SERVICE_ACCOUNT (default: pipeline-runner in kubeflow, else default-editor)
#   k8s/deploy.sh --secrets [OVERLAY]     make the passwords and keys that the overlay needs, once; nothing is overwritten
#   k8s/deploy.sh --rotate WHAT [OVERLAY]  new values in place of the present ones, and a deploy: api, redis, s3, root, encryption,
#                                         signing (where the service takes only signed models)
#   k8s/deploy.sh --render [OVERLAY]      print the manifests; nothing is applied and no cluster is needed
#   k8s/deploy.sh --diff [OVERLAY]        print what a deploy would change in the cluster
#   k8s/deploy.sh --undeploy [OVERLAY]    remove it, but not the volumes; DATA=1 removes the volumes and the namespace, too
#
# OVERLAY is a folder of k8s/overlays. YES=1 skips the question. TIMEOUT is the number of seconds that each part may take to become
# ready (default: 300). FORCE=1 takes over fields that others manage. The image of the service: EOLGUL_IMAGES=docker/digests.json
# (which `make push` writes), or IMAGE_PREFIX= and IMAGE_TAG= as for `make images`, or `images:` in the overlay.
# Exit codes: 0 deployed; 1 not confirmed, or not ready in time; 2 something is missing on this machine, with one sentence.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
namespace=eolgul
timeout=${TIMEOUT:-300}
oldest=31 # of Kubernetes 1.x: what the tests check the manifests against

fail() {
    echo "deploy: $1" >&2
    exit "${2:-2}"
}

# shellcheck source=k8s/lib/overlays.sh
. "$here/lib/overlays.sh"
# shellcheck source=k8s/lib/forward.sh
. "$here/lib/forward.sh"
# shellcheck source=k8s/lib/wait.sh
. "$here/lib/wait.sh"
# shellcheck source=k8s/lib/check.sh
. "$here/lib/check.sh"
# shellcheck source=k8s/lib/secrets.sh
. "$here/lib/secrets.sh"
# shellcheck source=k8s/lib/rotate.sh
. "$here/lib/rotate.sh"
# shellcheck source=k8s/lib/store.sh
. "$here/lib/store.sh"
# shellcheck source=k8s/lib/smoke.sh
. "$here/lib/smoke.sh"

confirm() {
    local what=$1 context reply
    context=$("$kubectl" config current-context 2>/dev/null) || fail "kubectl has no current context: select a cluster first"
    echo "This $what in the cluster of the context '$context'."
    [ "${YES:-}" = 1 ] && return
    [ -t 0 ] || fail "no terminal to ask for confirmation: set YES=1 to go on without asking"
    read -r -p "Continue? [y/N] " reply
    case $reply in [yY] | [yY][eE][sS]) ;; *) fail "nothing was changed" 1 ;; esac
}

apply() {
    local force=
    [ "${FORCE:-}" = 1 ] && force=--force-conflicts
    # Server-side: the API server merges, checks every field, and names whoever else manages one.
    "$kubectl" apply --server-side $force "$@" ||
        fail "the cluster refused the manifests, see above; FORCE=1 takes over fields that another manager holds" 1
}

deploy_service() {
    local manifests=$1 ready=0
    # A Job's pods cannot be changed, so the previous deploy's Job is deleted first.
    "$kubectl" -n $namespace delete job minio-setup --ignore-not-found
    apply -f "$manifests"
    wait_for_workloads "$manifests"
    wait_for_serving || ready=$?
    [ "$ready" != 1 ] || exit 1
    [ "$ready" = 0 ] && remove_superseded "$manifests"
    smoke_verify "$2" "$ready"
    cat <<TEXT

To reach the API from here:
  kubectl -n $namespace port-forward service/serving 3000:3000
  curl -H "Authorization: Bearer \$EOLGUL_API_KEY" -F image1=@a.jpg -F image2=@b.jpg http://127.0.0.1:3000/v1/verify
  the page: http://127.0.0.1:3000/ui/
From inside the cluster: http://serving.$namespace.svc:3000
For the pipeline: make secrets OVERLAY=kubeflow, then KUBEFLOW_NAMESPACE=<where pipelines run> make deploy OVERLAY=kubeflow
TEXT
}

# Remove the Secrets of earlier deploys, which hold passwords that a rotation replaced. Only those that this script made: by
# their label and by their name, and not the one that the manifests name now.
remove_superseded() {
    local current name
    current=$(names_of Secret "$1" | tr '\n' ' ')
    for name in $("$kubectl" -n $namespace get secrets -l eolgul.dev/generated=secrets -o name); do
        name=${name#secret/}
        case $name in eolgul-secrets-??????????) ;; *) continue ;; esac
        case " $current" in *" $name "*) continue ;; esac
        "$kubectl" -n $namespace delete secret "$name"
    done
}

undeploy() {
    local rendered=$1
    if [ "${DATA:-}" = 1 ]; then
        confirm "DELETES the namespace $namespace with every volume: models, data sets, the gallery's people"
        "$kubectl" delete namespace $namespace --ignore-not-found
        return
    fi
    confirm "removes the service, Redis and the object store (namespace $namespace), but not the volumes"
    without_namespace "$rendered" >"$scratch/remove.yaml"
    "$kubectl" delete --ignore-not-found -f "$scratch/remove.yaml"
    "$kubectl" -n $namespace delete secrets -l eolgul.dev/generated=secrets --ignore-not-found
    echo "The volumes are kept: \`make deploy\` finds the models and the gallery again. DATA=1 make undeploy removes them."
    echo "The gallery opens only with the same encryption-keys: keep that file."
}

deploy_kubeflow() {
    local folder=$1 target account
    target=${KUBEFLOW_NAMESPACE:-kubeflow}
    account=${KUBEFLOW_SERVICE_ACCOUNT:-$([ "$target" = kubeflow ] && echo pipeline-runner || echo default-editor)}
    case $target$account in *[!a-z0-9.-]*) fail "KUBEFLOW_NAMESPACE and KUBEFLOW_SERVICE_ACCOUNT may contain only a-z, 0-9, . and -" ;; esac
    confirm "deploys the ConfigMap and the Secret 'eolgul-s3' (namespace $target)"
    apply -n "$target" -k "$folder"
    [ "${KUBEFLOW_TRAINJOBS:-}" = 1 ] || exit 0
    sed -e "s/KUBEFLOW_NAMESPACE/$target/" -e "s/KUBEFLOW_SERVICE_ACCOUNT/$account/" "$folder/trainjobs.yaml" >"$scratch/trainjobs.yaml"
    apply -f "$scratch/trainjobs.yaml"
}

action=deploy what=
case ${1:-} in
    --render | --diff | --undeploy | --secrets)
        action=${1#--}
        shift
        ;;
    --rotate)
        action=rotate what=${2:-}
        case $what in api | redis | s3 | root | encryption | signing) ;; *) fail "--rotate $what: expected api, redis, s3, root, encryption or signing" ;; esac
        shift 2
        ;;
    -*) fail "$1: expected --render, --diff, --undeploy, --secrets or --rotate" ;;
esac
[ $# -le 1 ] || fail "too many arguments: k8s/deploy.sh [--render|--diff|--undeploy|--secrets|--rotate WHAT] [OVERLAY]"
overlay=${1:-local}
folder=$(folder_of "$overlay")
secrets=$(secrets_folder "$folder")
umask 077
scratch=$(mktemp -d)
trap 'end_forward; rm -rf "$scratch"' EXIT

if [ "$action" = secrets ]; then
    make_secrets "$secrets"
    signing=$(signing_folder "$folder")
    [ -z "$signing" ] || make_signing_key "$signing"
    exit
fi
kubectl=$(find_kubectl)
signing=$(signing_folder "$folder")
if [ "$action" = render ]; then
    render "$folder" "$secrets"
    exit
fi
if [ "$action" = undeploy ]; then
    [ "$overlay" != kubeflow ] || fail "kubeflow: kubectl -n <where pipelines run> delete configmap/eolgul-s3 secret/eolgul-s3"
    render "$folder" "$secrets" >"$scratch/manifests.yaml" 2>/dev/null
    undeploy "$scratch/manifests.yaml"
    exit
fi
check_secrets "$secrets"
check_signing "$signing"
if [ "$overlay" = kubeflow ]; then
    case $action in
        diff) fail "kubeflow: kubectl diff -n <where pipelines run> -k k8s/kubeflow" ;;
        rotate) fail "kubeflow: its keys are those of the store's account for the pipeline: make rotate WHAT=s3 OVERLAY=<the service's>, which renews k8s/kubeflow/secrets.env, too; then make deploy OVERLAY=kubeflow" ;;
    esac
    deploy_kubeflow "$folder"
    exit
fi
render "$folder" "$secrets" >"$scratch/manifests.yaml"
check_images "$overlay" "$scratch/manifests.yaml"
check_endpoint "$scratch/manifests.yaml"
if [ "$action" = diff ]; then
    status=0
    "$kubectl" diff --server-side -f "$scratch/manifests.yaml" || status=$?
    case $status in
        0) echo "The cluster has what the manifests say." ;;
        1) ;; # there are differences, which it has printed
        *) fail "the cluster could not be compared, see above" 1 ;;
    esac
    exit
fi
if [ "$action" = rotate ]; then
    confirm "makes new values ($what) in ${secrets#"$here/"} and deploys (overlay $overlay, namespace $namespace)"
else
    confirm "deploys the service, two Redis instances and an object store (overlay $overlay, namespace $namespace)"
fi
check_cluster "$scratch/manifests.yaml"
check_volumes "$scratch/manifests.yaml"
if [ "$action" = rotate ]; then
    rotate "$what"
    render "$folder" "$secrets" >"$scratch/manifests.yaml"
fi
deploy_service "$scratch/manifests.yaml" "$secrets"
case $action$what in
    rotateencryption) finish_encryption "$scratch/manifests.yaml" ;;
    rotatesigning) finish_signing "$scratch/manifests.yaml" ;;
esac

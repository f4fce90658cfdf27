#!/usr/bin/env bash
# Acceptance test on the cluster of kubectl's current context, which must be one to throw away (kind, minikube, k3s): deploy, promote,
# enroll, verify, who reaches what, kill pods, roll, rotate every secret, back up, destroy, restore, count, undeploy.
#
#   REGISTRY=<folder of a registry> PHOTOS="a.jpg b.jpg" k8s/cluster-test.sh [OVERLAY]        (default: local)
#
# PHOTOS are two photos of one person that the registry's production model tells to be the same. Needs what deploy.sh and backup.sh
# need, and the image of the service: on kind, minikube and k3s it is loaded (IMAGE, default: eolgul/serving of this version); elsewhere
# EOLGUL_IMAGES names it. POLICIES=1: NetworkPolicies must be enforced; without it, a note says when they are not. Secrets are made for
# the test and thrown away. Exit codes: 0 passed, or skipped with a reason; 1 failed; 2 usage.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
namespace=eolgul
overlay=${1:-local}
step=0

fail() {
    echo "cluster-test: $1" >&2
    exit "${2:-1}"
}

skip() {
    echo "cluster-test: skipped: $1"
    exit 0
}

say() {
    step=$((step + 1))
    echo "== $step. $1 (${SECONDS} s)"
}

# shellcheck source=k8s/lib/overlays.sh
. "$here/lib/overlays.sh"
# shellcheck source=k8s/lib/check.sh
. "$here/lib/check.sh"
# shellcheck source=k8s/lib/forward.sh
. "$here/lib/forward.sh"
# shellcheck source=k8s/lib/store.sh
. "$here/lib/store.sh"

folder=$(folder_of "$overlay") || exit 2
[ "$overlay" != kubeflow ] || fail "kubeflow: only overlays of the service can be tested: $(overlays | sed 's/ or .*//')" 2
kubectl=$(find_kubectl)
context=$("$kubectl" config current-context 2>/dev/null) || skip "kubectl has no current context"
"$kubectl" get --raw /version --request-timeout=10s >/dev/null 2>&1 || skip "the cluster of the context '$context' does not answer"
[ -n "${REGISTRY:-}" ] && [ -f "$REGISTRY/production.json" ] || fail "REGISTRY=<folder with production.json> must name a registry" 2
read -r photo1 photo2 more <<<"${PHOTOS:-}"
[ -f "${photo1:-}" ] && [ -f "${photo2:-}" ] && [ -z "$more" ] || fail 'PHOTOS="a.jpg b.jpg" must name two photos of one person' 2

if "$kubectl" get namespace $namespace >/dev/null 2>&1; then
    echo "The cluster of the context '$context' has a namespace $namespace. The test DELETES it with every volume: models, data sets, people."
    [ -t 0 ] || fail "no terminal to ask for confirmation: delete the namespace yourself if it may go"
    read -r -p "Type the name of the context to go on: " reply
    [ "$reply" = "$context" ] || fail "nothing was changed"
fi

umask 077
scratch=$(mktemp -d)
trap 'end_forward; "$kubectl" -n default delete pod eolgul-stranger --ignore-not-found --wait=false >/dev/null 2>&1; rm -rf "$scratch"' EXIT
# A copy, so that nobody's secrets are touched or used.
mkdir -p "$scratch/checkout"
cp -R "$here" "$scratch/checkout/k8s"
find "$scratch/checkout/k8s" \( -name secrets.env -o -name api-key -o -name api-keys.json -o -name 'encryption-keys*' \
    -o -name signing-key -o -name trusted-keys -o -name '*.new' \) -delete
ln -s "$here/../.venv" "$scratch/checkout/.venv"
deploy=$scratch/checkout/k8s/deploy.sh
backup=$scratch/checkout/k8s/backup.sh
folder=$scratch/checkout/k8s/${folder#"$here"/}
secrets=$(here=$scratch/checkout/k8s secrets_folder "$folder")
signing=$(here=$scratch/checkout/k8s signing_folder "$folder")
export YES=1 PHOTOS

load_image() {
    local image=${IMAGE:-eolgul/serving:$(sed -n 's/.*newTag: "\([^"]*\)".*/\1/p' "$here/base/kustomization.yaml")}
    case $context in
        kind-*) kind load docker-image --name "${context#kind-}" "$image" ;;
        minikube) minikube image load "$image" ;;
        *k3s* | default) docker save "$image" | k3s ctr images import - ;;
        *) echo "the cluster pulls the image itself" ;;
    esac
}

call() { # EXPECTED METHOD PATH [curl options]: the body is in $scratch/answer
    local expected=$1 method=$2 path=$3 code tries
    shift 3
    printf 'Authorization: Bearer %s\n' "$(cat "${key:-$secrets/api-key}")" >"$scratch/header"
    # A key that was just made reaches the pods within about a minute, and a forward ends with its pod.
    for ((tries = 0; tries < 36; tries++)); do
        end_forward
        "$kubectl" -n $namespace wait --for=condition=Available deployment/serving --timeout=300s >/dev/null
        forward_to serving 3000
        code=$(curl -sS --max-time 60 --noproxy '*' -X "$method" -H "@$scratch/header" -o "$scratch/answer" -w '%{http_code}' \
            "$@" "http://127.0.0.1:$port$path" 2>"$scratch/curl") || code=none
        [ "$code" != "$expected" ] || return 0
        sleep 5
    done
    fail "$method $path answers $code, expected $expected: $(cat "$scratch/answer" "$scratch/curl" 2>/dev/null | head -c 300)"
}

works() { # the person is found, and the two photos are of one person
    call 200 POST /v1/verify -F "image1=@$photo1" -F "image2=@$photo2"
    grep -q '"verdict":"same"' "$scratch/answer" || fail "the photos are not told to be of one person: $(cat "$scratch/answer")"
    call 200 POST /v1/identify -F "image=@$photo2"
    grep -q '"person":"acceptance"' "$scratch/answer" || fail "the enrolled person is not found: $(cat "$scratch/answer")"
}

promote() { # as the pipeline would: the registry into the bucket, with the pipeline's account
    backup_of "$REGISTRY" "$scratch/first" "$signing"
    "$backup" restore "$scratch/first" "$overlay"
}

# A pod of another namespace may call the API, and reach neither Redis nor the store. Not every network plugin enforces that.
policies_hold() {
    local image places reached
    image=$("$kubectl" -n $namespace get deployment serving -o 'jsonpath={.spec.template.spec.containers[0].image}')
    places=$("$kubectl" -n $namespace get service -o 'jsonpath={range .items[*]}{.metadata.name}:{.spec.ports[0].port}{"\n"}{end}' | tr '\n' ' ')
    "$kubectl" -n default delete pod eolgul-stranger --ignore-not-found >/dev/null
    "$kubectl" -n default apply -f - >/dev/null <<YAML
apiVersion: v1
kind: Pod
metadata: {name: eolgul-stranger}
spec:
  restartPolicy: Never
  automountServiceAccountToken: false
  securityContext: {runAsNonRoot: true, runAsUser: 10001, seccompProfile: {type: RuntimeDefault}}
  containers:
    - name: stranger
      image: $image
      securityContext: {allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: {drop: [ALL]}}
      command: [python, -c]
      args:
        - |
          import socket, sys
          for place in sys.argv[1:]:
              name, port = place.split(":")
              try:
                  socket.create_connection((name + ".$namespace.svc", int(port)), 3).close()
              except OSError:
                  continue
              print(name)
$(printf '        - %s\n' $places)
YAML
    "$kubectl" -n default wait --for=jsonpath='{.status.phase}'=Succeeded pod/eolgul-stranger --timeout=120s >/dev/null ||
        fail "a pod of another namespace does not run: $("$kubectl" -n default get pod eolgul-stranger -o 'jsonpath={.status}')"
    reached=$("$kubectl" -n default logs eolgul-stranger | tr '\n' ' ')
    "$kubectl" -n default delete pod eolgul-stranger >/dev/null
    case $reached in
        'serving ') echo "a pod of another namespace reaches the API alone" ;;
        *serving*)
            [ -z "${POLICIES:-}" ] || fail "a pod of another namespace reaches $reached"
            echo "note: the cluster's network plugin does not enforce NetworkPolicies: every pod reaches $reached"
            ;;
        *) fail "a pod of another namespace does not reach the API, only: ${reached:-nothing}" ;;
    esac
}

say "images"
load_image
say "an empty cluster: deploy without a model"
"$kubectl" delete namespace $namespace --ignore-not-found --wait
"$deploy" --secrets "$overlay"
"$deploy" "$overlay" | tee "$scratch/deploy.log"
grep -q 'without a model yet' "$scratch/deploy.log" || fail "the service did not wait for its first model"
[ "$("$kubectl" -n $namespace get pods -o 'jsonpath={.items[*].status.containerStatuses[*].restartCount}' | tr -d '0 ')" = '' ] ||
    fail "a container restarted during the first deploy"
say "the first model is taken without a restart"
promote
"$kubectl" -n $namespace rollout status deployment/serving --timeout=300s
say "enroll and verify"
call 200 POST /v1/enroll -F person=acceptance -F "images=@$photo1"
works
say "who reaches what"
policies_hold
say "a second deploy changes nothing"
"$deploy" "$overlay"
"$deploy" --diff "$overlay" | tee "$scratch/diff.log"
grep -q 'The cluster has what the manifests say' "$scratch/diff.log" || fail "a second deploy differs"
say "every pod is killed once, then the service is rolled"
for pod in $("$kubectl" -n $namespace get pods --field-selector=status.phase=Running -o name); do
    "$kubectl" -n $namespace delete "$pod"
    for workload in $("$kubectl" -n $namespace get deployments,statefulsets -o name); do
        "$kubectl" -n $namespace rollout status "$workload" --timeout=300s >/dev/null
    done
    works
done
"$kubectl" -n $namespace rollout restart deployment/serving
"$kubectl" -n $namespace rollout status deployment/serving --timeout=300s
works
say "every secret is rotated"
for what in redis s3 root encryption signing; do
    case $overlay$what in external-s3s3 | external-s3root) continue ;; esac
    [ "$what" != signing ] || [ -n "$signing" ] || continue
    "$deploy" --rotate $what "$overlay"
    works
done
cp "$secrets/api-key" "$scratch/old-key"
"$deploy" --rotate api "$overlay"
works
key=$scratch/old-key call 401 GET /v1/models/current
say "back up, destroy, restore, count"
end_forward
"$backup" backup "$scratch/backup" "$overlay"
DATA=1 "$deploy" --undeploy "$overlay"
"$kubectl" wait --for=delete "namespace/$namespace" --timeout=300s 2>/dev/null || true
"$deploy" "$overlay"
"$backup" restore "$scratch/backup" "$overlay"
"$kubectl" -n $namespace rollout status deployment/serving --timeout=300s
works
say "undeploy"
end_forward
DATA=1 "$deploy" --undeploy "$overlay"
"$kubectl" wait --for=delete "namespace/$namespace" --timeout=300s 2>/dev/null || true
! "$kubectl" get namespace $namespace >/dev/null 2>&1 || fail "the namespace is still there"
echo "cluster-test: passed after $SECONDS s"

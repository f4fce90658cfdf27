#!/usr/bin/env bash
# Apply every overlay to a real API server, without nodes. Not part of `make test`.
#
#   tests/cluster/api_server.sh FOLDER    build it where it is missing (build.sh), start it with etcd (Debian's etcd-server), apply and
#                                         compare every overlay, stop both
#
# FOLDER gets sources, programs and data. 1.20 is the newest that can be built from Debian. It has no policy/v1 and no autoscaling/v2
# (PodDisruptionBudget, HorizontalPodAutoscaler: left out, and counted), no Pod Security admission and no CEL; those need a newer
# server: `make cluster-test` shows them. What it does show: the server's own decoding, defaults and validation of all other objects,
# server-side apply with its managed fields, that a second apply changes nothing, and what --undeploy removes.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
[ $# = 1 ] || { sed -n '2,7s/^# \{0,1\}//p' "$0" >&2; exit 2; }
mkdir -p "$1"
folder=$(cd "$1" && pwd)
kubectl=$(command -v kubectl || echo "$root/.venv/bin/kubectl")

started=()
stop() {
    [ ${#started[@]} = 0 ] || kill "${started[@]}" 2>/dev/null || true
    wait
}

start() {
    local store=http://127.0.0.1:${ETCD_PORT:-23790} peers=http://127.0.0.1:${PEER_PORT:-23800} port=${PORT:-26443} token
    rm -rf "$folder/etcd" "$folder/certs"
    mkdir "$folder/certs"
    token=$(openssl rand -hex 16)
    openssl genrsa -out "$folder/certs/accounts.key" 2048 2>/dev/null
    echo "$token,admin,admin,\"system:masters\"" >"$folder/certs/tokens.csv"
    trap stop EXIT
    etcd --data-dir "$folder/etcd" --listen-client-urls "$store" --advertise-client-urls "$store" --listen-peer-urls "$peers" \
        --initial-advertise-peer-urls "$peers" --initial-cluster "default=$peers" >"$folder/etcd.log" 2>&1 &
    started+=($!)
    "$folder/kube-apiserver" --etcd-servers="$store" --secure-port="$port" --bind-address=127.0.0.1 --cert-dir="$folder/certs" \
        --service-account-key-file="$folder/certs/accounts.key" --service-account-signing-key-file="$folder/certs/accounts.key" \
        --service-account-issuer=https://kubernetes.default.svc --service-cluster-ip-range=10.96.0.0/16 \
        --token-auth-file="$folder/certs/tokens.csv" --authorization-mode=RBAC --disable-admission-plugins=ServiceAccount \
        >"$folder/kube-apiserver.log" 2>&1 &
    started+=($!)
    cat >"$folder/kubeconfig" <<YAML
apiVersion: v1
kind: Config
current-context: throw-away
contexts: [{name: throw-away, context: {cluster: c, user: u}}]
clusters: [{name: c, cluster: {server: "https://127.0.0.1:$port", insecure-skip-tls-verify: true}}]
users: [{name: u, user: {token: $token}}]
YAML
    export KUBECONFIG=$folder/kubeconfig
    for _ in $(seq 120); do
        [ "$("$kubectl" get --raw /readyz 2>/dev/null)" = ok ] && return
        sleep 0.5
    done
    tail -n 5 "$folder/kube-apiserver.log" >&2
    exit 1
}

# The documents of a file that this server can know, and the number of the others on standard error.
known() {
    awk '
        function flush() {
            if (text != "") { if (text ~ /apiVersion: (policy\/v1|autoscaling\/v2)\n/) left++; else printf "---\n%s", text }
            text = ""
        }
        /^---/ { flush(); next }
        { text = text $0 "\n" }
        END { flush(); print left + 0 >"/dev/stderr" }' "$1"
}

check() {
    start
    local path overlay manifests=$folder/manifests.yaml left count
    printf 'apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: x, namespace: default}\nspec: {replica: 1}\n' >"$folder/bad.yaml"
    ! "$kubectl" apply --server-side --validate=false -f "$folder/bad.yaml" >"$folder/bad.log" 2>&1 || { echo "a misspelt field was taken"; exit 1; }
    echo "a misspelt field is refused: $(tail -n 1 "$folder/bad.log" | cut -c 1-110)"
    for path in "$root"/k8s/overlays/*/kustomization.yaml; do
        overlay=$(basename "$(dirname "$path")")
        "$root/k8s/deploy.sh" --render "$overlay" >"$folder/all.yaml" 2>/dev/null
        left=$(known "$folder/all.yaml" 2>&1 >"$manifests")
        count=$(grep -c '^kind: ' "$manifests")
        # The namespace first: a dry run makes none, in which the rest could be.
        "$kubectl" create namespace eolgul >/dev/null
        "$kubectl" apply --server-side --force-conflicts --dry-run=server -f "$manifests" >"$folder/dry-run.log"
        "$kubectl" apply --server-side --force-conflicts -f "$manifests" >"$folder/apply.log"
        "$kubectl" diff --server-side --force-conflicts -f "$manifests" >"$folder/diff.log" || { cat "$folder/diff.log"; exit 1; }
        "$kubectl" apply --server-side -f "$manifests" >"$folder/again.log" # without force: nobody else manages a field
        # Nothing removes a namespace here, since no controller runs: its objects, then those that are left.
        "$kubectl" delete -f "$manifests" --ignore-not-found --wait=false >"$folder/delete.log"
        "$kubectl" get --raw /api/v1/namespaces/eolgul | sed 's/"finalizers":\["kubernetes"\]/"finalizers":[]/' |
            "$kubectl" replace --raw /api/v1/namespaces/eolgul/finalize -f - >/dev/null
        echo "$overlay: $count objects taken (dry run, apply, no difference, apply again), $left of newer kinds left out"
    done
}

"$root/tests/cluster/build.sh" "$folder" kube-apiserver
check

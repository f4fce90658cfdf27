#!/usr/bin/env bash
# Apply every overlay to a real API server, without nodes. Not part of `make test`.
#
#   tests/deploy/api_server.sh build FOLDER    build kube-apiserver 1.20.2 of Debian 12's source package (a quarter of an hour)
#   tests/deploy/api_server.sh check FOLDER    start it with etcd (Debian's etcd-server), apply and compare every overlay, stop both
#
# FOLDER gets sources, binaries and data. 1.20 is the newest that can be built from Debian. It has no policy/v1 and no autoscaling/v2
# (PodDisruptionBudget, HorizontalPodAutoscaler: left out, and counted), no Pod Security admission and no CEL; those need a newer
# server: `make cluster-test` shows them. What it does show: the server's own decoding, defaults and validation of all other objects,
# server-side apply with its managed fields, that a second apply changes nothing, and what --undeploy removes.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
usage() { sed -n '2,7s/^# \{0,1\}//p' "$0" >&2; exit 2; }
[ $# = 2 ] || usage
mkdir -p "$2"
folder=$(cd "$2" && pwd)
kubectl=$(command -v kubectl || echo "$root/.venv/bin/kubectl")

build() {
    cd "$folder"
    mkdir -p parts lists/partial
    sed 's/^Types: deb$/Types: deb-src/' /etc/apt/sources.list.d/debian.sources >parts/source.sources
    local apt=(apt-get -q -o Dir::Etc::sourcelist=/dev/null -o "Dir::Etc::sourceparts=$folder/parts" -o "Dir::State::lists=$folder/lists")
    "${apt[@]}" update
    "${apt[@]}" source --download-only kubernetes
    apt-get -q download golang-1.19-go golang-1.19-src
    local package tree=$folder/gopath/src/k8s.io/kubernetes
    for package in golang-1.19-*.deb; do dpkg -x "$package" go; done
    rm -rf "$tree"
    mkdir -p "${tree%/*}"
    dpkg-source -x kubernetes_*.dsc "$tree"
    export GOROOT=$folder/go/usr/lib/go-1.19 GOPATH=$folder/gopath GOCACHE=$folder/gocache GO111MODULE=off GOPROXY=off CGO_ENABLED=0
    export PATH=$GOROOT/bin:$PATH
    unset GOFLAGS
    ln -sfn "$folder/go/usr/share/go-1.19/src" "$GOROOT/src"
    cd "$tree"
    # The package leaves out the description of the API that Kubernetes generates from its types.
    go build -o "$folder/openapi-gen" k8s.io/kubernetes/vendor/k8s.io/kube-openapi/cmd/openapi-gen
    local types
    types=$(grep -rl --include='*.go' -e '^// +k8s:openapi-gen=' pkg cmd staging/src/k8s.io | xargs -n1 dirname | sort -u |
        grep -v -e code-generator -e sample -e testdata | sed -e 's|^staging/src/|vendor/|' -e 's|^|k8s.io/kubernetes/|' | paste -sd,)
    "$folder/openapi-gen" --logtostderr -O zz_generated.openapi -h hack/boilerplate/boilerplate.generatego.txt -i "$types" \
        -p k8s.io/kubernetes/pkg/generated/openapi -r "$folder/violations"
    go build -ldflags '-s -w' -o "$folder/kube-apiserver" k8s.io/kubernetes/cmd/kube-apiserver
    ls -l "$folder/kube-apiserver"
}

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

case $1 in
    build) build ;;
    check) check ;;
    *) usage ;;
esac

#!/usr/bin/env bash
# A Kubernetes cluster of one node on this machine, of the programs that build.sh made, in namespaces of its own: nothing of it is seen
# from outside or reaches the outside.
#
#   tests/cluster/node.sh up FOLDER              start it; ends when the node is ready
#   tests/cluster/node.sh run FOLDER COMMAND…    run a command inside, with its KUBECONFIG
#   tests/cluster/node.sh down FOLDER            end it and delete what it kept
#
# Needs root, cgroups of version 1, and Debian's containerd, runc, containernetworking-plugins, etcd-server, iptables, conntrack,
# dnsmasq-base and docker-registry. A registry of images is at 127.0.0.1:5000 inside; it also stands in for docker.io.
# The bridge enforces no NetworkPolicy, so policies.py does. Kubernetes 1.20 has no Pod Security admission.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=${PYTHON:-$here/../../.venv/bin/python}
node=10.99.0.1 dns=10.96.0.10
usage() { sed -n '2,12s/^# \{0,1\}//p' "$0" >&2; exit 2; }
[ $# -ge 2 ] || usage
mkdir -p "$2"
folder=$(cd "$2" && pwd)
state=$folder/node

# ---- inside

started() { # NAME COMMAND…
    local name=$1
    shift
    "$@" >"$state/log/$name.log" 2>&1 &
}

until_ok() { # SECONDS WHAT COMMAND…
    local left=$1 what=$2
    shift 2
    until "$@" >"$state/log/until" 2>&1; do
        left=$((left - 1))
        [ "$left" -gt 0 ] || { echo "node: $what: not in time: $(tail -n 2 "$state/log/until")" >&2; exit 1; }
        sleep 1
    done
}

network() {
    ip link set lo up
    ip link add node0 type veth peer name node1
    ip address add $node/24 dev node0
    ip link set node0 up
    ip link set node1 up
    ip route add default dev node0
    sysctl -q -w net.ipv4.ip_forward=1 net.bridge.bridge-nf-call-iptables=1
}

kubeconfig() {
    local token=$1
    cat <<YAML
apiVersion: v1
kind: Config
current-context: throw-away
contexts: [{name: throw-away, context: {cluster: c, user: u}}]
clusters: [{name: c, cluster: {server: "https://$node:6443", certificate-authority: $state/certs/apiserver.crt}}]
users: [{name: u, user: {token: $token}}]
YAML
}

configure() {
    local token name
    token=$(openssl rand -hex 16)
    mkdir -p "$state"/{log,certs,etcd,images,containerd,kubelet,cni,hosts/docker.io,hosts/127.0.0.1:5000,volumes}
    openssl genrsa -out "$state/certs/accounts.key" 2048 2>/dev/null
    echo "$token,admin,admin,\"system:masters\"" >"$state/certs/tokens.csv"
    kubeconfig "$token" >"$state/kubeconfig"
    cat >"$state/registry.yaml" <<YAML
version: 0.1
log: {level: warn}
storage: {filesystem: {rootdirectory: $state/images}}
http: {addr: "127.0.0.1:5000"}
YAML
    for name in docker.io 127.0.0.1:5000; do
        printf 'server = "http://127.0.0.1:5000"\n[host."http://127.0.0.1:5000"]\n  capabilities = ["pull", "resolve"]\n' >"$state/hosts/$name/hosts.toml"
    done
    cat >"$state/cni/10-bridge.conflist" <<JSON
{"cniVersion": "0.4.0", "name": "pods", "plugins": [
  {"type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true,
   "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.88.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}], "dataDir": "$state/cni-data"}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}
JSON
    cat >"$state/containerd.toml" <<TOML
version = 2
root = "$state/containerd/root"
state = "/run/containerd/state"
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "127.0.0.1:5000/pause:3.2"
  restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "/usr/lib/cni"
  conf_dir = "$state/cni"
[plugins."io.containerd.grpc.v1.cri".registry]
  config_path = "$state/hosts"
TOML
    : >"$state/resolv.conf"
    cat >"$state/kubelet.yaml" <<YAML
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: {anonymous: {enabled: true}}
authorization: {mode: AlwaysAllow}
cgroupDriver: cgroupfs
cgroupRoot: /eolgul-cluster
clusterDNS: [$dns]
clusterDomain: cluster.local
resolvConf: $state/resolv.conf
failSwapOn: false
oomScoreAdj: 0
maxOpenFiles: $(ulimit -Hn)
evictionHard: {memory.available: 100Mi, nodefs.available: 1%}
imageGCHighThresholdPercent: 100
YAML
}

inside() {
    mount --make-rshared /
    local place
    for place in /run/containerd /var/log/pods /var/log/containers; do
        mkdir -p "$place"
        mount -t tmpfs tmpfs "$place"
    done
    network
    configure
    local controller
    for controller in /sys/fs/cgroup/*/; do mkdir -p "$controller/eolgul-cluster"; done
    for controller in cpus mems; do
        cat /sys/fs/cgroup/cpuset/cpuset.$controller >/sys/fs/cgroup/cpuset/eolgul-cluster/cpuset.$controller
    done
    export KUBECONFIG=$state/kubeconfig
    local keys=(--service-account-key-file="$state/certs/accounts.key" --service-account-signing-key-file="$state/certs/accounts.key")
    started etcd etcd --data-dir "$state/etcd" --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379
    started registry docker-registry serve "$state/registry.yaml"
    started containerd containerd --config "$state/containerd.toml"
    started apiserver "$folder/kube-apiserver" --etcd-servers=http://127.0.0.1:2379 --advertise-address=$node --secure-port=6443 \
        --cert-dir="$state/certs" "${keys[@]}" --service-account-issuer=https://kubernetes.default.svc --token-auth-file="$state/certs/tokens.csv" \
        --service-cluster-ip-range=10.96.0.0/16 --authorization-mode=RBAC --kubelet-preferred-address-types=InternalIP
    until_ok 120 "the API server" kubectl get --raw /readyz
    started controllers "$folder/kube-controller-manager" --kubeconfig="$KUBECONFIG" --cert-dir="$state/certs/controllers" \
        --service-account-private-key-file="$state/certs/accounts.key" --leader-elect=false
    started scheduler "$folder/kube-scheduler" --kubeconfig="$KUBECONFIG" --cert-dir="$state/certs/scheduler" --leader-elect=false
    until_ok 60 "containerd" ctr --address /run/containerd/containerd.sock version
    started kubelet "$folder/kubelet" --config="$state/kubelet.yaml" --kubeconfig="$KUBECONFIG" --hostname-override=node --node-ip=$node \
        --root-dir="$state/kubelet" --cert-dir="$state/certs/kubelet" --container-runtime=remote \
        --container-runtime-endpoint=unix:///run/containerd/containerd.sock
    started proxy "$folder/kube-proxy" --kubeconfig="$KUBECONFIG" --hostname-override=node --proxy-mode=iptables --cluster-cidr=10.88.0.0/24 \
        --conntrack-max-per-core=0 --conntrack-tcp-timeout-established=0 --conntrack-tcp-timeout-close-wait=0
    started addons "$python" "$here/addons.py" "$state" $node $dns
    started policies "$python" "$here/policies.py" $node
    until_ok 120 "the node" kubectl wait --for=condition=Ready node/node --timeout=1s
    touch "$state/ready"
    # Process 1 of this namespace: with its end, all others end.
    wait
}

# ---- outside

process() { cat "$state/process" 2>/dev/null || { echo "node: no cluster runs in $folder" >&2; exit 1; }; }

up() {
    [ ! -f "$state/process" ] || ! kill -0 "$(cat "$state/process")" 2>/dev/null ||
        { echo "node: a cluster runs in $folder already: tests/cluster/node.sh down $folder" >&2; exit 1; }
    rm -rf "$state"
    mkdir -p "$state"
    PATH="$(dirname "$python"):$PATH" setsid unshare --net --mount --pid --fork --kill-child --mount-proc "$0" inside "$folder" >"$state/up.log" 2>&1 &
    local outer=$! tries
    for ((tries = 0; tries < 300; tries++)); do
        [ ! -f "$state/ready" ] || { pgrep -P "$outer" >"$state/process"; return; }
        kill -0 "$outer" 2>/dev/null || break
        sleep 1
    done
    cat "$state/up.log" >&2
    kill "$outer" 2>/dev/null || true
    exit 1
}

down() {
    kill -9 "$(process)"
    local controller tries
    for controller in /sys/fs/cgroup/*/eolgul-cluster; do
        for ((tries = 0; tries < 20; tries++)); do
            find "$controller" -depth -type d -exec rmdir {} + 2>/dev/null && break
            sleep 0.5
        done
    done
    for ((tries = 0; tries < 20; tries++)); do
        rm -rf "$state" 2>/dev/null && return
        sleep 0.5
    done
    rm -rf "$state"
}

case $1 in
    inside) inside ;;
    up) up ;;
    down) down ;;
    run)
        shift 2
        [ $# -gt 0 ] || usage
        exec nsenter --target "$(process)" --net --mount --pid --wd="$PWD" env KUBECONFIG="$state/kubeconfig" PATH="$(dirname "$python"):$PATH" "$@"
        ;;
    *) usage ;;
esac

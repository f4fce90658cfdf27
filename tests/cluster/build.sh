#!/usr/bin/env bash
# Build Kubernetes 1.20.2 from Debian 12's source package, the newest whole Kubernetes that Debian has.
#
#   tests/cluster/build.sh FOLDER [PROGRAM…]    default: kube-apiserver, kubelet, kube-controller-manager, kube-scheduler, kube-proxy, pause
#
# FOLDER gets sources and programs (3 GB; half an hour on two cores). What is there is kept.
set -euo pipefail

mkdir -p "$1"
folder=$(cd "$1" && pwd)
shift
[ $# -gt 0 ] || set -- kube-apiserver kubelet kube-controller-manager kube-scheduler kube-proxy pause
tree=$folder/gopath/src/k8s.io/kubernetes
generated=$tree/pkg/generated/openapi/zz_generated.openapi.go
cd "$folder"

fetch() {
    mkdir -p parts lists/partial
    sed 's/^Types: deb$/Types: deb-src/' /etc/apt/sources.list.d/debian.sources >parts/source.sources
    local apt=(apt-get -q -o Dir::Etc::sourcelist=/dev/null -o "Dir::Etc::sourceparts=$folder/parts" -o "Dir::State::lists=$folder/lists")
    "${apt[@]}" update
    "${apt[@]}" source --download-only kubernetes
    apt-get -q download golang-1.19-go golang-1.19-src
    local package
    for package in golang-1.19-*.deb; do dpkg -x "$package" go; done
    ln -sfn "$folder/go/usr/share/go-1.19/src" "$folder/go/usr/lib/go-1.19/src"
    rm -rf "$tree"
    mkdir -p "${tree%/*}"
    dpkg-source -x kubernetes_*.dsc "$tree"
}

# The package leaves out the description of the API that Kubernetes generates from its types.
generate() {
    go build -o "$folder/openapi-gen" k8s.io/kubernetes/vendor/k8s.io/kube-openapi/cmd/openapi-gen
    local types
    types=$(grep -rl --include='*.go' -e '^// +k8s:openapi-gen=' pkg cmd staging/src/k8s.io | xargs -n1 dirname | sort -u |
        grep -v -e code-generator -e sample -e testdata | sed -e 's|^staging/src/|vendor/|' -e 's|^|k8s.io/kubernetes/|' | paste -sd,)
    "$folder/openapi-gen" --logtostderr -O zz_generated.openapi -h hack/boilerplate/boilerplate.generatego.txt -i "$types" \
        -p k8s.io/kubernetes/pkg/generated/openapi -r "$folder/violations"
}

[ -d "$tree" ] || fetch
export GOROOT=$folder/go/usr/lib/go-1.19 GOPATH=$folder/gopath GOCACHE=$folder/gocache GO111MODULE=off GOPROXY=off CGO_ENABLED=0
export PATH=$GOROOT/bin:$PATH
unset GOFLAGS
flags='-s -w'
for package in component-base/version client-go/pkg/version; do
    flags="$flags -X k8s.io/kubernetes/vendor/k8s.io/$package.gitVersion=v1.20.2"
done
cd "$tree"
for program; do
    [ ! -x "$folder/$program" ] || continue
    case $program in
        pause) cc -Os -static -o "$folder/pause" build/pause/linux/pause.c ;;
        *)
            [ "$program" != kube-apiserver ] || [ -f "$generated" ] || generate
            go build -ldflags "$flags" -o "$folder/$program" "k8s.io/kubernetes/cmd/$program"
            ;;
    esac
    ls -l "$folder/$program"
done

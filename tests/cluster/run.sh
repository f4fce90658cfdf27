#!/usr/bin/env bash
# The acceptance test of a cluster (k8s/cluster-test.sh) on the cluster that node.sh starts: everything from Debian's sources to the end.
#
#   REGISTRY=<folder of a registry> PHOTOS="a.jpg b.jpg" tests/cluster/run.sh FOLDER
#
# FOLDER keeps what build.sh made, so a second run starts at once. The image localhost/eolgul/serving:test must be there
# (NAMES=serving docker/test.sh makes it). The manifests are those of overlay `production` with SeaweedFS and signed models, with less to ask of the node;
# Kubernetes 1.20 gets the older names of two kinds (policy/v1, autoscaling/v2), and deploy.sh is told that 1.20 is not too old.
# KEEP=1 leaves the cluster running.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
[ $# = 1 ] || { sed -n '2,10s/^# \{0,1\}//p' "$0" >&2; exit 2; }
mkdir -p "$1"
folder=$(cd "$1" && pwd)

"$here/build.sh" "$folder"
PAUSE=$folder/pause "$here/images.sh" make
"$here/node.sh" up "$folder"
[ -n "${KEEP:-}" ] || trap '"$here/node.sh" down "$folder"' EXIT
"$here/node.sh" run "$folder" "$here/images.sh" push "$folder/digests.json"

rm -rf "$folder/checkout"
mkdir "$folder/checkout"
cp -R "$root/k8s" "$folder/checkout/k8s"
ln -s "$(readlink -f "$root/.venv")" "$folder/checkout/.venv"
k8s=$folder/checkout/k8s
sed -i 's/^oldest=.*/oldest=20/' "$k8s/deploy.sh"
sed -i -e 's|policy/v1$|policy/v1beta1|' -e 's|autoscaling/v2$|autoscaling/v2beta2|' -e '/unhealthyPodEvictionPolicy/d' "$k8s"/base/*.yaml
mkdir "$k8s/overlays/throw-away"
cat >"$k8s/overlays/throw-away/kustomization.yaml" <<'YAML'
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
namespace: eolgul
resources:
  - ../seaweedfs
components:
  - ../../components/signed-models
secretGenerator:
  - name: eolgul-serving-keys
    behavior: merge
    files: [trusted-keys]
patches:
  - target: {kind: Deployment, name: serving}
    patch: |
      - {op: replace, path: /spec/template/spec/containers/0/resources/requests/cpu, value: 100m}
YAML
EOLGUL_IMAGES=$folder/digests.json "$here/node.sh" run "$folder" "$k8s/cluster-test.sh" throw-away

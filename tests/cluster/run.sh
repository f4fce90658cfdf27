#!/usr/bin/env bash
# The acceptance test of a cluster (k8s/cluster-test.sh) on the cluster that node.sh starts: everything from Debian's sources to the end.
#
#   REGISTRY=<folder of a registry> PHOTOS="a.jpg b.jpg" tests/cluster/run.sh FOLDER
#
# FOLDER keeps what build.sh made, so a second run starts at once. The image localhost/eolgul/serving:test must be there
# (NAMES=serving docker/test.sh makes it). The manifests are those of overlay `production` with SeaweedFS and signed models, with less to
# ask of the node; Kubernetes 1.20 gets the older names of two kinds (policy/v1, autoscaling/v2), and deploy.sh is told that 1.20 is not
# too old.
# KEEP=1 leaves the cluster running. ROLLING=1 then deploys once more, with two replicas, and counts what 16 clients lose during 20 updates
# and 20 deleted pods (benchmarks/rolling.py).
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
[ $# = 1 ] || { sed -n '2,12s/^# \{0,1\}//p' "$0" >&2; exit 2; }
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
  - target: {kind: HorizontalPodAutoscaler, name: serving}
    patch: |
      - {op: replace, path: /spec/minReplicas, value: 2}
YAML
export EOLGUL_IMAGES=$folder/digests.json
inside() { "$here/node.sh" run "$folder" "$@"; }
POLICIES=1 inside "$k8s/cluster-test.sh" throw-away
[ -n "${ROLLING:-}" ] || exit 0

export YES=1
overlays=$k8s/overlays first=$folder/first
"$k8s/deploy.sh" --secrets throw-away
# The limit of one key is not what is counted here.
sed -i 's/"scopes"/"requests_per_minute": 1000000, "scopes"/' "$overlays/production/api-keys.json"
inside "$k8s/deploy.sh" throw-away
rm -rf "$first"
(
    here=$k8s
    # shellcheck source=k8s/lib/store.sh
    . "$k8s/lib/store.sh"
    backup_of "$REGISTRY" "$first" "$overlays/throw-away"
)
inside "$k8s/backup.sh" restore "$first" throw-away
address=$(inside kubectl -n eolgul get service serving -o 'jsonpath={.spec.clusterIP}')
# shellcheck disable=SC2086  # PHOTOS are words
inside "$root/.venv/bin/python" "$root/benchmarks/rolling.py" --address "http://$address:3000" --key-file "$overlays/production/api-key" --photos $PHOTOS

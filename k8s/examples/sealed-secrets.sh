#!/usr/bin/env bash
# Seal the two Secrets of an overlay for the cluster of kubectl's context (Bitnami's Sealed Secrets; kubeseal is needed here, its
# controller in the cluster). What it writes may be committed: only that cluster can open it.
#
#   k8s/examples/sealed-secrets.sh production >k8s/overlays/production/sealed-secrets.yaml
#
# In the overlay, remove both secretGenerators then and add the file under `resources`. The names have no digest: after a rotation,
# `kubectl -n eolgul rollout restart deployment,statefulset`.
set -euo pipefail
folder=$(cd "$(dirname "${BASH_SOURCE[0]}")/../overlays/${1:?the overlay}" && pwd)
kubectl -n eolgul create secret generic eolgul-secrets --from-env-file="$folder/secrets.env" --dry-run=client -o yaml |
    kubeseal --format yaml
echo ---
kubectl -n eolgul create secret generic eolgul-serving-keys --from-file="$folder/api-keys.json" \
    --from-file="$folder/encryption-keys" --dry-run=client -o yaml |
    kubeseal --format yaml

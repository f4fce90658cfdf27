"""What a cluster has beside Kubernetes: names of services (DNS), and volumes. One process, for the cluster of node.sh.

    python tests/cluster/addons.py STATE NODE_ADDRESS DNS_ADDRESS

STATE is a folder; volumes are folders below it. A volume's folder is deleted with its claim, as with reclaimPolicy Delete.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from kubernetes import client, config

CLASS = "standard"


def name_server(hosts: Path, address: str) -> subprocess.Popen[bytes]:
    """dnsmasq, which answers for cluster.local from a file and knows nothing else."""
    return subprocess.Popen(
        ["dnsmasq", "--keep-in-foreground", "--no-resolv", "--no-hosts", "--user=root", "--pid-file", "--bind-interfaces",
         f"--listen-address={address}", f"--addn-hosts={hosts}", "--local=/cluster.local/", "--local-ttl=1"]
    )  # fmt: skip


def create(make: Any, *arguments: Any) -> None:
    """Create an object unless it exists."""
    try:
        make(*arguments)
    except client.ApiException as error:
        if error.status != 409:
            raise


def set_up(core: client.CoreV1Api, node: str, address: str) -> None:
    """The default storage class, and the service of the name server."""
    storage = client.StorageV1Api()
    default = {"storageclass.kubernetes.io/is-default-class": "true"}
    create(storage.create_storage_class, {
        "metadata": {"name": CLASS, "annotations": default}, "provisioner": "eolgul.test/folder",
    })  # fmt: skip
    ports = [{"name": name, "port": 53, "protocol": name.upper()} for name in ("udp", "tcp")]
    meta = {"name": "dns"}
    create(
        core.create_namespaced_service,
        "kube-system",
        {"metadata": meta, "spec": {"clusterIP": address, "ports": ports}},
    )
    subsets = [{"addresses": [{"ip": node}], "ports": ports}]
    create(core.create_namespaced_endpoints, "kube-system", {"metadata": meta, "subsets": subsets})


def names(core: client.CoreV1Api) -> str:
    """The hosts file of all services with an address."""
    lines = []
    for service in core.list_service_for_all_namespaces().items:
        if service.spec.cluster_ip not in (None, "None"):
            host = f"{service.metadata.name}.{service.metadata.namespace}.svc"
            lines.append(f"{service.spec.cluster_ip} {host}.cluster.local\n")
    return "".join(sorted(lines))


def volumes(core: client.CoreV1Api, state: Path) -> None:
    """A volume for every claim that waits for one; a volume whose claim is gone is deleted."""
    for claim in core.list_persistent_volume_claim_for_all_namespaces().items:
        meta = claim.metadata
        if claim.status.phase != "Pending" or claim.spec.volume_name:
            continue
        folder = state / "volumes" / f"{meta.namespace}-{meta.name}-{meta.uid}"
        folder.mkdir(exist_ok=True)
        create(core.create_persistent_volume, {
            "metadata": {"name": f"pvc-{meta.uid}"},
            "spec": {
                "capacity": {"storage": claim.spec.resources.requests["storage"]},
                "accessModes": claim.spec.access_modes,
                "storageClassName": claim.spec.storage_class_name,
                "persistentVolumeReclaimPolicy": "Retain",
                "claimRef": {"namespace": meta.namespace, "name": meta.name, "uid": meta.uid},
                "local": {"path": str(folder)},
                "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
                    {"key": "kubernetes.io/hostname", "operator": "In", "values": ["node"]},
                ]}]}},
            },
        })  # fmt: skip
    for volume in core.list_persistent_volume().items:
        if volume.status.phase == "Released":
            core.delete_persistent_volume(volume.metadata.name)
            shutil.rmtree(volume.spec.local.path, ignore_errors=True)


def main() -> None:
    """Keep names and volumes as the cluster wants them, until the process is ended."""
    state, node, address = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    config.load_kube_config()
    core = client.CoreV1Api()
    set_up(core, node, address)
    hosts = state / "services"
    known = names(core)
    hosts.write_text(known)
    process = name_server(hosts, node)
    while process.poll() is None:
        time.sleep(0.5)
        try:
            wanted = names(core)
            if wanted != known:
                hosts.write_text(wanted)
                process.send_signal(signal.SIGHUP)
                known = wanted
            volumes(core, state)
        except client.ApiException as error:  # the next turn tries again
            print(f"{error.status} {error.reason}", file=sys.stderr, flush=True)
    sys.exit(f"dnsmasq ended with {process.returncode}")


if __name__ == "__main__":
    main()

"""NetworkPolicies for the cluster of node.sh, whose bridge enforces none: they become iptables rules, anew whenever something changes.

    python tests/cluster/policies.py NAME_SERVER

Follows the API's rules (https://kubernetes.io/docs/concepts/services-networking/network-policies): a pod that a policy selects for a
direction may do in that direction what one of these policies allows, and nothing else. What the node itself sends (probes,
port-forward) is not held up. The name server is a process of the node at the given address; it counts as no pod. ipBlock, ranges of
ports and IPv6 are refused: no manifest here has them.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from kubernetes import client, config

CHAINS = {"Egress": "EOLGUL-EGRESS", "Ingress": "EOLGUL-INGRESS"}


@dataclass(frozen=True)
class Pod:
    """What rules need of a pod."""

    address: str
    namespace: str
    labels: tuple[tuple[str, str], ...]
    ports: tuple[tuple[str, int], ...]  # names of the containers' ports


def selects(selector: Any, labels: dict[str, str]) -> bool:
    """Whether a LabelSelector selects what has these labels; an empty one selects everything."""
    if any(labels.get(key) != value for key, value in (selector.match_labels or {}).items()):
        return False
    for one in selector.match_expressions or []:
        value, values = labels.get(one.key), one.values or []
        holds = {
            "In": value in values,
            "NotIn": value not in values,
            "Exists": value is not None,
            "DoesNotExist": value is None,
        }
        if not holds[one.operator]:
            return False
    return True


def peers_of(peers: Any, policy: Any, pods: list[Pod], namespaces: dict[str, dict[str, str]]) -> list[Pod] | None:
    """The pods at the other end; None for anybody."""
    if not peers:
        return None
    found = []
    for peer in peers:
        if peer.ip_block is not None:
            raise SystemExit(f"{policy.metadata.name}: ipBlock is not supported here")
        for pod in pods:
            if peer.namespace_selector is None:
                if pod.namespace != policy.metadata.namespace:
                    continue
            elif not selects(peer.namespace_selector, namespaces.get(pod.namespace, {})):
                continue
            if peer.pod_selector is None or selects(peer.pod_selector, dict(pod.labels)):
                found.append(pod)
    return found


def matches_of(ports: Any, target: Pod | None) -> Iterator[str]:
    """What iptables matches for the ports of a rule; a name is one of the target's ports."""
    if not ports:
        yield ""
    for port in ports or []:
        number: Any = port.port
        if getattr(port, "end_port", None) is not None:
            raise SystemExit("ranges of ports are not supported here")
        if isinstance(number, str) and not number.isdigit():
            number = dict(target.ports).get(number) if target else None
            if number is None:
                continue
        protocol = (port.protocol or "TCP").lower()
        yield f"-p {protocol}" + (f" --dport {number}" if number is not None else "")


def rules(policies: list[Any], pods: list[Pod], namespaces: dict[str, dict[str, str]]) -> Iterator[str]:
    """The rules of both chains."""
    for direction, chain in CHAINS.items():
        yield f"-A {chain} -m conntrack --ctstate ESTABLISHED,RELATED -j RETURN"
        here, there, field = ("-s", "-d", "to") if direction == "Egress" else ("-d", "-s", "_from")
        for pod in pods:
            own = [
                policy
                for policy in policies
                if policy.metadata.namespace == pod.namespace
                and direction in (policy.spec.policy_types or ["Ingress"])
                and selects(policy.spec.pod_selector, dict(pod.labels))
            ]
            for policy in own:
                for rule in getattr(policy.spec, direction.lower()) or []:
                    others = peers_of(getattr(rule, field), policy, pods, namespaces)
                    for other in [None] if others is None else others:
                        end = f" {there} {other.address}" if other else ""
                        for ports in matches_of(rule.ports, pod if direction == "Ingress" else other):
                            yield f"-A {chain} {here} {pod.address}{end} {ports} -j RETURN"
            if own:
                yield f"-A {chain} {here} {pod.address} -j DROP"


def state(core: client.CoreV1Api, networking: client.NetworkingV1Api) -> str:
    """The input of iptables-restore."""
    namespaces = {
        # Kubernetes sets this label from 1.21 on.
        one.metadata.name: {"kubernetes.io/metadata.name": one.metadata.name, **(one.metadata.labels or {})}
        for one in core.list_namespace().items
    }
    pods = [
        Pod(
            one.status.pod_ip,
            one.metadata.namespace,
            tuple(sorted((one.metadata.labels or {}).items())),
            tuple(
                (port.name, port.container_port)
                for part in one.spec.containers
                for port in part.ports or []
                if port.name
            ),
        )
        for one in core.list_pod_for_all_namespaces().items
        if one.status.pod_ip and one.status.phase in ("Pending", "Running")
    ]
    pods.sort(key=lambda pod: pod.address)
    lines = ["*filter", *(f":{chain} - [0:0]" for chain in CHAINS.values())]
    lines += rules(networking.list_network_policy_for_all_namespaces().items, pods, namespaces)
    return "\n".join([*lines, "COMMIT", ""])


def main() -> None:
    """Keep the rules as the policies want them, until the process is ended."""
    name_server = sys.argv[1]
    config.load_kube_config()
    core, networking = client.CoreV1Api(), client.NetworkingV1Api()
    for chain in CHAINS.values():
        subprocess.run(["iptables", "-N", chain], check=True)
        subprocess.run(["iptables", "-I", "FORWARD", "-j", chain], check=True)
    # The name server is on the node, so that packets to it are not forwarded.
    subprocess.run(["iptables", "-I", "INPUT", "-d", name_server, "-i", "cni0", "-j", CHAINS["Egress"]], check=True)
    known = ""
    while True:
        try:
            wanted = state(core, networking)
            if wanted != known:
                subprocess.run(["iptables-restore", "--noflush", "--wait"], input=wanted, text=True, check=True)
                known = wanted
        except client.ApiException as error:  # the next turn tries again
            print(f"{error.status} {error.reason}", file=sys.stderr, flush=True)
        time.sleep(0.3)


if __name__ == "__main__":
    main()

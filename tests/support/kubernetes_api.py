"""A Kubernetes API in this process with the few resources that a TrainJob needs; the answers have Kubernetes' shapes."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import urlsplit

from support.http_server import http_server

NAMESPACE = "kubeflow-user"
_TRAINER = "/apis/trainer.kubeflow.org/v1alpha1"
_CREATED = "2026-11-28T10:00:00Z"

RUNTIME = {
    "apiVersion": "trainer.kubeflow.org/v1alpha1",
    "kind": "ClusterTrainingRuntime",
    "metadata": {"name": "torch-distributed", "labels": {"trainer.kubeflow.org/framework": "torch"}},
    "spec": {
        "mlPolicy": {"numNodes": 1, "torch": {}},
        "template": {"spec": {"replicatedJobs": [{"name": "node", "template": {
            "metadata": {"labels": {"trainer.kubeflow.org/trainjob-ancestor-step": "trainer"}},
            "spec": {"template": {"spec": {"containers": [{"name": "node", "image": "pytorch"}]}}},
        }}]}},
    },
}  # fmt: skip

TASK_POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "train-pod-1", "namespace": NAMESPACE, "uid": "u-1"},
    "spec": {
        "serviceAccountName": "default-editor",
        "imagePullSecrets": [{"name": "registry-key"}],
        "nodeSelector": {"pool": "gpu"},
        "securityContext": {"fsGroup": 0},
        "tolerations": [
            {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"},
            {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300},
        ],
        "volumes": [
            {"name": "dshm", "emptyDir": {"medium": "Memory", "sizeLimit": "4Gi"}},
            {"name": "scratch", "emptyDir": {}},
            {"name": "kube-api-access-x1", "projected": {"sources": []}},
            {"name": "var-run-argo", "emptyDir": {}},
            {"name": "kfp-launcher", "emptyDir": {}},
        ],
        "containers": [
            {"name": "wait", "image": "argoexec"},
            {
                "name": "main",
                "image": "registry.example/eolgul/train@sha256:" + "a" * 64,
                "command": ["/var/run/argo/argoexec", "emissary"],
                "env": [
                    {"name": "KFP_POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                    {"name": "ARGO_TEMPLATE", "value": "{}"},
                    {"name": "EOLGUL_S3_ENDPOINT", "valueFrom": {"configMapKeyRef": {"name": "eolgul-s3", "key": "EOLGUL_S3_ENDPOINT"}}},
                    {"name": "EOLGUL_S3_SECRET_KEY", "valueFrom": {"secretKeyRef": {"name": "eolgul-s3", "key": "EOLGUL_S3_SECRET_KEY"}}},
                    {"name": "ORT_DISABLE_TELEMETRY", "value": "1"},
                ],
                "resources": {"limits": {"cpu": "8", "memory": "64Gi", "nvidia.com/gpu": "1"}, "requests": {"cpu": "4"}},
                "securityContext": {"runAsNonRoot": True},
                "volumeMounts": [
                    {"name": "dshm", "mountPath": "/dev/shm"},
                    {"name": "scratch", "mountPath": "/scratch"},
                    {"name": "kube-api-access-x1", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"},
                    {"name": "var-run-argo", "mountPath": "/var/run/argo"},
                ],
            },
        ],
    },
}  # fmt: skip


@dataclass
class Cluster:
    """What the cluster holds and how it behaves.

    Attributes:
        address: The API's address.
        states: The state of a TrainJob at each look: "", "Running", "Complete", "Failed" or "gone"; the last one stays.
        logs: Each node's log.
        refusals: Status by a part of the path, answered before anything else.
        old: Whether the TrainJob's definition has no runtimePatches, so that the API drops them.
        jobs: The TrainJobs.
        deleted: Names of those that were deleted.
        seen: Method and path of each request.
    """

    address: str = ""
    states: list[str] = field(default_factory=lambda: ["", "Running", "Complete"])
    logs: dict[int, str] = field(default_factory=dict)
    refusals: dict[str, int] = field(default_factory=dict)
    old: bool = False
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    deleted: list[str] = field(default_factory=list)
    seen: list[tuple[str, str]] = field(default_factory=list)


@contextmanager
def cluster() -> Iterator[Cluster]:
    """Serve on a port of 127.0.0.1."""
    state = Cluster()
    with http_server(type("Handler", (_Handler,), {"state": state})) as state.address:
        yield state


class _Handler(BaseHTTPRequestHandler):
    state: Cluster
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.answer("GET")

    def do_POST(self) -> None:
        self.answer("POST")

    def do_DELETE(self) -> None:
        self.answer("DELETE")

    def json(self, data: Any, status: int = 200) -> None:
        self.send(json.dumps(data).encode(), "application/json", status)

    def send(self, data: bytes, kind: str, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def refuse(self, status: int, message: str) -> None:
        self.json(
            {"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "code": status}, status
        )

    def answer(self, method: str) -> None:
        state, path = self.state, urlsplit(self.path).path
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"{}")
        state.seen.append((method, path))
        for part, status in state.refusals.items():
            if part in path:
                return self.refuse(status, f"{path} is refused")
        jobs = f"{_TRAINER}/namespaces/{NAMESPACE}/trainjobs"
        if path == f"{_TRAINER}/clustertrainingruntimes/torch-distributed":
            return self.json(RUNTIME)
        if method == "POST" and path == jobs:
            body["metadata"] |= {"namespace": NAMESPACE, "creationTimestamp": _CREATED, "uid": "j-1"}
            if state.old:
                body["spec"].pop("runtimePatches")
            state.jobs[body["metadata"]["name"]] = body
            return self.json(body, 201)
        name = path.removeprefix(f"{jobs}/")
        if path.startswith(f"{jobs}/") and name in state.jobs:
            if method == "DELETE":
                del state.jobs[name]
                state.deleted.append(name)
                return self.json({"kind": "Status", "status": "Success"})
            return self.job(state.jobs[name])
        pods = f"/api/v1/namespaces/{NAMESPACE}/pods"
        if path == f"{pods}/train-pod-1":
            return self.json(TASK_POD)
        if path == pods:
            return self.json({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": self.nodes()})
        if path.endswith("/log"):
            number = int(path.split("/")[-2].rpartition("-")[2])
            return self.send(state.logs.get(number, "").encode(), "text/plain")
        if path == f"/api/v1/namespaces/{NAMESPACE}/events":
            event = {"metadata": {"name": "e"}, "involvedObject": {"kind": "TrainJob", "name": next(iter(state.jobs), "")},
                     "reason": "FailedScheduling", "message": "0/3 nodes are available: insufficient nvidia.com/gpu.",
                     "firstTimestamp": _CREATED}  # fmt: skip
            return self.json({"kind": "EventList", "apiVersion": "v1", "metadata": {}, "items": [event]})
        return self.refuse(404, f"{path} not found")

    def job(self, job: dict[str, Any]) -> None:
        state = self.state
        now = state.states.pop(0) if len(state.states) > 1 else state.states[0]
        if now == "gone":
            return self.refuse(404, "the TrainJob is not found")
        if now in ("Complete", "Failed"):
            job["status"] = {"conditions": [{"type": now, "status": "True", "reason": "x", "message": "y",
                                             "lastTransitionTime": _CREATED}]}  # fmt: skip
        job["running"] = now == "Running"
        self.json({key: value for key, value in job.items() if key != "running"})
        return None

    def nodes(self) -> list[dict[str, Any]]:
        found = []
        for job in self.state.jobs.values():
            for number in range(job["spec"]["trainer"]["numNodes"]):
                labels = {"jobset.sigs.k8s.io/jobset-name": job["metadata"]["name"],
                          "jobset.sigs.k8s.io/replicatedjob-name": "node",
                          "batch.kubernetes.io/job-completion-index": str(number)}  # fmt: skip
                phase = "Running" if job.get("running") or job.get("status") else "Pending"
                found.append({
                    "metadata": {"name": f"{job['metadata']['name']}-node-{number}", "labels": labels, "creationTimestamp": _CREATED},
                    "spec": {"containers": [{"name": "node", "image": "x"}]},
                    "status": {"phase": phase},
                })  # fmt: skip
        return found


def wait_for(what: Any, seconds: float = 30.0) -> None:
    """Wait until a call gives something true."""
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until
        time.sleep(0.02)

"""A stand-in for the API server of a cluster, for the real kubectl: it keeps what is applied and answers as Kubernetes does.

It has no kubelet. A workload runs at once, unless the test says what its pods look like instead; the pods of the service may
follow a real one, whose /readyz and log they then have.
"""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from support.http_server import http_server

Object = dict[str, Any]
KINDS = {
    "v1": {"Namespace": "namespaces", "ConfigMap": "configmaps", "Secret": "secrets", "Service": "services", "Pod": "pods",
           "Event": "events", "PersistentVolumeClaim": "persistentvolumeclaims"},
    "apps/v1": {"Deployment": "deployments", "StatefulSet": "statefulsets"},
    "batch/v1": {"Job": "jobs"},
    "policy/v1": {"PodDisruptionBudget": "poddisruptionbudgets"},
    "autoscaling/v2": {"HorizontalPodAutoscaler": "horizontalpodautoscalers"},
    "networking.k8s.io/v1": {"NetworkPolicy": "networkpolicies"},
    "rbac.authorization.k8s.io/v1": {"Role": "roles", "RoleBinding": "rolebindings", "ClusterRole": "clusterroles",
                                     "ClusterRoleBinding": "clusterrolebindings"},
}  # fmt: skip
WHOLE = {"namespaces", "clusterroles", "clusterrolebindings"}  # not in a namespace
_PLACE = re.compile(
    r"/(?:api|apis)/(?P<version>v1|[a-z0-9.]+/v\d)(?:/namespaces/(?P<namespace>[a-z0-9-]+)(?=/))?/(?P<plural>[a-z]+)"
    r"(?:/(?P<name>[a-z0-9:.-]+))?(?:/(?P<sub>[a-z]+))?"
)


def pod(
    app: str, name: str, *, state: Object | None = None, last: Object | None = None, unscheduled: str = ""
) -> Object:
    """A pod that is not ready. `state` and `last` as in containerStatuses; without them it has no node."""
    conditions: list[Object] = [{"type": "Ready", "status": "False"}]
    conditions.append({"type": "PodScheduled", "status": "False" if unscheduled else "True", "message": unscheduled})
    statuses = [{"name": app, "state": state or {}, "lastState": last or {}}] if not unscheduled else []
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": "eolgul",
            "uid": f"uid-{name}",
            "labels": {"app.kubernetes.io/name": app},
        },
        "spec": {"containers": [{"name": app, "image": app}]},
        "status": {
            "phase": "Pending" if unscheduled else "Running",
            "conditions": conditions,
            "containerStatuses": statuses,
        },
    }


def event(about: str, reason: str, message: str, kind: str = "Warning", uid: str = "") -> Object:
    """An event about an object; `uid` is that of an earlier one of the same name."""
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{about}.1", "namespace": "eolgul"},
        "involvedObject": {"name": about, "namespace": "eolgul", "uid": uid or f"uid-{about}"},
        "reason": reason,
        "message": message,
        "type": kind,
    }


@dataclass
class Cluster:
    """What is in the cluster, what was asked, and what does not run there."""

    objects: dict[tuple[str, str, str], Object] = field(default_factory=dict)  # by (plural, namespace, name)
    asked: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    version: str = "1.31.4"
    metrics: bool = True
    down: dict[str, list[Object]] = field(default_factory=dict)  # name of a workload: its pods
    failed: dict[str, str] = field(default_factory=dict)  # name of a Job: why it will not try again
    events: list[Object] = field(default_factory=list)
    logs: dict[str, str] = field(default_factory=dict)  # by name of a pod; "NAME previous" for the run before
    service: tuple[str, Path] | None = None  # the address and the log of a real service, which `serving` is then
    conflict: str = ""  # the manager of a field, who is in the way of an apply without force
    restarted: list[str] = field(default_factory=list)
    address: str = ""

    def names(self, plural: str) -> set[str]:
        return {name for kind, _, name in self.objects if kind == plural}

    @property
    def changes(self) -> list[str]:
        return [f"{method} {path}" for method, path, query in self.asked if method != "GET" and "dryRun" not in query]

    def kubeconfig(self, file: Path, context: str = "my-cluster") -> Path:
        value = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": context,
            "contexts": [{"name": context, "context": {"cluster": "c", "user": "u"}}],
            "clusters": [{"name": "c", "cluster": {"server": self.address}}],
            "users": [{"name": "u", "user": {}}],
        }
        file.write_text(json.dumps(value))
        return file

    # ---- the answers

    def discover(self, path: str) -> Object | None:
        if path == "/version":
            return {"major": "1", "minor": self.version.split(".")[1], "gitVersion": f"v{self.version}"}
        if path == "/api":
            return {"kind": "APIVersions", "versions": ["v1"]}
        groups = [version.split("/") for version in KINDS if "/" in version]
        if path == "/apis":
            listed = [
                {"name": group, "versions": [{"groupVersion": f"{group}/{version}", "version": version}],
                 "preferredVersion": {"groupVersion": f"{group}/{version}", "version": version}}
                for group, version in groups
            ]  # fmt: skip
            return {"kind": "APIGroupList", "apiVersion": "v1", "groups": listed}
        if path == "/apis/metrics.k8s.io/v1beta1":
            return {"kind": "APIResourceList", "groupVersion": "metrics.k8s.io/v1beta1"} if self.metrics else None
        if path == "/openapi/v3":
            return {
                "paths": {
                    f"api{'s' if '/' in one else ''}/{one}": {"serverRelativeURL": f"/openapi/v3/{one}"}
                    for one in KINDS
                }
            }
        if path.startswith("/openapi/v3/"):
            return self._schema(path.removeprefix("/openapi/v3/"))
        version = path.removeprefix("/apis/").removeprefix("/api/")
        if version in KINDS:
            verbs = ["create", "delete", "get", "list", "patch", "update", "watch"]
            resources: list[Object] = [
                {
                    "name": plural,
                    "singularName": kind.lower(),
                    "namespaced": plural not in WHOLE,
                    "kind": kind,
                    "verbs": verbs,
                }
                for kind, plural in KINDS[version].items()
            ]
            return {"kind": "APIResourceList", "groupVersion": version, "resources": resources}
        return None

    def _schema(self, version: str) -> Object:
        """Just enough for kubectl to see that the server itself checks fields."""
        group, _, short = version.rpartition("/")
        paths: Object = {}
        for kind, plural in KINDS[version].items():
            gvk = {"group": group, "version": short, "kind": kind}
            parameters = [{"name": "fieldValidation", "in": "query", "schema": {"type": "string"}}]
            paths[f"/{plural}/{{name}}"] = {"patch": {"x-kubernetes-group-version-kind": gvk, "parameters": parameters}}
        return {"openapi": "3.0.0", "paths": paths}

    def ready(self) -> bool:
        assert self.service is not None
        try:
            with urllib.request.urlopen(f"{self.service[0]}/readyz", timeout=5):
                return True
        except urllib.error.HTTPError:
            return False

    def up(self, name: str) -> bool:
        if name == "serving" and self.service is not None:
            return self.ready()
        return name not in self.down

    def pods(self) -> list[Object]:
        found = [one for pods in self.down.values() for one in pods]
        if self.service is not None and not self.ready():
            found.append(
                pod("serving", "serving-7d9c8b6f5-abcde", state={"running": {"startedAt": "2026-01-01T00:00:00Z"}})
            )
        return found

    def with_status(self, thing: Object) -> Object:
        """An object with the status that its controller would write, if it is a workload."""
        up, kind, generation = self.up(thing["metadata"]["name"]), thing.get("kind"), 1
        if kind not in ("Deployment", "StatefulSet", "Job"):
            return thing
        count = int(up)
        meta = thing["metadata"] | {"generation": generation}
        status: Object = {"observedGeneration": generation, "replicas": 1}
        spec = dict(thing["spec"])
        if kind == "Deployment":
            spec.setdefault("replicas", 1)
            status |= {"updatedReplicas": 1, "readyReplicas": count}
        elif kind == "StatefulSet":
            spec.setdefault("updateStrategy", {"type": "RollingUpdate"})
            spec.setdefault("replicas", 1)
            status |= {"updatedReplicas": 1, "readyReplicas": count}
        else:
            status = {
                "conditions": [{"type": one, "status": "True"} for one in ("SuccessCriteriaMet", "Complete") if up]
            }
            if message := self.failed.get(thing["metadata"]["name"]):
                status = {"conditions": [{"type": "Failed", "status": "True", "message": message}]}
        return thing | {"metadata": meta, "spec": spec, "status": status}

    def log(self, name: str, previous: bool) -> str | None:
        if self.service is not None and name.startswith("serving-"):
            return None if previous else self.service[1].read_text()
        return self.logs.get(f"{name} previous" if previous else name)


def _matches(thing: Object, query: dict[str, str]) -> bool:
    labels = thing["metadata"].get("labels", {})
    for part in filter(None, query.get("labelSelector", "").split(",")):
        key, _, value = part.partition("=")
        if labels.get(key) != value:
            return False
    for part in filter(None, query.get("fieldSelector", "").split(",")):
        key, _, value = part.partition("=")
        found: Any = thing
        for step in key.removesuffix("!").split("."):
            found = found.get(step, {})
        if (found == value) == key.endswith("!"):
            return False
    return True


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    cluster: Cluster

    def log_message(self, format: str, *args: object) -> None:
        pass

    def answer(self, status: int, value: Object | str) -> None:
        data = (value if isinstance(value, str) else json.dumps(value)).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain" if isinstance(value, str) else "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def refuse(self, status: int, reason: str, message: str) -> None:
        value = {
            "kind": "Status",
            "apiVersion": "v1",
            "status": "Failure",
            "reason": reason,
            "message": message,
            "code": status,
        }
        self.answer(status, value)

    def handle_any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        url = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        self.cluster.asked.append((self.command, url.path, query))
        if self.command == "GET" and (found := self.cluster.discover(url.path)) is not None:
            return self.answer(200, found)
        match = _PLACE.fullmatch(url.path)
        if match is None or match["plural"] not in KINDS.get(match["version"], {}).values():
            return self.refuse(404, "NotFound", "the server could not find the requested resource")
        kind = next(kind for kind, plural in KINDS[match["version"]].items() if plural == match["plural"])
        key = (match["plural"], match["namespace"] or "", match["name"] or "")
        return {"GET": self.get, "PATCH": self.patch, "DELETE": self.delete}[self.command](
            match, kind, key, query, body
        )

    do_GET = do_PATCH = do_DELETE = do_POST = handle_any  # noqa: N815 - http.server's names

    def get(
        self, match: re.Match[str], kind: str, key: tuple[str, str, str], query: dict[str, str], body: bytes
    ) -> None:
        cluster = self.cluster
        if match["sub"] == "log":
            text = cluster.log(key[2], query.get("previous") == "true")
            if text is None:
                return self.refuse(400, "BadRequest", f"previous terminated container in pod {key[2]!r} not found")
            lines = text.splitlines(keepends=True)
            return self.answer(200, "".join(lines[-int(query.get("tailLines", len(lines) + 1)) :]))
        things = [thing for place, thing in cluster.objects.items() if place[0] == key[0] and place[1] == key[1]]
        things += {"Pod": cluster.pods, "Event": lambda: cluster.events}.get(kind, list)()
        things = [cluster.with_status(one) for one in things]
        if key[2]:
            named = [thing for thing in things if thing["metadata"]["name"] == key[2]]
            if not named:
                return self.refuse(404, "NotFound", f'{key[0]} "{key[2]}" not found')
            return self.answer(200, named[0])
        listed = [thing for thing in things if _matches(thing, query)]
        return self.answer(
            200, {"kind": f"{kind}List", "apiVersion": match["version"], "metadata": {}, "items": listed}
        )

    def patch(
        self, match: re.Match[str], kind: str, key: tuple[str, str, str], query: dict[str, str], body: bytes
    ) -> None:
        if self.headers["Content-Type"] == "application/strategic-merge-patch+json":  # kubectl rollout restart
            assert key in self.cluster.objects
            self.cluster.restarted.append(key[2])
            return self.answer(200, self.cluster.objects[key])
        assert self.headers["Content-Type"] == "application/apply-patch+yaml", "not a server-side apply"
        assert query["fieldManager"] and (query.get("fieldValidation") == "Strict" or "dryRun" in query)
        if self.cluster.conflict and query.get("force") != "true":
            words = f'Apply failed with 1 conflict: conflict with "{self.cluster.conflict}": .spec.replicas'
            return self.refuse(409, "Conflict", words)
        value: Object = json.loads(body)
        if (place := key[1]) and place not in self.cluster.names("namespaces") | {"kubeflow", "anna"}:
            return self.refuse(404, "NotFound", f'namespaces "{place}" not found')
        value["metadata"]["uid"] = "u"
        if "dryRun" not in query:
            self.cluster.objects[key] = value
        return self.answer(200, self.cluster.with_status(value))

    def delete(
        self, match: re.Match[str], kind: str, key: tuple[str, str, str], query: dict[str, str], body: bytes
    ) -> None:
        if key[2] and key not in self.cluster.objects:
            return self.refuse(404, "NotFound", f'{key[0]} "{key[2]}" not found')
        for place in list(self.cluster.objects):
            below = key[0] == "namespaces" and place[1] == key[2]
            if (
                below
                or place == key
                or (not key[2] and place[:2] == key[:2] and _matches(self.cluster.objects[place], query))
            ):
                del self.cluster.objects[place]
        return self.answer(
            200, {"kind": "Status", "apiVersion": "v1", "status": "Success", "details": {"name": key[2], "uid": "u"}}
        )


@contextmanager
def running() -> Iterator[Cluster]:
    """The stand-in, while the block runs."""
    cluster = Cluster()
    with http_server(type("Handler", (_Handler,), {"cluster": cluster})) as cluster.address:
        yield cluster

"""Fixtures of the deployment's tests: rendered manifests and ways to query them."""

from __future__ import annotations

import base64
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.cluster import Cluster
from support.places import ROOT

BIN = Path(sys.executable).parent
OVERLAYS = tuple(sorted(path.parent.name for path in ROOT.glob("k8s/overlays/*/kustomization.yaml")))
Document = dict[str, Any]


def binary(name: str) -> Path:
    """A program of the environment that runs the tests; the test is skipped where it is not installed."""
    if not (BIN / name).is_file():
        pytest.skip(f"{BIN / name} is not installed (extra `dev`)")
    return BIN / name


def clean_environment(**more: str) -> dict[str, str]:
    """An environment without a cluster and without the developer's own settings."""
    kept = {name: value for name, value in os.environ.items() if name in ("HOME", "LANG", "TMPDIR")}
    return kept | {"PATH": f"{BIN}:/usr/bin:/bin", "KUBECONFIG": "/nonexistent"} | more


class Manifests:
    """The documents of one rendered overlay.

    Attributes:
        store: Name and port of its object store; None for one that lies elsewhere.
    """

    def __init__(self, documents: list[Document], overlay: str = "") -> None:
        self.documents, self.overlay = documents, overlay
        self.store = {"seaweedfs": ("seaweedfs", 8333), "external-s3": None}.get(overlay, ("minio", 9000))

    def of(self, kind: str) -> list[Document]:
        return [document for document in self.documents if document["kind"] == kind]

    def named(self, kind: str, name: str) -> Document:
        """The one document of that kind and name, without the digest of a generated name."""
        found = [
            document
            for document in self.of(kind)
            if re.fullmatch(re.escape(name) + r"(-[a-z0-9]{10})?", document["metadata"]["name"])
        ]
        assert len(found) == 1, f"{kind}/{name}: {len(found)} found"
        return found[0]

    def pods(self) -> Iterator[tuple[str, Document]]:
        """Name and pod template of every workload."""
        for document in self.documents:
            template = document.get("spec", {}).get("template")
            if template is not None:
                yield f"{document['kind']}/{document['metadata']['name']}", template

    def containers(self) -> Iterator[tuple[str, Document, Document]]:
        """Name, container and pod spec of every container, init containers included."""
        for name, template in self.pods():
            spec = template["spec"]
            for container in [*spec.get("initContainers", []), *spec["containers"]]:
                yield f"{name}/{container['name']}", container, spec

    def container(self, kind: str, name: str) -> Document:
        container: Document = self.named(kind, name)["spec"]["template"]["spec"]["containers"][0]
        return container

    def data(self, kind: str, name: str) -> dict[str, str]:
        """The decoded content of a ConfigMap or Secret, by its full name or its name without the digest."""
        document = self.named(kind, name)
        data: dict[str, str] = document.get("data", {})
        return {key: base64.b64decode(value).decode() for key, value in data.items()} if kind == "Secret" else data

    def environment(self, container: Document) -> dict[str, str]:
        """The environment as the kubelet would make it: references resolved, `$(NAME)` expanded in order."""
        values: dict[str, str] = {}
        for source in container.get("envFrom", []):
            values |= self.data("ConfigMap", source["configMapRef"]["name"])
        for entry in container.get("env", []):
            if "value" in entry:
                value = re.sub(r"\$\((\w+)\)", lambda match: values.get(match[1], match[0]), entry["value"])
            else:
                [(kind, reference)] = entry["valueFrom"].items()
                kind = {"secretKeyRef": "Secret", "configMapKeyRef": "ConfigMap"}[kind]
                value = self.data(kind, reference["name"])[reference["key"]]
            values[entry["name"]] = value
        return values


def _render(overlay: str) -> Manifests:
    binary("kubectl")
    command = [str(ROOT / "k8s" / "deploy.sh"), "--render", overlay]
    done = subprocess.run(command, env=clean_environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return Manifests([document for document in yaml.safe_load_all(done.stdout) if document], overlay)


@pytest.fixture(scope="session")
def rendered() -> Callable[[str], Manifests]:
    """`rendered("local")`: an overlay's documents, each rendered once per session."""
    made: dict[str, Manifests] = {}

    def render(overlay: str) -> Manifests:
        if overlay not in made:
            made[overlay] = _render(overlay)
        return made[overlay]

    return render


@pytest.fixture(params=OVERLAYS)
def manifests(request: pytest.FixtureRequest, rendered: Callable[[str], Manifests]) -> Manifests:
    return rendered(request.param)


@pytest.fixture
def find_binary() -> Callable[[str], Path]:
    return binary


@pytest.fixture
def root() -> Path:
    return ROOT


@pytest.fixture
def environment() -> Callable[..., dict[str, str]]:
    return clean_environment


# `kubectl port-forward` and `exec` speak protocols of their own with the API server; everything else goes to the real kubectl.
KUBECTL = """#!{python}
import os, re, socket, sys, threading
if "exec" in sys.argv:  # what `eolgul gallery reseal` prints: at first it has something to do
    first = not os.path.exists(os.environ["HOME"] + "/resealed")
    open(os.environ["HOME"] + "/resealed", "a").write(" ".join(sys.argv[sys.argv.index("exec"):]) + chr(10))
    sys.exit(os.environ.get("RESEAL_FAILS") or print('{{"active": "k", "resealed": %d, "tenants": {{}}}}' % (7 if first else 0)))
if "port-forward" not in sys.argv:
    os.execv("{kubectl}", ["{kubectl}", *sys.argv[1:]])
service = next(word.partition("/")[2] for word in sys.argv if word.startswith("service/"))
address = os.environ.get("FORWARD_" + service.upper()) or os.environ.get("FORWARD_TO", "")
if not address:
    sys.exit("error: unable to forward port because pod is not running. Current status=Pending")
host, port = address.rsplit(":", 1)
listening = socket.create_server(("127.0.0.1", 0))
print("Forwarding from 127.0.0.1:%d -> 3000" % listening.getsockname()[1], flush=True)
def copy(source, sink):
    while data := source.recv(65536):
        sink.sendall(data)
    sink.shutdown(socket.SHUT_WR)
while True:
    near, _ = listening.accept()
    far = socket.create_connection((host, int(port)))
    for pair in ((near, far), (far, near)):
        threading.Thread(target=copy, args=pair, daemon=True).start()
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of k8s/ without anybody's secrets."""
    theirs = shutil.ignore_patterns("secrets.env", "api-keys.json", "encryption-keys", "api-key")
    shutil.copytree(ROOT / "k8s", tmp_path / "k8s", ignore=theirs)
    return tmp_path


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """A folder with kubectl, whose port-forward leads to FORWARD_TO or FORWARD_<SERVICE>, and eolgul."""
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "kubectl").write_text(KUBECTL.format(python=sys.executable, kubectl=binary("kubectl")))
    (tools / "eolgul").write_text(f'#!/bin/sh\nPYTHONPATH={ROOT / "src"} exec {sys.executable} -m eolgul "$@"\n')
    for tool in tools.iterdir():
        tool.chmod(0o755)
    return tools


@pytest.fixture
def run_deploy(tmp_path: Path, tools: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`run_deploy(checkout, cluster, *arguments, **environment)`: deploy.sh of a copy, without a question."""

    def run(checkout: Path, cluster: Cluster, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        config = cluster.kubeconfig(tmp_path / "kubeconfig")
        given = {
            "YES": "1",
            "TIMEOUT": "20",
            "KUBECONFIG": str(config),
            "HOME": str(tmp_path),
            "PATH": f"{tools}:/usr/bin:/bin",
        }
        return subprocess.run(
            [checkout / "k8s" / "deploy.sh", *arguments], env=clean_environment() | given | more,
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip

    return run


@pytest.fixture
def run_shell(tmp_path: Path) -> Callable[[Cluster, str], str]:
    """`run_shell(cluster, code)`: what bash prints for code that uses the functions of k8s/lib, as deploy.sh runs them."""

    def run(cluster: Cluster, code: str) -> str:
        config = cluster.kubeconfig(tmp_path / "kubeconfig")
        begin = f"set -euo pipefail; kubectl={binary('kubectl')}; namespace=eolgul; scratch={tmp_path}; "
        environment = clean_environment(KUBECONFIG=str(config), HOME=str(tmp_path))
        done = subprocess.run(
            ["bash", "-c", begin + code], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
        )
        return done.stdout

    return run

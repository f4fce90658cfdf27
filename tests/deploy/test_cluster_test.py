"""The acceptance test of a cluster: without one it is skipped, and it touches nothing that it was not told to."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import cluster as stand_in
from support.cluster import Cluster

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with stand_in.running() as cluster:
        yield cluster


@pytest.fixture
def run(checkout: Path, tools: Path, environment: Callable[..., dict[str, str]], tmp_path: Path) -> Run:
    registry = tmp_path / "registry"
    registry.mkdir()
    (registry / "production.json").write_text("{}")
    photos = [tmp_path / name for name in ("a.jpg", "b.jpg")]
    for photo in photos:
        photo.write_bytes(b"x")
    given = {"REGISTRY": str(registry), "PHOTOS": " ".join(map(str, photos)), "HOME": str(tmp_path)}

    def run(config: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        calls = environment() | given | {"PATH": f"{tools}:/usr/bin:/bin", "KUBECONFIG": str(config)} | more
        return subprocess.run(
            [checkout / "k8s" / "cluster-test.sh", *arguments], env=calls, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip

    return run


def test_without_a_cluster_it_is_skipped(run: Run, cluster: Cluster, tmp_path: Path) -> None:
    done = run(tmp_path / "nothing")
    assert (done.returncode, done.stdout) == (0, "cluster-test: skipped: kubectl has no current context\n")
    cluster.address = "http://127.0.0.1:1"
    done = run(cluster.kubeconfig(tmp_path / "gone"))
    assert done.returncode == 0 and "skipped: the cluster of the context 'my-cluster' does not answer" in done.stdout


def test_a_namespace_that_exists_is_asked_about(run: Run, cluster: Cluster, tmp_path: Path) -> None:
    cluster.objects["namespaces", "", "eolgul"] = {
        "kind": "Namespace",
        "apiVersion": "v1",
        "metadata": {"name": "eolgul"},
    }
    done = run(cluster.kubeconfig(tmp_path / "config"), YES="1")
    assert done.returncode == 1 and "DELETES it with every volume" in done.stdout, done.stdout + done.stderr
    assert "no terminal to ask" in done.stderr and cluster.changes == []


@pytest.mark.parametrize(
    ("missing", "words"), [({"REGISTRY": "/nowhere"}, "REGISTRY="), ({"PHOTOS": "/nowhere.jpg"}, "two photos")]
)
def test_what_it_needs_is_said_first(
    run: Run, cluster: Cluster, tmp_path: Path, missing: dict[str, str], words: str
) -> None:
    done = run(cluster.kubeconfig(tmp_path / "config"), **missing)
    assert done.returncode == 2 and words in done.stderr and cluster.changes == []


@pytest.mark.parametrize(("overlay", "words"), [("kubeflow", "only overlays of the service"), ("x", "no such overlay")])
def test_an_overlay_that_is_none_is_refused(
    run: Run, cluster: Cluster, tmp_path: Path, overlay: str, words: str
) -> None:
    done = run(cluster.kubeconfig(tmp_path / "config"), overlay)
    assert done.returncode == 2 and words in done.stderr and cluster.changes == []


def test_it_begins_with_a_deploy_of_its_own_secrets(run: Run, cluster: Cluster, checkout: Path, tmp_path: Path) -> None:
    """The stand-in runs no service, so it ends at the first question; until then it has used nobody's secrets."""
    done = run(cluster.kubeconfig(tmp_path / "config"))
    assert done.returncode == 1 and "== 2. an empty cluster" in done.stdout, done.stdout + done.stderr
    assert "serving" in cluster.names("deployments")
    assert not list((checkout / "k8s").rglob("secrets.env"))

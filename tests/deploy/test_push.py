"""`make push` with stand-ins for the engines: what is pushed is written down by digest, and only when all of it is there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.places import ROOT

from eolgul.pipelines.images import STEPS, resolve_images

ENGINE = """#!{python}
import sys
kind, words = {kind!r}, sys.argv[1:]
digest = lambda image: "sha256:" + image.encode().hex().ljust(64, "0")[-64:]
if words[0] == "push" and "--help" in words:
    print("--digestfile" if kind == "podman" else "Push an image")
elif words[0] == "push":
    image = words[-1]
    if "evaluate" in image and kind == "failing":
        print("denied: requested access to the resource is denied", file=sys.stderr)
        sys.exit(1)
    if kind == "podman":
        open(words[words.index("--digestfile") + 1], "w").write(digest(image))
    print("Pushed")
    if kind in ("docker", "failing"):
        print(f"1.0: digest: {{digest(image)}} size: 1234")
elif words[:2] == ["image", "inspect"] and kind == "old":
    name = words[-1].rpartition(":")[0]
    print(f"other.example/x@sha256:{{'0' * 64}}")
    print(f"{{name}}@{{digest(words[-1])}}")
"""


def push(
    tmp_path: Path, kind: str, prefix: str | None = "registry.example:5000/eolgul"
) -> subprocess.CompletedProcess[str]:
    engine = tmp_path / "engine"
    engine.write_text(ENGINE.format(python=sys.executable, kind=kind))
    engine.chmod(0o755)
    images = [f"{prefix}/{step}:1.0" if prefix else f"{step}:1.0" for step in (*STEPS, "serving")]
    return subprocess.run(
        [sys.executable, "-I", str(ROOT / "docker" / "push.py"), "--out", str(tmp_path / "digests.json"), *images],
        env={**os.environ, "CONTAINER_TOOL": str(engine)}, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["docker", "podman", "old"])
def test_the_pipeline_takes_what_was_pushed(kind: str, tmp_path: Path) -> None:
    done = push(tmp_path, kind)
    assert done.returncode == 0, done.stderr
    written = json.loads((tmp_path / "digests.json").read_text())
    assert set(written) == {*STEPS, "serving"}
    images = resolve_images({"EOLGUL_IMAGES": str(tmp_path / "digests.json")})
    image = "registry.example:5000/eolgul/train:1.0"
    assert images["train"] == f"registry.example:5000/eolgul/train@sha256:{image.encode().hex().ljust(64, '0')[-64:]}"


def test_when_one_is_refused_nothing_is_written_down(tmp_path: Path) -> None:
    (tmp_path / "digests.json").write_text("before")
    done = push(tmp_path, "failing")
    assert done.returncode == 1 and "evaluate:1.0: `" in done.stderr.splitlines()[-1]
    assert (tmp_path / "digests.json").read_text() == "before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["digests.json", "engine"]


def test_a_digest_that_nobody_says_is_an_error(tmp_path: Path) -> None:
    done = push(tmp_path, "silent")
    assert done.returncode == 1 and "does not say under which digest" in done.stderr


@pytest.mark.parametrize("prefix", [None, "eolgul"])
def test_nobody_pushes_to_docker_hub_by_accident(tmp_path: Path, prefix: str | None) -> None:
    done = push(tmp_path, "docker", prefix)
    assert done.returncode == 2 and "names no registry; set IMAGE_PREFIX=" in done.stderr
    assert not (tmp_path / "digests.json").exists()


def test_make_push_names_every_image(tmp_path: Path) -> None:
    done = subprocess.run(
        ["make", "-n", "push", "IMAGE_PREFIX=registry.example/eolgul", "IMAGE_TAG=1.0"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    for file in (ROOT / "docker").glob("*.Dockerfile"):
        assert f"registry.example/eolgul/{file.stem}:1.0" in done.stdout

"""The built images, run as a cluster runs them: a step with the compiled pipeline's own command, and the service over HTTP."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import httpx
import pytest
from packaging.utils import canonicalize_name
from support import tiny_package
from support.compiled import containers, documents
from support.components import told_of
from support.containers import Engine, Image
from support.evaluation import face
from support.places import ROOT, TESTS
from support.runs import write_raw
from support.serving import People, RedisServer, Service, free_port

from eolgul import storage
from eolgul.components.extract.component import extract
from eolgul.faces.networks import export_onnx
from eolgul.formats.insightface import write_rec
from eolgul.formats.synthetic import mark_of
from eolgul.serving.access.keys import SCOPES, new_key
from eolgul.serving.keyring import add_key

USERS = {"its own user": 10001, "a user of OpenShift's": 1000660000}
STEPS = ("extract", "align", "assemble", "train", "evaluate", "promote")
# Decimal megabytes of all layers, the base image's among them; train holds torch.
LIMITS = {"serving": 550, **{name: 900 for name in STEPS if name != "train"}}
FindImage = Callable[[str], Image]


def s3_variables() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith("EOLGUL_S3_") and "CACHE" not in name}


@contextmanager
def serving(
    engine: Engine, image: Image, user: int, folder: Path, log: IO[bytes], **settings: str
) -> Iterator[tuple[Service, str]]:
    """The service in a container, with keys of its own; waits until it is ready."""
    secrets = folder / "secrets"
    secrets.mkdir(exist_ok=True)
    for old in secrets.iterdir():
        old.unlink()
    key, _ = new_key(secrets / "api-keys.json", tenant="test", scopes=SCOPES)
    add_key(secrets / "encryption-keys")
    for file in secrets.iterdir():
        file.chmod(0o444)
    port = free_port()
    environment = {
        "EOLGUL_API_KEYS_FILE": "/secrets/api-keys.json",
        "EOLGUL_ENCRYPTION_KEYS_FILE": "/secrets/encryption-keys",
        **settings,
    }
    mounts = {secrets: "/secrets", folder / "shared": "/shared"}
    (folder / "shared").mkdir(exist_ok=True)
    command = ["--host", "127.0.0.1", "--port", str(port)]
    with (
        engine.run(
            image, command, user=user, environment=environment, writable=["/var/cache"], mounts=mounts, entrypoint=True,
            stdout=log, stderr=log,
        ) as process,
        httpx.Client(
            base_url=f"http://127.0.0.1:{port}", timeout=30, headers={"authorization": f"Bearer {key}"}
        ) as client,
    ):  # fmt: skip
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and process.poll() is None:
            try:
                if client.get("/readyz").status_code == 200:
                    break
            except httpx.TransportError:
                pass
            time.sleep(0.3)
        else:
            pytest.fail(f"the service ended or was not ready: {Path(log.name).read_text()[-3000:]}")
        yield Service(client), key


def check_service(service: Service, people: People) -> None:
    """Two images of a person and one of another; the second time the embeddings come from Redis."""
    answer = service.verify(people.a1, people.b1)
    assert answer.status_code == 200, answer.text
    assert -1 <= answer.json()["similarity"] <= 1
    before = service.metric("eolgul_cache_total", outcome="hit")
    again = service.verify(people.a1, people.b1)
    assert again.json()["similarity"] == answer.json()["similarity"]
    assert service.metric("eolgul_cache_total", outcome="hit") > before, "Redis was not asked"
    assert httpx.post(f"{service.client.base_url}/v1/verify", timeout=30).status_code == 401


@pytest.mark.parametrize("name", [*STEPS, "serving"])
def test_size_and_what_is_left_over(engine: Engine, image: FindImage, name: str) -> None:
    found = image(name)
    if name in LIMITS:
        assert found.bytes <= LIMITS[name] * 1e6, f"{found.bytes / 1e6:.0f} MB"
    labels = found.config["Labels"]
    assert labels["org.opencontainers.image.title"] == f"eolgul/{name}"
    assert re.fullmatch(r"[0-9a-f]{40}", labels["org.opencontainers.image.revision"])
    assert found.config["User"] == "10001"
    script = """
        find /opt /tmp -mindepth 1 -maxdepth 1 ! -empty
        ls -d /usr/local/lib/python3*/site-packages/* /opt/*/lib/python3*/site-packages/pip 2>/dev/null
        find / -xdev -perm -4000 -path '/opt/*'
        find / -xdev -user 10001 ! -path '/home/*' ! -path '/var/cache/*'
    """
    with engine.run(
        found, ["sh", "-c", script], user=10001, environment={}, stdout=subprocess.PIPE, text=True
    ) as process:
        said = set(process.communicate()[0].split())
    assert said <= {"/opt/venv", "/opt/detector", "/opt/mxnet"}, said


@pytest.mark.parametrize("name", [*STEPS, "serving"])
def test_what_it_holds_is_written_down_and_pinned(engine: Engine, image: FindImage, name: str) -> None:
    with engine.run(
        image(name), ["cat", "/opt/venv/sbom.cdx.json"], user=10001, environment={}, stdout=subprocess.PIPE
    ) as process:
        components = json.loads(process.communicate()[0])["components"]
    lines = [
        line for file in ("constraints.txt", "requirements-nodeps.txt") for line in (ROOT / file).read_text().split()
    ]
    pinned = {canonicalize_name(line.partition("==")[0]): line.partition("==")[2] for line in lines if "==" in line}
    python = {
        canonicalize_name(one["name"]): one["version"] for one in components if "pkg:deb" not in one.get("purl", "")
    }
    debian = [one["name"] for one in components if one.get("purl", "").startswith("pkg:deb/debian/")]
    assert {"eolgul", "numpy"} <= python.keys() and "libc6" in debian
    others = {name: version for name, version in python.items() if name != "eolgul"}
    assert {name: version for name, version in others.items() if pinned.get(name) != version} == {}


@pytest.mark.parametrize("user", USERS.values(), ids=USERS)
def test_a_step_with_the_compiled_command(engine: Engine, image: FindImage, s3: str, user: int, tmp_path: Path) -> None:
    found = image("extract")
    place, out = f"{s3}/containers/{user}", tmp_path / "outputs"
    write_rec(tmp_path / "faces", [(person, face(person, number, 45)) for person in range(6) for number in range(2)])
    mark_of(tmp_path / "faces").write_text('{"synthetic": true}')
    for file in (tmp_path / "faces").iterdir():
        storage.write_bytes(f"{place}/raw/faces/{file.name}", file.read_bytes())
    for reader in ("own", "mxnet"):
        folder = out / reader
        told, _, _ = told_of(
            extract, folder, sources=[f"{place}/raw/faces"], benchmarks=[], workspace=f"{place}/{reader}", run="here",
            reader=reader, workers=1,
        )  # fmt: skip
        folder.chmod(0o777)
        step = containers(documents("face-recognition")[0])["exec-extract"]
        variables = {item["name"]: item["value"] for item in step["env"]}
        command = [*step["command"], *(word.replace("{{$}}", json.dumps(told)) for word in step["args"])]
        with engine.run(
            found, command, user=user, environment=variables | s3_variables(), writable=["/scratch"],
            mounts={out: str(out)}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        ) as process:  # fmt: skip
            said = process.communicate()[0]
        assert process.returncode == 0, said[-3000:]
        written = json.loads((folder / "executor_output.json").read_text())
        assert written["artifacts"]["extract_counts"]["artifacts"][0]["metadata"]["images"] == 12.0
    own, mxnet = (storage.list_names(f"{place}/{reader}/artifacts/extract") for reader in ("own", "mxnet"))
    assert len(own) == len(mxnet) == 1


@pytest.mark.parametrize("user", USERS.values(), ids=USERS)
def test_the_service(
    engine: Engine, image: FindImage, redis_server: RedisServer, people: People, user: int, tmp_path: Path
) -> None:
    found = image("serving")
    export_onnx(tmp_path / "detector")
    (tmp_path / "shared").mkdir()
    tiny_package.write(tmp_path / "shared" / "model", tmp_path / "detector", seed=0, region=tiny_package.REGION)
    with (
        (tmp_path / "log").open("wb") as log,
        serving(
            engine, found, user, tmp_path, log, EOLGUL_MODEL="/shared/model", EOLGUL_REDIS_URL=redis_server.url
        ) as (running, _),
    ):
        check_service(running, people)
        assert "localhost" not in (tmp_path / "log").read_text()


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("EOLGUL_IMAGES_TEST"), reason="takes minutes: make images-test")
@pytest.mark.parametrize("user", USERS.values(), ids=USERS)
def test_the_whole_pipeline_and_then_the_service(
    engine: Engine, image: FindImage, s3: str, redis_server: RedisServer, people: People, user: int, tmp_path: Path
) -> None:
    """Every task of face-recognition in its own image; the model that it promotes is served from the same store."""
    images = {name: image(name) for name in (*STEPS, "serving")}
    place, root = f"{s3}/containers-whole/{user}", tmp_path / "run"
    root.mkdir()
    raw = write_raw(tmp_path / "raw", f"{place}/raw")
    parameters = raw.parameters(f"{place}/w", f"{place}/registry")
    recipes = [root / recipe.name for recipe in (raw.weak, raw.strong)]  # as files of a volume
    for recipe in recipes:
        recipe.write_bytes((tmp_path / "raw" / recipe.name).read_bytes())
    parameters |= {"train_recipes": list(map(str, recipes)), "align_parts": 2}
    prefix, _, tag = images["extract"].name.rpartition("/extract:")
    given = {"user": user, "root": str(root), "parameters": parameters}
    done = subprocess.run(
        [sys.executable, str(TESTS / "containers" / "run_pipeline.py"), json.dumps(given)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), str(ROOT / "src")]), "ENGINE": engine.name,
             "EOLGUL_IMAGE_PREFIX": prefix, "EOLGUL_IMAGE_TAG": tag},
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    transcript = (root / "transcript.tsv").read_text() if (root / "transcript.tsv").exists() else ""
    if kept := os.environ.get("EOLGUL_IMAGES_TRANSCRIPT"):
        with Path(kept).open("a") as file:
            file.write(transcript)
    assert done.returncode == 0, f"{transcript}\n{done.stderr[-6000:]}"
    ran = {line.split("\t")[1].rpartition("/")[2].partition(":")[0] for line in transcript.splitlines()}
    assert ran == set(STEPS)
    settings = {**s3_variables(), "EOLGUL_REGISTRY": f"{place}/registry", "EOLGUL_REDIS_URL": redis_server.url}
    with (
        (tmp_path / "log").open("wb") as log,
        serving(engine, images["serving"], user, tmp_path, log, **settings) as (running, _),
    ):
        check_service(running, people)

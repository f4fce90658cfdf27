"""An assembled dataset in S3 that refers to the objects of its parents: no image passes through the machine that makes it."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.datasets import make_dataset

from eolgul import steps, storage
from eolgul.artifact import open_artifact
from eolgul.assemble.config import AssembleConfig
from eolgul.dataset import SHARDS, FaceDataset
from eolgul.errors import InputError
from eolgul.images.decode import encode_png
from eolgul.storage.references import REFERENCES, read_references
from eolgul.storage.s3 import connect, list_objects_below, settings, split

_numbers = itertools.count()


def parent(out: Path, number: int) -> Path:
    random = np.random.default_rng(number)
    with make_dataset(out, step="test", recipe={}, inputs=[], synthetic=False, shard_bytes=20_000) as made:
        for person in range(30):
            for image in range(3):
                data = encode_png(random.integers(0, 255, (4, 4, 3), np.uint8))
                made.add(f"{person}/{image}", str(person), data, extension="png", size=(4, 4), source=out.name)
        made.describe(name=out.name, aligned="arcface-112-v1")
    return out


@pytest.fixture
def place(s3: str, tmp_path: Path) -> str:
    """A prefix with two aligned datasets, `one` and `two`; the cache is empty."""
    above = f"{s3}/references-{next(_numbers)}"
    for number, name in enumerate(("one", "two")):
        storage.publish(parent(tmp_path / name, number), f"{above}/{name}")
    shutil.rmtree(settings().cache, ignore_errors=True)
    return above


def put(uri: str, data: bytes) -> None:
    storage.write_bytes(uri, data)


def assemble(place: str, **options: Any) -> str:
    facts = steps.assemble([f"{place}/one", f"{place}/two"], f"{place}/out", AssembleConfig(**options))
    return str(facts["digest"])


def names(uri: str) -> list[str]:
    _, key = split(uri)
    return sorted(item.object_name.removeprefix(f"{key}/") for item in list_objects_below(uri))


def test_the_objects_are_those_of_the_parents(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = assemble(place)
    assert names(f"{place}/out") == [REFERENCES, "dataset.json", "manifest.parquet", "rejected.parquet"]
    assert not list(settings().cache.rglob("*.tar"))  # nothing of the images came here
    local = FaceDataset(storage.fetch(f"{place}/out"), check="sha256")
    assert local.artifact.digest == digest
    parents = [FaceDataset(tmp_path / name) for name in ("one", "two")]
    assert [local.read(row) for row in range(180)] == [one.read(row) for one in parents for row in range(90)]
    shard = local.path / SHARDS / "00000.tar"
    assert shard.samefile(storage.fetch(f"{place}/one") / SHARDS / "00000.tar")  # once on the disk
    stamps = {file: file.stat().st_mtime_ns for file in sorted(settings().cache.rglob("*.tar"))}
    with monkeypatch.context() as patch:
        patch.setattr("minio.Minio.fget_object", None)  # nothing is fetched again, of whichever of them
        for name in ("out", "one", "two", "out"):
            storage.fetch(f"{place}/{name}")
        assert assemble(place) == digest
    assert {file: file.stat().st_mtime_ns for file in stamps} == stamps


def test_a_parent_that_goes_or_changes_is_said(place: str, tmp_path: Path) -> None:
    assemble(place)
    found = read_references(f"{place}/out")["shards/00001.tar"]
    with connect(found.uri) as client:
        data = client.get_object(bucket_name=found.bucket, object_name=found.key).read()
        client.remove_object(bucket_name=found.bucket, object_name=found.key)
    with pytest.raises(
        InputError, match=rf"out/shards/00001.tar: is the object {found.uri}, which is gone; make .*--copy"
    ):
        storage.fetch(f"{place}/out")
    put(found.uri, data[:-1] + b"x")
    with pytest.raises(InputError, match=rf"out/shards/00001.tar: is the object {found.uri}, which has changed since"):
        storage.fetch(f"{place}/out")
    put(found.uri, data)  # the same bytes have the same ETag
    open_artifact(storage.fetch(f"{place}/out"), check="sha256")


def test_a_parent_without_its_objects_is_refused(place: str) -> None:
    with connect(place) as client:
        bucket, key = split(f"{place}/two/shards/00002.tar")
        client.remove_object(bucket_name=bucket, object_name=key)
    with pytest.raises(InputError, match=r"shards/.*tar is neither on this machine nor an object of .*two"):
        assemble(place)
    assert "dataset.json" not in names(f"{place}/out")


def test_a_copy_has_its_own_objects(place: str) -> None:
    """And takes the place of a result by reference, and the other way round."""
    by_reference = assemble(place)
    copy = assemble(place, copy=True)
    assert copy != by_reference and "shards/00000.tar" in names(f"{place}/out")
    assert REFERENCES not in names(f"{place}/out")
    assert FaceDataset(storage.fetch(f"{place}/out"), check="sha256").artifact.digest == copy
    assert assemble(place) == by_reference
    assert names(f"{place}/out") == [REFERENCES, "dataset.json", "manifest.parquet", "rejected.parquet"]
    assert FaceDataset(storage.fetch(f"{place}/out"), check="sha256").artifact.digest == by_reference


def test_parents_here_and_there(place: str, tmp_path: Path) -> None:
    facts = steps.assemble([f"{place}/one", str(tmp_path / "two")], f"{place}/out")
    own = [name for name in names(f"{place}/out") if name.startswith("shards/")]
    assert len(own) == len(list((tmp_path / "two" / SHARDS).iterdir()))
    shutil.rmtree(settings().cache)
    assert FaceDataset(storage.fetch(f"{place}/out"), check="sha256").artifact.digest == facts["digest"]
    local = steps.assemble([f"{place}/one", str(tmp_path / "two")], str(tmp_path / "here"))
    assert local["digest"] == facts["digest"]
    assert FaceDataset(tmp_path / "here").read(0) == FaceDataset(tmp_path / "one").read(0)


def test_a_broken_list_is_said(place: str) -> None:
    for text in (
        b"{",
        b'{"format": 2, "files": {}}',
        b'{"format": 1, "files": {"../x": {}}}',
        b'{"format": 1, "files": []}',
    ):
        put(f"{place}/one/{REFERENCES}", text)
        with pytest.raises(InputError, match=r"\.references\.json: expected a list of references, format 1"):
            storage.fetch(f"{place}/one")

"""Finished parts of a data set outlive the machine that made them: another one goes on from them."""

from __future__ import annotations

import itertools
import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from support.datasets import make_dataset
from support.pictures import picture

from eolgul import storage
from eolgul.align.config import AlignConfig
from eolgul.artifact import open_artifact
from eolgul.dataset import build
from eolgul.extract.config import ExtractConfig
from eolgul.steps import data, parts, tasks
from eolgul.steps.places import reference
from eolgul.steps.store import Store
from eolgul.storage.s3 import settings

_numbers = itertools.count()


class KilledError(BaseException):
    """What a test kills a step with: not an Exception, so that nobody tidies up."""


@pytest.fixture
def killed_after(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Let the process die when so many shards were begun; a list of the numbers of all that were begun."""
    begun: list[int] = []
    real = build.DatasetBuild.shard

    def limit(count: int | None) -> list[int]:
        begun.clear()

        def shard(self: build.DatasetBuild, number: int, source: str) -> build.ShardWriter:
            if count is not None and len(begun) == count:
                raise KilledError
            begun.append(number)
            return real(self, number, source)

        monkeypatch.setattr(build.DatasetBuild, "shard", shard)
        return begun

    return limit


def lose_the_machine() -> None:
    """Everything that the pod had on its disk."""
    shutil.rmtree(settings().cache, ignore_errors=True)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for person in range(8):
        for number in range(3):
            file = tmp_path / "photos" / f"p{person}" / f"{number}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(picture(person * 3 + number))
    return tmp_path / "photos"


def test_an_extraction_goes_on_on_another_machine(s3: str, photos: Path, killed_after: Any) -> None:
    place = f"{s3}/parts-{next(_numbers)}"
    storage.publish(photos, f"{place}/raw")
    config = ExtractConfig(name="photos", shard_bytes=10_000, workers=1)

    def run(store: Store) -> Any:
        return tasks._extract(store, tasks.Extraction(f"{place}/raw", config))

    killed_after(3)
    with pytest.raises(KilledError):
        run(Store(f"{place}/w", "first"))
    lose_the_machine()
    assert storage.list_names(f"{place}/w/parts")
    begun = killed_after(None)
    made = run(Store(f"{place}/w", "second"))
    assert begun and not {0, 1} & set(begun), begun  # those were whole
    assert not storage.exists(f"{place}/w/parts") and not storage.exists(f"{place}/w/making")
    whole = Path(settings().cache) / "whole"
    assert data.extract(f"{place}/raw", str(whole), config)["digest"] == made["digest"]


def test_parts_stay_until_what_was_made_of_them_is_published(
    s3: str, photos: Path, killed_after: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = f"{s3}/parts-{next(_numbers)}"
    storage.publish(photos, f"{place}/raw")
    config = ExtractConfig(name="photos", shard_bytes=10_000, workers=1)
    monkeypatch.setattr(parts.kept.__wrapped__, "__defaults__", (0.01,))  # type: ignore[attr-defined]
    build_shard = killed_after(None)
    add = storage.add_artifact
    kept: list[int] = []

    def die(*_: Any, **__: Any) -> None:
        (key,) = storage.list_names(f"{place}/w/parts")
        kept.extend(int(name.removesuffix(".json")) for name in storage.list_names(f"{place}/w/parts/{key}/whole"))
        raise KilledError

    def slowly(self: Any, number: int, source: str) -> Any:
        time.sleep(0.1)  # so that the one before is kept
        return shard(self, number, source)

    shard = build.DatasetBuild.shard
    monkeypatch.setattr(build.DatasetBuild, "shard", slowly)
    monkeypatch.setattr(storage, "add_artifact", die)
    with pytest.raises(KilledError):
        tasks._extract(Store(f"{place}/w", "first"), tasks.Extraction(f"{place}/raw", config))
    assert len(kept) >= 2
    lose_the_machine()
    build_shard.clear()
    monkeypatch.setattr(storage, "add_artifact", add)
    tasks._extract(Store(f"{place}/w", "first"), tasks.Extraction(f"{place}/raw", config))
    assert not set(kept) & set(build_shard), (kept, build_shard)
    assert not storage.exists(f"{place}/w/parts")


def test_an_alignment_goes_on_on_another_machine(s3: str, tmp_path: Path, killed_after: Any) -> None:
    place = f"{s3}/parts-{next(_numbers)}"
    with make_dataset(tmp_path / "in", step="test", recipe={}, inputs=[], synthetic=True) as writer:
        writer.describe(name="small", identities_known=True, aligned=None)
        for number in range(24):
            writer.add(f"p{number}/0", f"p{number}", picture(number), extension="jpg", size=(112, 112), source="small")
    storage.publish(tmp_path / "in", f"{place}/in")
    given = reference(f"{place}/in", open_artifact(tmp_path / "in").digest)
    config = AlignConfig(part="1/1", part_rows=4, workers=1)
    killed_after(4)
    with pytest.raises(KilledError):
        tasks.align_part_of(Store(f"{place}/w", "first"), [given], config)
    lose_the_machine()
    begun = killed_after(None)
    (part,) = tasks.align_part_of(Store(f"{place}/w", "first"), [given], config)  # the same task, tried again
    assert begun == [4, 5], begun
    lose_the_machine()
    again = killed_after(None)
    assert tasks.align_part_of(Store(f"{place}/w", "other"), [given], config) == [part] and not again


def test_a_part_that_is_not_whole_in_the_store_is_made_again(s3: str, photos: Path, killed_after: Any) -> None:
    place = f"{s3}/parts-{next(_numbers)}"
    config = ExtractConfig(name="photos", shard_bytes=10_000, workers=1)
    storage.publish(photos, f"{place}/raw")
    killed_after(3)
    with pytest.raises(KilledError):
        tasks._extract(Store(f"{place}/w", "r"), tasks.Extraction(f"{place}/raw", config))
    lose_the_machine()
    (key,) = storage.list_names(f"{place}/w/parts")
    kept = f"{place}/w/parts/{key}"
    files = json.loads(storage.read_bytes(f"{kept}/whole/00000.json") or b"")["files"]
    storage.remove_object(f"{kept}/files/{files[0]}")  # gone
    shard = next(
        file for file in json.loads(storage.read_bytes(f"{kept}/whole/00001.json") or b"")["files"] if "tar" in file
    )
    storage.write_bytes(f"{kept}/files/{shard}", b"other bytes")  # damaged
    begun = killed_after(None)
    tasks._extract(Store(f"{place}/w", "r"), tasks.Extraction(f"{place}/raw", config))
    assert {0, 1} <= set(begun)

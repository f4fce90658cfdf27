"""Images of a dataset in S3 that are read where they lie: the same bytes, the same models, and no more than is needed."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import random
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.datasets import make_dataset

from eolgul import steps, storage
from eolgul.align.config import AlignConfig
from eolgul.assemble.config import AssembleConfig
from eolgul.dataset import SHARDS, FaceDataset
from eolgul.dataset.far import Cache, FarShards, cache_folder
from eolgul.errors import InputError
from eolgul.evaluate.config import EvaluateConfig
from eolgul.images.decode import encode_png
from eolgul.steps import tasks
from eolgul.steps.places import bring_tables
from eolgul.steps.store import Store
from eolgul.storage import far
from eolgul.storage.s3 import settings
from eolgul.train.config import TrainConfig

TINY = ("backbone=resnet_small", "embedding_size=16", "epochs=2", "batch_size=16", "learning_rate=0.01")


def no_cache(bucket: str = "tests") -> None:
    shutil.rmtree(settings().cache / bucket, ignore_errors=True)


def write_people(folder: Path, place: str, *, people: int, aligned: str | None) -> None:
    """Write six noisy pictures of each person's colour, here and in S3."""
    random_ = np.random.default_rng(0)
    with make_dataset(folder, step="test", recipe={}, inputs=[], synthetic=True) as writer:
        writer.describe(name="set", identities_known=True, aligned=aligned)
        for person in range(people):
            colour = random_.integers(40, 215, 3)
            for number in range(6):
                pixels = (colour + random_.integers(-40, 40, (112, 112, 3))).astype(np.uint8)
                data = encode_png(pixels)
                writer.add(f"{person}/{number}", f"p{person}", data, extension="png", size=(112, 112), source="set")
    storage.publish(folder, place)


def read_some(dataset: FaceDataset, rows: list[int]) -> list[bytes]:
    dataset.read_ahead(rows[::2])
    return [dataset.read(row) for row in rows]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory, s3: str) -> tuple[FaceDataset, str]:
    """Several shards of random bytes, here and in S3."""
    folder = tmp_path_factory.mktemp("shards") / "set"
    draw = random.Random(0)
    with make_dataset(folder, step="test", recipe={}, inputs=[], synthetic=True, shard_bytes=20_000) as writer:
        writer.describe(name="set", identities_known=True, aligned=None)
        for number in range(300):
            data = draw.randbytes(draw.choice([0, 1, 511, 512, 513, 3000]))
            writer.add(f"p/{number}", f"p{number % 9}", data, extension="png", size=(1, 1), source="set")
    storage.publish(folder, f"{s3}/shards/set")
    no_cache()
    return FaceDataset(folder), f"{s3}/shards/set"


@pytest.mark.parametrize("limit", [None, 0, 40_000, 10**9])
def test_equal_bytes_in_threads_and_processes(
    images: tuple[FaceDataset, str], limit: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local, place = images
    monkeypatch.setattr("eolgul.dataset.far._LOOK", 4096)
    cache = None if limit is None else Cache(tmp_path, limit)
    path, shards = bring_tables(place, cache)
    assert not (path / SHARDS).exists()
    dataset = FaceDataset(path, shards=shards)
    draw = random.Random(limit or 0)
    orders = [draw.choices(range(len(local)), k=120) for _ in range(6)]
    expected = [[local.read(row) for row in rows] for rows in orders]
    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(lambda rows: read_some(dataset, rows), orders)) == expected
    again = pickle.loads(pickle.dumps(FaceDataset(path, shards=shards)))
    assert read_some(again, orders[0]) == expected[0]
    with multiprocessing.get_context("fork").Pool(2) as processes:
        assert processes.starmap(read_some, [(dataset, rows) for rows in orders]) == expected
    if cache is not None:
        taken = (tmp_path / "data").stat().st_blocks * 512
        assert (taken > 0) == (limit != 0) and taken <= (limit or 0) + 8 * 4096 + 65536


def test_a_cache_that_holds_all_is_asked_only_once(
    images: tuple[FaceDataset, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local, place = images
    path, shards = bring_tables(place, Cache(tmp_path, 10**9))
    dataset = FaceDataset(path, shards=shards)
    whole = [local.read(row) for row in range(len(local))]
    assert [dataset.read(row) for row in range(len(local))] == whole
    monkeypatch.setattr(far.FarFile, "_get", lambda *_: pytest.fail("read from S3 again"))
    assert [dataset.read(row) for row in range(len(local))] == whole


def test_another_or_no_shard_is_one_sentence(images: tuple[FaceDataset, str], s3: str) -> None:
    local, _ = images
    other = f"{s3}/shards/broken"
    storage.publish(local.path, other)
    no_cache()
    path, shards = bring_tables(other)
    dataset = FaceDataset(path, shards=shards)
    shard = sorted((local.path / SHARDS).iterdir())[0]
    storage.write_bytes(f"{other}/{SHARDS}/{shard.name}", bytes(shard.stat().st_size))
    row = int(np.flatnonzero(local.numpy("size"))[0])
    with pytest.raises(InputError, match="was replaced while it was read"):
        dataset.read(row)
    storage.remove_object(f"{other}/{SHARDS}/{shard.name}")
    with pytest.raises(FileNotFoundError):
        dataset.read(row)
    with pytest.raises(InputError, match=f"{shard.name} is missing in S3"):
        FaceDataset(path, shards=FarShards(other))


def test_the_cache_is_removed_and_that_of_a_killed_run_too(s3: str) -> None:
    left = settings().cache / ".stream" / "1"
    left.mkdir(parents=True)
    (left / "data").write_bytes(b"x")
    with cache_folder(10) as cache:
        assert cache is not None and cache.folder.is_dir() and not left.exists()
        with cache_folder(10):
            assert cache.folder.is_dir()
    assert not list((settings().cache / ".stream").iterdir())
    with cache_folder(0) as none:
        assert none is None


@pytest.fixture(scope="module")
def assembled(tmp_path_factory: pytest.TempPathFactory, s3: str) -> str:
    """A small assembled data set in S3 that refers to the shards of another."""
    write_people(
        tmp_path_factory.mktemp("people") / "set", f"{s3}/stream/extracted", people=16, aligned="arcface-112-v1"
    )
    steps.assemble(
        [f"{s3}/stream/extracted"],
        f"{s3}/stream/assembled",
        AssembleConfig(validation=0.13, calibration=0.13, test=0.13),
    )
    no_cache()
    return f"{s3}/stream/assembled"


@pytest.mark.parametrize("workers", [0, 2])
def test_a_model_trained_by_streaming_is_the_same(assembled: str, tmp_path: Path, workers: int) -> None:
    config = TrainConfig(recipe="demo", overrides=TINY, device="cpu", workers=workers, threads=1, stream=True)
    made = steps.train(assembled, str(tmp_path / "far"), config)
    place = settings().cache / assembled.removeprefix("s3://")
    assert not (place / SHARDS).exists()
    whole = steps.train(assembled, str(tmp_path / "whole"), replace(config, stream=False))
    assert (place / SHARDS).is_dir()
    assert made["digest"] == whole["digest"]
    found = steps.evaluate(
        str(tmp_path / "far"),
        assembled,
        (),
        str(tmp_path / "evaluation"),
        EvaluateConfig(resamples=20, quality_images=0),
    )
    assert found["metrics"]
    no_cache()


def test_a_run_stores_no_image_twice(tmp_path: Path, s3: str) -> None:
    """What a pipeline's run assembles in S3 refers to the shards of its data sets, and goes on like any other."""
    store = Store(f"{s3}/run/workspace", "first")
    write_people(tmp_path / "set", f"{s3}/run/faces", people=12, aligned="arcface-112-v1")
    no_cache()
    config = AssembleConfig(validation=0.2, calibration=0.2, test=0.2)
    made = tasks.assemble_all(store, [f"{s3}/run/faces"], config)
    objects = [name for name, _, _ in storage.describe(made["artifact"])]
    assert not [name for name in objects if name.endswith(".tar")]
    assert not (settings().cache / "tests/run/faces" / SHARDS).exists()
    again = tasks.assemble_all(store, [f"{s3}/run/faces"], config)
    assert again["reused"] and again["reference"] == made["reference"]
    no_cache()
    whole = FaceDataset(steps.bring(made["reference"]), check="sha256")
    here = FaceDataset(tmp_path / "set")
    assert sorted(whole.read(row) for row in range(len(whole))) == sorted(here.read(row) for row in range(len(here)))
    copied = tasks.assemble_all(store, [f"{s3}/run/faces"], replace(config, copy=True))
    assert [name for name, _, _ in storage.describe(copied["artifact"]) if name.endswith(".tar")]


def test_streaming_from_a_disk_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="stream is for datasets in S3"):
        steps.train(str(tmp_path / "set"), str(tmp_path / "model"), TrainConfig(stream=True))
    with pytest.raises(InputError, match="stream_cache 3: is only for stream"):
        TrainConfig(stream_cache=3)


def test_a_part_of_an_alignment_reads_its_part(tmp_path: Path, s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    place = f"{s3}/part/pictures"
    write_people(tmp_path / "pictures", place, people=40, aligned=None)
    no_cache()
    read = 0
    get = far.FarFile._get

    def counted(self: far.FarFile, offset: int, length: int) -> bytes:
        nonlocal read
        data = get(self, offset, length)
        read += len(data)
        return data

    monkeypatch.setattr(far.FarFile, "_get", counted)
    config = AlignConfig(min_face_size=100, min_eyes=1, part="1/4")
    steps.align(place, str(tmp_path / "one"), config)
    total = int(FaceDataset(tmp_path / "pictures").numpy("size").sum())
    assert 0 < read < 0.4 * total
    assert not (settings().cache / os.path.relpath(place, "s3:/") / SHARDS).exists()

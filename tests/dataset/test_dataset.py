"""FaceDataset: the bytes that went in, found by `tar`, by row, by other threads and by other processes."""

from __future__ import annotations

import hashlib
import pickle
import subprocess
import sys
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.datasets import make_dataset

from eolgul.dataset import SCHEMA, FaceDataset
from eolgul.errors import InputError

Images = list[tuple[str, str, bytes]]  # id, identity, data
RANDOM = np.random.default_rng(0)
IMAGES: Images = [
    (f"{person}/{number}", person, RANDOM.bytes(size))
    for person in ("ann", "bob", "김철수", "x" * 150)
    for number, size in enumerate((0, 1, 511, 512, 513, 3000))
]


def write(
    out: Path, images: Images = IMAGES, *, shard_bytes: int = 4096, pairs: Any = None, **facts: Any
) -> FaceDataset:
    with make_dataset(out, step="test", recipe={}, inputs=[], synthetic=False, shard_bytes=shard_bytes) as writer:
        for image_id, identity, data in images:
            writer.add(image_id, identity, data, extension="jpg", size=(4, 3), source="test", facts=facts)
        if pairs is not None:
            writer.pairs(*pairs)
        writer.describe(name="test")
    return FaceDataset(out, check="sha256")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> FaceDataset:
    return write(tmp_path_factory.mktemp("dataset") / "out")


def test_every_image_comes_back_as_it_went(dataset: FaceDataset) -> None:
    assert [dataset.read(row) for row in range(len(dataset))] == [data for _, _, data in IMAGES]
    assert dataset.column("image_id") == [image_id for image_id, _, _ in IMAGES]
    assert dataset.column("sha256") == [hashlib.sha256(data).hexdigest() for _, _, data in IMAGES]
    assert dataset.column("identity") == [identity for _, identity, _ in IMAGES]
    assert dataset.column("label") == [number // 6 for number in range(24)]
    assert dataset.artifact.contents["images"] == 24 and dataset.artifact.contents["identities"] == 4


@pytest.mark.process
def test_tar_reads_the_same(dataset: FaceDataset) -> None:
    """Python's tarfile and the `tar` of the system, which know nothing of the manifest."""
    found: dict[str, bytes] = {}
    shards = sorted((dataset.path / "shards").iterdir())
    assert len(shards) > 3
    for shard in shards:
        with tarfile.open(shard) as archive:
            for member in archive:
                file = archive.extractfile(member)
                assert file is not None and member.name not in found
                found[member.name] = file.read()
    assert found == {f"{image_id}.jpg": data for image_id, _, data in IMAGES}
    listed = subprocess.run(["tar", "-tf", str(shards[0])], capture_output=True, check=True).stdout.decode()
    assert listed.splitlines()[0] == "ann/0.jpg"


def test_the_range_in_the_manifest_is_all_one_needs(dataset: FaceDataset) -> None:
    rows = pq.read_table(dataset.path / "manifest.parquet").to_pylist()
    for row, (_, _, data) in zip(rows, IMAGES, strict=True):
        shard = (dataset.path / "shards" / row["shard"]).read_bytes()
        assert shard[row["offset"] : row["offset"] + row["size"]] == data
    assert max(path.stat().st_size for path in (dataset.path / "shards").iterdir()) < 4096 + 3000 + 10240


@given(sizes=st.lists(st.integers(0, 2000), min_size=1, max_size=12), shard_bytes=st.integers(1, 5000))
def test_any_sizes_and_any_shards(tmp_path_factory: pytest.TempPathFactory, sizes: list[int], shard_bytes: int) -> None:
    images: Images = [(f"p/{number}", "p", bytes([number]) * size) for number, size in enumerate(sizes)]
    made = write(tmp_path_factory.getbasetemp() / "any", images, shard_bytes=shard_bytes)
    assert [made.read(row) for row in range(len(made))] == [data for _, _, data in images]


def test_threads_and_copies_read_alike(dataset: FaceDataset) -> None:
    for one in (dataset, pickle.loads(pickle.dumps(dataset))):
        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(one.read, [*range(24)] * 20)) == [data for _, _, data in IMAGES] * 20


@pytest.mark.process
def test_another_process_reads_alike(dataset: FaceDataset, tmp_path: Path) -> None:
    dataset.read(3)  # an open file must not travel
    (tmp_path / "dataset.pickle").write_bytes(pickle.dumps(dataset))
    code = "import pickle, sys; d = pickle.load(open(sys.argv[1], 'rb')); sys.stdout.buffer.write(b''.join(map(d.read, range(24))))"
    argv = [sys.executable, "-c", code, str(tmp_path / "dataset.pickle")]
    assert subprocess.run(argv, capture_output=True, check=True).stdout == b"".join(data for _, _, data in IMAGES)


def test_facts_and_splits(tmp_path: Path) -> None:
    points = [float(number) for number in range(10)]
    with make_dataset(tmp_path / "out", step="t", recipe={}, inputs=[], synthetic=True) as writer:
        for number, split in enumerate(["test", None, "train", "test"]):
            facts = {"split": split, "landmarks": points if number else None, "camera": "C7"}
            writer.add(f"a/{number}", "a", b"x", extension="png", size=(7, 9), source="s", facts=facts)
    made = FaceDataset(tmp_path / "out")
    assert made.table().schema.names == SCHEMA.names
    assert made.rows("test").tolist() == [0, 3] and made.rows("train").tolist() == [2]
    assert made.rows("validation").tolist() == []
    assert made.column("landmarks") == [None, points, points, points]
    assert made.column("light") == [None] * 4 and made.column("camera") == ["C7"] * 4
    assert (made.column("width")[0], made.column("height")[0]) == (7, 9)
    with pytest.raises(InputError, match="split 'exam'"):
        made.rows("exam")


def test_a_benchmarks_pairs(tmp_path: Path) -> None:
    made = write(tmp_path / "out", pairs=([0, 2], [1, 3], [True, False], [0, 1]))
    pairs = made.pairs()
    assert made.artifact.contents["benchmark"] is True and len(pairs) == 2
    assert (pairs.left.tolist(), pairs.right.tolist()) == ([0, 2], [1, 3])
    assert (pairs.same.tolist(), pairs.fold.tolist()) == ([True, False], [0, 1])
    assert len(write(tmp_path / "none", pairs=([], [], [], [])).pairs()) == 0
    for row in (24, -1):
        bad = write(tmp_path / "bad", pairs=([0], [row], [True], [0]))
        with pytest.raises(InputError, match="names a row outside the manifest's 24"):
            bad.pairs()


def test_without_pairs_it_is_no_benchmark(dataset: FaceDataset) -> None:
    assert dataset.artifact.contents["benchmark"] is False
    with pytest.raises(InputError, match="not a benchmark"):
        dataset.pairs()


def test_an_empty_one_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    with (
        pytest.raises(InputError, match=r"not one usable image among 2 inputs .*'no_face': 2"),
        make_dataset(tmp_path / "out", step="t", recipe={}, inputs=[], synthetic=False) as writer,
    ):
        for number in range(2):
            writer.reject(str(number), source="s", reason="no_face", detail="y")
    assert list(tmp_path.iterdir()) == []


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    with (
        pytest.raises(ZeroDivisionError),
        make_dataset(tmp_path / "out", step="t", recipe={}, inputs=[], synthetic=False) as writer,
    ):
        writer.add("a/1", "a", b"x", extension="jpg", size=(1, 1), source="s")
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_the_same_images_give_the_same_digest(tmp_path: Path) -> None:
    assert write(tmp_path / "a").artifact.digest == write(tmp_path / "b").artifact.digest
    other = [*IMAGES[:-1], (*IMAGES[-1][:2], IMAGES[-1][2][:-1] + b"\0")]
    assert write(tmp_path / "c", other).artifact.digest != write(tmp_path / "a").artifact.digest


def test_a_shard_cut_after_opening_is_a_sentence(tmp_path: Path) -> None:
    made = write(tmp_path / "out")
    shard = made.path / "shards" / made.column("shard")[-1]
    shard.write_bytes(shard.read_bytes()[:600])
    with pytest.raises(InputError, match=rf"{shard.name} at byte \d+: cut off"):
        made.read(len(made) - 1)
    with pytest.raises(InputError, match=rf"{shard.name}: 600 bytes, expected"):
        FaceDataset(made.path)


@pytest.mark.parametrize("name", ["manifest.parquet", "rejected.parquet", "pairs.parquet"])
def test_a_garbled_table_is_a_sentence(tmp_path: Path, name: str) -> None:
    made = write(tmp_path / "out", pairs=([0], [1], [True], [0]))
    file = made.path / name
    file.write_bytes(b"\0" * file.stat().st_size)
    with pytest.raises(InputError, match=rf"{name}: not a readable Parquet file"):
        opened = FaceDataset(made.path)
        opened.rejected()
        opened.pairs()


def test_a_manifest_of_other_rows_is_refused(tmp_path: Path) -> None:
    from eolgul.artifact import seal

    made = write(tmp_path / "out")
    (made.path / "dataset.json").unlink()
    contents = made.artifact.contents | {"images": 23}
    seal(made.path, "FaceDataset", step="t", version=1, recipe={}, inputs=[], contents=contents, synthetic=False)
    with pytest.raises(InputError, match="24 rows, the card says 23"):
        FaceDataset(made.path)

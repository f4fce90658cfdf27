"""Assembly by reference: the rows of a copy, the bytes of the parents, and nothing written twice."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import shutil
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.datasets import make_dataset

from eolgul.artifact import open_artifact
from eolgul.assemble.config import AssembleConfig
from eolgul.assemble.people import People
from eolgul.assemble.step import assemble
from eolgul.dataset import FACTS, SHARDS, FaceDataset, joined
from eolgul.errors import InputError
from eolgul.images.decode import encode_png

ALIGNED = "arcface-112-v1"
COPY = AssembleConfig(copy=True)
IN_NFD = unicodedata.normalize("NFD", "김철수")


def source(out: Path, names: Sequence[str], *, number: int = 0, images: int = 4, shared: Collection[str] = ()) -> Path:
    """An aligned dataset of several shards; the people in `shared` have one image in common."""
    random = np.random.default_rng(number)
    same = encode_png(random.integers(0, 255, (4, 4, 3), np.uint8))
    with make_dataset(out, step="test", recipe={}, inputs=[], synthetic=False, shard_bytes=20_000) as made:
        for name in names:
            for image in range(images):
                data = (
                    same if name in shared and not image else encode_png(random.integers(0, 255, (4, 4, 3), np.uint8))
                )
                facts: dict[str, Any] = {"camera": f"C{image + 1}", "landmarks": [float(image)] * 10} if number else {}
                made.add(f"{name}/{image}", name, data, extension="png", size=(4, 4), source=out.name, facts=facts)
            if name == names[1]:
                made.reject(f"{name}/9", source=out.name, identity=name, reason="no_face", detail="no face was found")
        made.reject("x", source=out.name, reason="no_face", detail="nobody")
        made.describe(name=out.name, aligned=ALIGNED)
    return out


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("sources")
    one = [*(f"p{number:02}" for number in range(40)), "김철수", IN_NFD]
    two = [f"p{number:02}" for number in range(20, 60)]
    return [
        source(folder / "one", one, shared=["p03", "p11", "김철수"]),
        source(folder / "two", two, number=1, shared=["p22", "p30"]),
    ]


@pytest.fixture(scope="module")
def audit(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Somebody with images in the middle of a shard, somebody with the first image of one, and a person of a group."""
    file = tmp_path_factory.mktemp("audit") / "audit.json"
    file.write_text(json.dumps({"format": 1, "exclude": ["one.p00", "one.p11", "two.p25", "two.p59"]}))
    return str(file)


def columns(dataset: FaceDataset) -> list[dict[str, Any]]:
    """The rows without the place of the image, which is all that may differ."""
    return dataset.table([name for name in dataset.table().column_names if name not in ("shard", "offset")]).to_pylist()


@pytest.mark.parametrize("excluding", [False, True])
def test_the_rows_are_those_of_a_copy(sources: list[Path], audit: str, tmp_path: Path, excluding: bool) -> None:
    options: dict[str, Any] = {"exclude": (audit,) if excluding else (), "held_out_sources": ("one",), "seed": 3}
    seen: list[tuple[int, int | None]] = []
    copy = FaceDataset(assemble(sources, tmp_path / "copy", AssembleConfig(copy=True, **options)).path, check="sha256")
    made = assemble(sources, tmp_path / "made", AssembleConfig(**options), progress=lambda *counts: seen.append(counts))
    reference = FaceDataset(made.path, check="sha256")
    assert columns(reference) == columns(copy)
    assert [reference.read(row) for row in range(len(copy))] == [copy.read(row) for row in range(len(copy))]
    assert reference.rejected() == copy.rejected() and len(copy.rejected()) == 4
    assert reference.artifact.contents == copy.artifact.contents
    assert reference.artifact.card["inputs"] == copy.artifact.card["inputs"]
    assert len(copy) == (40 + 2 + 40 - 4 * excluding) * 4 and seen[-1] == (len(copy), len(copy))
    assert reference.artifact.digest != copy.artifact.digest


def test_shards_are_those_of_the_parents(sources: list[Path], tmp_path: Path) -> None:
    made = assemble(sources, tmp_path / "out")
    parents = [file for one in sources for file in sorted((one / SHARDS).iterdir())]
    shards = sorted((made.path / SHARDS).iterdir())
    assert len(shards) == len(parents) > 6
    assert all(shard.samefile(parent) for shard, parent in zip(shards, parents, strict=True))
    assert assemble(sources, tmp_path / "out").digest == made.digest
    assert assemble(sources, tmp_path / "again").digest == made.digest
    for parent in sources:
        open_artifact(parent, check="sha256")


def test_a_shard_without_rows_is_left_out(tmp_path: Path) -> None:
    """Whoever fills a shard alone and is excluded is in none of the result's shards."""
    one = source(tmp_path / "one", [f"p{number:02}" for number in range(30)], images=40)
    names = set(FaceDataset(one).column("identity")[:40])
    (tmp_path / "audit.json").write_text(json.dumps({"format": 1, "exclude": [f"one.{name}" for name in names]}))
    made = assemble([one], tmp_path / "out", AssembleConfig(exclude=(str(tmp_path / "audit.json"),)))
    assert len(list((made.path / SHARDS).iterdir())) < len(list((one / SHARDS).iterdir()))
    assert FaceDataset(made.path).read(0) == FaceDataset(one).read(40)


def test_what_happens_when_a_parent_goes_or_changes(sources: list[Path], tmp_path: Path) -> None:
    one = Path(shutil.copytree(sources[0], tmp_path / "one"))
    digest = assemble([one], tmp_path / "out").digest
    shutil.rmtree(one)
    assert open_artifact(tmp_path / "out", check="sha256").digest == digest
    one = Path(shutil.copytree(sources[0], tmp_path / "one"))
    assemble([one], tmp_path / "again")
    with next((one / SHARDS).iterdir()).open("r+b") as shard:
        shard.write(b"changed")
    with pytest.raises(InputError, match=r"sha256 differs from the one in dataset\.json"):
        open_artifact(tmp_path / "again", check="sha256")


@pytest.fixture
def no_links(monkeypatch: pytest.MonkeyPatch) -> None:
    def link(one: Path, other: Path) -> None:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(os, "link", link)


def test_another_file_system_is_copied_to_and_said(
    sources: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture, request: pytest.FixtureRequest
) -> None:
    linked = assemble(sources, tmp_path / "linked")
    request.getfixturevalue("no_links")
    with caplog.at_level(logging.WARNING, "eolgul"):
        copied = assemble(sources, tmp_path / "copied")
    assert copied.digest == linked.digest
    said = [record.message for record in caplog.records if "cannot be linked" in record.message]
    assert len(said) == 1 and "the shards are copied" in said[0]
    assert all(shard.stat().st_nlink == 1 for shard in (copied.path / SHARDS).iterdir())
    open_artifact(copied.path, check="sha256")


@pytest.mark.usefixtures("no_links")
def test_an_interrupted_copy_goes_on(sources: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copied: list[str] = []
    copy = joined._copy

    def until(file: Path, *args: Any) -> None:
        if len(copied) == 3:
            raise KeyboardInterrupt
        copied.append(str(file))
        copy(file, *args)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(joined, "_copy", until)
        assemble(sources, tmp_path / "out")
    assert not (tmp_path / "out").exists() and len(copied) == 3
    later: list[str] = []

    def noted(file: Path, *args: Any) -> None:
        later.append(str(file))
        copy(file, *args)

    monkeypatch.setattr(joined, "_copy", noted)
    made = assemble(sources, tmp_path / "out")
    assert not set(later) & set(copied) and len(later) + 3 == len(list((made.path / SHARDS).iterdir()))
    open_artifact(made.path, check="sha256")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.usefixtures("no_links")
def test_a_copy_of_a_changed_parent_is_refused(sources: list[Path], tmp_path: Path) -> None:
    one = Path(shutil.copytree(sources[0], tmp_path / "one"))
    with sorted((one / SHARDS).iterdir())[1].open("r+b") as shard:
        shard.write(b"changed")
    with pytest.raises(InputError, match=r"00001.tar: sha256 differs from the one in its dataset's card"):
        assemble([one], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_full_disk_is_said(sources: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(one: Path, other: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "link", link)
    with pytest.raises(InputError, match=r"out: cannot be written \(No space left on device"):
        assemble(sources, tmp_path / "out")


def test_parents_whose_shards_are_elsewhere(sources: list[Path], tmp_path: Path) -> None:
    """Only tables are there, as of a place in S3: the result lists the shards and has the digest of a whole one."""
    tables = []
    for parent in sources:
        tables.append(Path(shutil.copytree(parent, tmp_path / parent.name, ignore=shutil.ignore_patterns("*.tar"))))
    made = assemble(tables, tmp_path / "out", elsewhere=tables)
    assert made.digest == assemble(sources, tmp_path / "whole").digest
    assert not list((made.path / SHARDS).iterdir())
    stamp = (made.path / "dataset.json").stat().st_mtime_ns
    assert assemble(tables, tmp_path / "out", elsewhere=tables).digest == made.digest
    assert (made.path / "dataset.json").stat().st_mtime_ns == stamp
    with pytest.raises(InputError, match=r"shards/00000.tar: listed in dataset.json but missing"):
        FaceDataset(made.path)


def first_groups(
    sources: Sequence[tuple[str, list[tuple[str, str]]]], excluded: Collection[str]
) -> tuple[dict[str, dict[str, int]], int]:
    """How groups were made when every row was a Python object."""
    counts: Counter[str] = Counter()
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        while parent[name] != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    owner: dict[str, str] = {}
    for prefix, rows in sources:
        for identity, digest in rows:
            name = f"{prefix}.{identity}"
            if name in excluded:
                continue
            counts[name] += 1
            parent.setdefault(name, name)
            first = root(owner.setdefault(digest, name))
            parent[root(name)] = first
    groups: dict[str, dict[str, int]] = defaultdict(dict)
    for name, count in counts.items():
        groups[root(name)][name] = count
    return dict(groups), sum(len(members) for members in groups.values() if len(members) > 1)


class Rows:
    """What `People` needs of a FaceDataset."""

    path = Path("made")

    def __init__(self, name: str, rows: list[tuple[str, str]]) -> None:
        import pyarrow as pa

        self.artifact = type("Card", (), {"contents": {"name": name}})
        self._identity = [identity for identity, _ in rows]
        self._batches = [
            pa.RecordBatch.from_arrays([pa.array([digest for _, digest in rows[at : at + 3]], pa.string())], ["sha256"])
            for at in range(0, len(rows), 3)
        ]

    def codes(self, _: str) -> tuple[list[str], Any]:
        names = list(dict.fromkeys(self._identity))
        return names, np.array([names.index(name) for name in self._identity], np.int32)

    def batches(self, _: Sequence[str]) -> list[Any]:
        return self._batches


def digest_of(number: int) -> str:
    """Two digests in three begin with the same 64 bits and differ behind them."""
    digest = hashlib.sha256(str(number).encode()).hexdigest()
    return digest if number % 3 else "0" * 16 + digest[16:]


rows_of = st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 25).map(digest_of)), max_size=25)


@given(
    given_sources=st.lists(rows_of, min_size=1, max_size=3),
    names=st.permutations(["x", "y", "x.a"]),
    excluded=st.sets(st.sampled_from(["x.a", "x.b", "y.c", "x.a.b"])),
)
def test_the_groups_are_the_same(
    given_sources: list[list[tuple[str, str]]], names: list[str], excluded: set[str]
) -> None:
    named = list(zip(names, given_sources, strict=False))
    made: list[Any] = [Rows(name, rows) for name, rows in named]
    groups, shared = People(made, excluded).groups(made)
    expected, expected_shared = first_groups(named, excluded)
    assert (groups, shared) == (expected, expected_shared)
    assert [*groups] == [*expected] and [[*one] for one in groups.values()] == [[*one] for one in expected.values()]


def test_a_digest_that_is_none_is_refused() -> None:
    for bad in ("ab", "g" * 64, " " * 64):
        rows: list[Any] = [Rows("x", [("a", digest_of(1)), ("a", bad)])]
        with pytest.raises(InputError, match=r"manifest.parquet: column sha256: expected 64 hexadecimal digits"):
            People(rows).groups(rows)


def test_every_fact_is_carried(sources: list[Path], tmp_path: Path) -> None:
    made = FaceDataset(assemble(sources, tmp_path / "out").path)
    parents = [FaceDataset(parent) for parent in sources]
    for name in FACTS:
        if name != "split":
            assert made.column(name) == [value for parent in parents for value in parent.column(name)]
    assert made.codes("source")[0] == ["one", "two"]

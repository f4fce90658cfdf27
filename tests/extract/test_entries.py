"""Files as columns: what goes in comes out, rows can be taken, and a K-FACE image takes few bytes."""

from __future__ import annotations

import itertools
import pickle
import random
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eolgul.errors import Reason, Rejection
from eolgul.extract.config import ExtractConfig
from eolgul.extract.entries import Entries, Entry
from eolgul.extract.kface_tree import plan_kface
from eolgul.extract.tree import Tree
from eolgul.formats import kface
from eolgul.formats.archives import FilePlace, Member
from eolgul.storage.far import FarFile

CONDITION = kface.Condition("High", "S001", "L1", "E01", "C7")
BROKEN = Rejection(Reason.UNREADABLE, "broken")


def some_entry(draw: random.Random) -> Entry:
    """A file with anything that one may have."""
    folder = draw.choice(["", "a/", "a/b/", "가나/", "x" * 90 + "/"])
    name = folder + draw.choice(["1.jpg", "C7.jpg", "no suffix", ".hidden", "b.tar.gz", "\udcff.png", "사진.png"])
    stem = name.rpartition(".")[0] or name

    def place(of: str, size: int) -> Any:
        lower = f"{draw.getrandbits(128):032x}"
        tag = draw.choice([lower, lower.upper(), "ab-12", "", "0" * 32])
        far = FarFile(draw.choice(["s3://b/k/", "s3://b/k/", "s3://other/"]) + of, size, tag)
        member = Member(FilePlace("x.zip", 1, 2), 1, 2, 3, 0, 7) if draw.random() < 0.1 else None
        return draw.choice([None, far, far]) if member is None else member

    note = None
    if draw.random() < 0.5:
        of, size = draw.choice([f"{stem}.txt", f"{stem}.txt", "elsewhere.txt"]), draw.randrange(99)
        note = Entry(of, size, (draw.getrandbits(62), 3), member=place(of, size))
    identity = draw.choice([None, "a", "가나", "b"])
    condition = CONDITION if identity and draw.random() < 0.5 else None
    ids = [stem, stem[1:], "", "own id"] + ([kface.image_id(identity, condition)] if identity and condition else [])
    size = draw.randrange(1 << 40)
    return Entry(
        name,
        size,
        (draw.getrandbits(62), draw.getrandbits(62)),
        draw.choice(ids),
        identity,
        condition,
        draw.choice([None, {"box": [1.0]}]),
        draw.choice([None, None, BROKEN]),
        note,
        place(name, size),
        draw.random() < 0.1,
    )


@pytest.mark.parametrize("seed", range(20))
def test_what_goes_in_comes_out(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = random.Random(seed)
    given = [some_entry(draw) for _ in range(draw.randrange(1, 60))]
    entries = Entries(given)
    for row in draw.sample(range(len(given)), len(given) // 3):  # amended to another's facts
        other = some_entry(draw)
        given[row] = given[row]._replace(
            image_id=other.image_id, identity=other.identity, condition=other.condition, rejection=other.rejection
        )
        entries.amend(row, given[row])
    assert list(entries) == given
    assert list(pickle.loads(pickle.dumps(entries))) == given
    rows = draw.sample(range(len(given)), draw.randrange(len(given) + 1))
    assert list(entries.take(np.array(rows, np.int64))) == [given[row] for row in rows]
    begin = draw.randrange(len(given))
    assert list(entries[begin : begin + 7]) == given[begin : begin + 7] and entries[-1] == given[-1]
    assert list(entries.names()) == [one.name for one in given]
    assert entries.sizes().tolist() == [one.size for one in given]
    assert entries.accepted().tolist() == [row for row, one in enumerate(given) if one.rejection is None]
    names, codes = entries.identities()
    assert [names[code] if code >= 0 else None for code in codes] == [one.identity for one in given]


def walk(images: int, place: str = "") -> Iterator[Entry]:
    """A K-FACE tree of so many images, each with its annotation."""
    lists = [sorted(some) for some in (kface.ACCESSORIES, kface.LIGHTS[:1], kface.EXPRESSIONS, kface.CAMERAS)]
    people = (f"{19000000 + person}" for person in itertools.count())
    places = (f"{person}/{'/'.join(names)}" for person in people for names in itertools.product(*lists))
    for number, below in enumerate(itertools.islice(places, images)):
        path = f"High_Resolution/{below}"
        for end in (".jpg", ".txt"):
            far = FarFile(place + path + end, 9000, f"{number + 1:032x}") if place else None
            yield Entry(path + end, 9000, (1_600_000_000_000_000_000 + number, 7), member=far)


def peak(images: int, monkeypatch: pytest.MonkeyPatch, place: str, **options: Any) -> tuple[int, int]:
    """The most bytes of Python's while such a tree is planned, and those that the plan keeps."""
    with monkeypatch.context() as patch:
        patch.setattr(Tree, "files", lambda _: walk(images, place))
        tracemalloc.start()
        plan = plan_kface(Path("nowhere"), ExtractConfig(kind="kface", **options))
        kept, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert len(plan.tasks) > 0
    return most, kept


@pytest.mark.parametrize(("place", "bytes_each"), [("", 145), ("s3://bucket/kface/", 185)])
def test_a_kface_image_takes_few_bytes(place: str, bytes_each: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that all 12.96 million take less than 2 GB (of S3 2.4), and a share what its images take, once they are divided."""
    small, large = (peak(images, monkeypatch, place) for images in (1000, 4000))
    assert (large[0] - small[0]) / 3000 < bytes_each, (small, large)
    shared = peak(4000, monkeypatch, place, share="4/4", shard_bytes=1 << 20)
    assert shared[1] < large[1] / 2, (shared, large)


def test_what_is_not_selected_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    few, many = (peak(images, monkeypatch, "", selection="resolutions=High cameras=C1")[0] for images in (720, 3600))
    assert (many - few) / 2880 < 20, (few, many)

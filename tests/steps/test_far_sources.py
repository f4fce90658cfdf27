"""A tree in S3 is extracted from where it lies: the same result as from a disk, and only what is selected is fetched."""

from __future__ import annotations

import io
import os
import random
import shutil
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from eolgul import steps, storage
from eolgul.artifact import open_artifact
from eolgul.errors import InputError
from eolgul.extract.config import ExtractConfig
from eolgul.formats.insightface import write_rec
from eolgul.steps.sources import find_kind
from eolgul.storage import far
from eolgul.storage.s3 import minio_client, settings
from eolgul.synth import draw_kface


def picture(seed: int) -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise((24 + seed % 7, 20), 60 + seed % 50).save(buffer, "PNG")
    return buffer.getvalue()


def put(root: Path, name: str, data: bytes) -> None:
    file = root / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)


def people(root: Path, seed: int) -> None:
    """Identity folders with what strangers' trees have: order that differs by key and by folder, system files, archives."""
    draw = random.Random(seed)
    names = ["a", "a-b", "a.b", "a b", "가나", "Z", "z"] + [
        f"p{draw.randrange(10**6)}" for _ in range(draw.randrange(1, 6))
    ]
    for name in draw.sample(names, draw.randrange(3, len(names))):
        for number in range(draw.randrange(1, 5)):
            below = draw.choice(["", "", "day/", "day-1/", "day/x/"])
            put(root, f"{name}/{below}{number}{draw.choice(['.png', '.PNG', ''])}", picture(draw.randrange(1000)))
    put(root, "a/last.png", picture(1))
    for name in ("Thumbs.db", "a/.hidden/x.png", "a/@eaDir/x/y.png", "a/notes.txt", "readme", ".git/objects/1.png"):
        if draw.random() < 0.6:
            put(root, name, b"text" if "." in name else b"")
    if draw.random() < 0.5:
        with zipfile.ZipFile(root / "more.zip", "w") as archive:
            archive.writestr("q/0.png", picture(5))
            archive.writestr("q/1.png", picture(6))
    if draw.random() < 0.5:
        put(root, "synthetic.json", b'{"synthetic": true}')


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, int]]]:
    """Name and bytes of every object that is read in this process."""
    seen: list[tuple[str, int]] = []
    client, get = minio_client(), far.FarFile._get

    def counted(self: far.FarFile, offset: int, length: int) -> bytes:
        data = get(self, offset, length)
        seen.append((self.uri, len(data)))
        return data

    def whole(*args: Any, **named: Any) -> Any:
        result = type(client).fget_object(client, *args, **named)
        seen.append((named["object_name"], Path(named["file_path"]).stat().st_size))
        return result

    monkeypatch.setattr(far.FarFile, "_get", counted)
    monkeypatch.setattr(client, "fget_object", whole)
    yield seen


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("many", [1000, 1])
def test_equal_to_the_same_tree_on_a_disk(
    seed: int, many: int, tmp_path: Path, s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(far, "_MANY", many)
    people(tmp_path / "tree", seed)
    place = f"{s3}/far/{seed}-{many}/tree"
    storage.publish(tmp_path / "tree", place)
    config = ExtractConfig(kind="folders", depth=1, max_identities=None if seed % 2 else 3, workers=1 + seed % 2)
    steps.extract(str(tmp_path / "tree"), str(tmp_path / "local"), config)
    steps.extract(place, str(tmp_path / "far"), config)
    here, there = (open_artifact(tmp_path / name, check="sha256") for name in ("local", "far"))
    assert there.digest == here.digest
    assert there.contents == here.contents and here.contents["images"] > 0


def test_kface_only_the_selection_is_fetched(tmp_path: Path, s3: str, fetched: list[tuple[str, int]]) -> None:
    draw_kface(tmp_path / "kface", people=3, images_per_person=6, selection="resolutions=High,Low")
    place = f"{s3}/far/kface"
    storage.publish(tmp_path / "kface", place)
    whole = sum(file.stat().st_size for file in (tmp_path / "kface").rglob("*") if file.is_file())
    assert find_kind(place, ExtractConfig()) == "kface" and sum(size for _, size in fetched) < 5000
    fetched.clear()
    config = ExtractConfig(selection="resolutions=Low", max_identities=2, workers=1)
    made = steps.extract(place, str(tmp_path / "far"), config)
    chosen = sum(size for _, size in fetched)
    assert 0 < chosen < whole / 4
    assert all("Low_Resolution" in name or name.endswith("synthetic.json") for name, _ in fetched)
    here = steps.extract(str(tmp_path / "kface"), str(tmp_path / "local"), config)
    assert made["digest"] == here["digest"] and made["images"] == 6
    assert made["passed_over"] == here["passed_over"]


def test_two_identities_of_many_are_two_identities_fetched(
    tmp_path: Path, s3: str, fetched: list[tuple[str, int]]
) -> None:
    for person in range(20):
        for number in range(10):
            put(tmp_path / "orl", f"s{person}/{number}.png", picture(person * 10 + number))
    storage.publish(tmp_path / "orl", f"{s3}/far/orl")
    steps.extract(f"{s3}/far/orl", str(tmp_path / "out"), ExtractConfig(max_identities=2, workers=1))
    assert len({name for name, _ in fetched}) == 20
    assert not [file for file in (Path(os.environ["EOLGUL_S3_CACHE"]) / "tests/far/orl").rglob("*") if file.is_file()]


def test_what_changes_between_listing_and_reading_is_said(tmp_path: Path, s3: str) -> None:
    place = f"{s3}/far/changing/a/0.png"
    data = picture(1)
    storage.write_bytes(place, data)
    (entry,) = far.FarFolder(f"{s3}/far/changing").scan("a")
    assert entry.file is not None and entry.file.read_bytes() == data
    storage.write_bytes(place, picture(2))
    with pytest.raises(InputError, match="was replaced while it was read"):
        entry.file.read_bytes()
    storage.remove_object(place)
    with pytest.raises(FileNotFoundError):
        entry.file.read_bytes()


def test_nothing_there_and_an_archive(tmp_path: Path, s3: str) -> None:
    with pytest.raises(InputError, match="nothing there"):
        steps.extract(f"{s3}/far/nowhere", str(tmp_path / "out"))
    with zipfile.ZipFile(tmp_path / "people.zip", "w") as archive:
        archive.writestr("p/0.png", picture(5))
        archive.writestr("q/0.png", picture(6))
    storage.publish(tmp_path / "people.zip", f"{s3}/far/people.zip")
    assert steps.extract(f"{s3}/far/people.zip", str(tmp_path / "out"))["images"] == 2


def write_odd_rec(folder: Path, seed: int) -> int:
    """A `.rec` with images of all sizes, some damaged; the number of images."""
    draw = random.Random(seed)
    rows = [
        (label, picture(draw.randrange(1000)))
        for label in range(draw.randrange(3, 12))
        for _ in range(draw.randrange(1, 6))
    ]
    write_rec(folder, rows, height=20, width=24)
    index = folder / "train.idx"
    if seed % 4 == 1:  # an index of another file
        index.write_text("".join(f"{key}\t{4 * key}\n" for key in range(len(rows))))
    if seed % 4 == 2:
        index.unlink()
    if seed % 4 == 3:  # a damaged record
        data = bytearray((folder / "train.rec").read_bytes())
        at = int(index.read_text().splitlines()[len(rows) // 2].split("\t")[1])
        data[at : at + 8] = b"damaged!"
        (folder / "train.rec").write_bytes(data)
    return len(rows)


@pytest.mark.parametrize("seed", range(12))
def test_parts_of_a_rec_by_byte_range(seed: int, tmp_path: Path, s3: str, fetched: list[tuple[str, int]]) -> None:
    write_odd_rec(tmp_path / "rec", seed)
    place = f"{s3}/far/rec{seed}"
    storage.publish(tmp_path / "rec", place)
    for part in ("1/3", "2/3", "3/3"):
        config = ExtractConfig(part=part, any_size=True, workers=1)
        results: list[Any] = []
        for source, out in ((str(tmp_path / "rec"), "local"), (place, "far")):
            try:
                steps.extract(source, str(tmp_path / f"{out}{part[0]}"), replace(config, name="rec"))
                results.append(open_artifact(tmp_path / f"{out}{part[0]}", check="sha256"))
            except InputError as error:
                results.append(str(error).rpartition(":")[2])
        here, there = results
        if isinstance(here, str):
            assert there == here
        else:
            assert there.contents == here.contents and there.digest == here.digest
    assert not list((settings().cache / ".ranges").iterdir())


def test_a_part_of_a_rec_fetches_its_bytes(tmp_path: Path, s3: str, fetched: list[tuple[str, int]]) -> None:
    draw = random.Random(0)
    write_rec(tmp_path / "rec", [(label, picture(draw.randrange(99))) for label in range(150) for _ in range(10)])
    size = (tmp_path / "rec" / "train.rec").stat().st_size
    storage.publish(tmp_path / "rec", f"{s3}/far/large")
    steps.extract(f"{s3}/far/large", str(tmp_path / "out"), ExtractConfig(part="2/8", any_size=True, workers=1))
    assert size / 8.5 < sum(count for name, count in fetched if name.endswith(".rec")) < size / 8 + 20_000


@pytest.mark.parametrize("seed", range(8))
def test_shares_of_a_rec_are_put_together_by_reference(seed: int, tmp_path: Path, s3: str) -> None:
    write_odd_rec(tmp_path / "rec", seed)
    if seed % 2:  # whose labels say nothing about how they are counted
        (tmp_path / "rec" / "property").unlink()
    place = f"{s3}/far/shares{seed}/rec"
    storage.publish(tmp_path / "rec", place)
    config = ExtractConfig(any_size=True, workers=1, shard_bytes=4000)
    try:
        whole = steps.extract(str(tmp_path / "rec"), str(tmp_path / "whole"), config)
    except InputError:
        with pytest.raises(InputError, match="looks cut off"):
            steps.extract(place, f"{s3}/far/shares{seed}/1", replace(config, share="1/3"))
        return
    shares = [f"{s3}/far/shares{seed}/{number}" for number in (1, 2, 3)]
    for number, share in enumerate(shares, 1):
        steps.extract(place, share, replace(config, share=f"{number}/3"))
        shutil.rmtree(settings().cache / "tests")  # as another machine
    merged = steps.extract(place, f"{s3}/far/shares{seed}/merged", config, merge=shares)
    assert merged["digest"] == whole["digest"]
    own = storage.list_names(f"{s3}/far/shares{seed}/merged")
    assert "shards" not in own and ".references.json" in own
    shutil.rmtree(settings().cache / "tests")
    assert open_artifact(steps.bring(f"{s3}/far/shares{seed}/merged"), check="sha256").digest == whole["digest"]


def test_a_share_of_a_rec_fetches_its_bytes(tmp_path: Path, s3: str, fetched: list[tuple[str, int]]) -> None:
    draw = random.Random(0)
    write_rec(tmp_path / "rec", [(label, picture(draw.randrange(99))) for label in range(150) for _ in range(10)])
    size = (tmp_path / "rec" / "train.rec").stat().st_size
    storage.publish(tmp_path / "rec", f"{s3}/far/shared")
    config = ExtractConfig(share="2/8", any_size=True, workers=1, shard_bytes=size // 40)
    steps.extract(f"{s3}/far/shared", str(tmp_path / "out"), config)
    read = sum(count for name, count in fetched if name.endswith(".rec"))
    assert size / 9 < read < size / 7 + 20_000, (read, size)

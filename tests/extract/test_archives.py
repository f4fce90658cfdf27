"""Archives as sources: they give what the unpacked tree gives; what cannot be read of them is named."""

from __future__ import annotations

import io
import os
import pickle
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path
from typing import Any

import pytest
from support.trees import jpeg, tarred, write, zipped

from eolgul import steps
from eolgul.artifact import Artifact
from eolgul.dataset import FaceDataset
from eolgul.errors import InputError
from eolgul.extract.config import ExtractConfig, source_name
from eolgul.extract.step import extract
from eolgul.extract.trees import plan_folders
from eolgul.inspection.summary import inspect

TREE = {f"{person}/{number}.jpg": jpeg(10 * n + number) for n, person in enumerate("abc") for number in range(3)} | {
    "김철수/사진.jpg": jpeg(99),
    "a/notes.txt": b"text",
    "b/._0.jpg": b"\0\5\x16\7",
    "c/broken.jpg": b"no image",
    "c/photo": jpeg(98),
}


def people(method: int = zipfile.ZIP_DEFLATED, *, doubled: bool = False) -> dict[str, bytes]:
    """The tree as one archive per person."""
    inner: dict[str, dict[str, bytes]] = {}
    for name, data in TREE.items():
        person, _, rest = name.partition("/")
        inner.setdefault(person, {})[f"{person}/{rest}" if doubled else rest] = data
    return {f"{person}.zip": zipped(files, method) for person, files in inner.items()}


FORMS: dict[str, dict[str, bytes]] = {
    "stored": {"x.zip": zipped(TREE, zipfile.ZIP_STORED)},
    "deflated": {"x.zip": zipped(TREE)},
    "bzip2": {"x.zip": zipped(TREE, zipfile.ZIP_BZIP2)},
    "lzma": {"x.zip": zipped(TREE, zipfile.ZIP_LZMA)},
    "upper case": {"x.ZIP": zipped(TREE)},
    "behind a program": {"x.zip": b"#!/bin/sh\nexit\n" + zipped(TREE)},
    "tar": {"x.tar": tarred(TREE)},
    "tar.gz": {"x.tar.gz": tarred(TREE, "gz")},
    "tgz": {"x.tgz": tarred(TREE, "gz")},
    "tar.bz2": {"x.tar.bz2": tarred(TREE, "bz2")},
    "tar.xz": {"x.tar.xz": tarred(TREE, "xz")},
    "its own folder inside": {"x.zip": zipped({f"x/{name}": data for name, data in TREE.items()})},
    "dots and slashes": {"x.tar": tarred({f"./{name}": data for name, data in TREE.items()})},
    "absolute": {"x.tar": tarred({f"/x/{name}": data for name, data in TREE.items()})},
    "backslashes": {"x.zip": zipped({name.replace("/", "\\"): data for name, data in TREE.items()})},
    "Korean Windows": {"x.zip": zipped(TREE, encoding="cp949")},
    "UTF-8 without the flag": {"x.zip": zipped(TREE, encoding="utf-8")},
    "one per person": people(),
    "one per person, with its folder": people(doubled=True),
    "zips in a stored zip": {"x.zip": zipped(people(), zipfile.ZIP_STORED)},
    "zips in a deflated zip": {"x.zip": zipped(people(zipfile.ZIP_STORED))},
    "zips in a tar": {"x.tar": tarred(people())},
    "zips in a tar.gz": {"x.tar.gz": tarred(people(), "gz")},
    "four deep": {"x.tar": tarred({"x.zip": zipped({"x.zip": zipped(people())})})},
    "some unpacked": {name: data for name, data in TREE.items() if name[0] != "c"} | {"c.zip": people()["c.zip"]},
    "half unpacked": {name: data for name, data in TREE.items() if name != "c/0.jpg"} | {"c.zip": people()["c.zip"]},
}


def made(source: Path, out: Path, **options: Any) -> Artifact:
    return extract(source, out, ExtractConfig(name="x", **options))


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    folder = tmp_path_factory.mktemp("unpacked")
    return made(write(folder / "x", TREE), folder / "out")


@pytest.mark.parametrize("form", FORMS)
def test_an_archive_gives_what_its_tree_gives(tmp_path: Path, unpacked: Artifact, form: str) -> None:
    source = write(tmp_path / "x", FORMS[form])
    if len(FORMS[form]) == 1:
        source = source / next(iter(FORMS[form]))
    artifact = made(source, tmp_path / "out")
    contents, expected = dict(artifact.contents), dict(unpacked.contents)
    if form == "half unpacked":  # what lies there twice counts once more
        assert contents.pop("passed_over")["by_reason"] == {"copy": 4, "not_an_image": 1, "system_file": 1}
        assert contents.pop("inputs") == expected.pop("inputs") + 4
        del expected["passed_over"]
        return
    if form == "four deep":  # folders around the people, which are said to be there
        assert (contents.pop("depth"), expected.pop("depth")) == (3, 1) and contents == expected
        return
    assert contents == expected
    assert artifact.card["inputs"] == unpacked.card["inputs"] and artifact.digest == unpacked.digest
    assert (FaceDataset(artifact.path).read(0), contents["images"]) == (TREE["a/0.jpg"], 11)
    assert not [path for path in tmp_path.iterdir() if path.name not in ("x", "out")]


@pytest.mark.parametrize("form", ["zips in a stored zip", "zips in a deflated zip", "tar", "tar.gz"])
def test_any_number_of_workers_gives_the_same_bytes(tmp_path: Path, unpacked: Artifact, form: str) -> None:
    (name,) = FORMS[form]
    source = write(tmp_path / "x", FORMS[form]) / name
    digests = {
        extract(source, tmp_path / f"out{workers}", ExtractConfig(name="x", workers=workers, shard_bytes=3000)).digest
        for workers in (1, 4)
    }
    assert len(digests) == 1


def test_tasks_can_be_sent_to_other_processes(tmp_path: Path) -> None:
    source = write(tmp_path / "x", FORMS["zips in a stored zip"]) / "x.zip"
    plan = plan_folders(source, ExtractConfig())
    assert plan.portable
    (task,) = pickle.loads(pickle.dumps(plan.tasks))
    data = [
        candidate.data if isinstance(candidate.data, bytes) else candidate.data.read_bytes()
        for candidate in task.candidates()
    ]
    assert TREE["a/0.jpg"] in data
    assert not plan_folders(write(tmp_path / "y", {"x.tgz": tarred(TREE, "gz")}) / "x.tgz", ExtractConfig()).portable


def test_a_changed_archive_is_extracted_again(tmp_path: Path) -> None:
    source = write(tmp_path / "x", {"x.zip": zipped(TREE)}) / "x.zip"
    first = made(source, tmp_path / "out")
    stamp = (first.path / "dataset.json").stat().st_mtime_ns
    assert made(source, tmp_path / "out").digest == first.digest
    assert (first.path / "dataset.json").stat().st_mtime_ns == stamp
    source.write_bytes(zipped(TREE | {"a/0.jpg": jpeg(500)}))
    second = made(source, tmp_path / "out")
    assert second.digest != first.digest and FaceDataset(second.path).read(0) == jpeg(500)


def flip(data: bytes, find: bytes, change: bytes, count: int = -1) -> bytes:
    assert find in data
    return data.replace(find, change, count)


def encrypted(data: bytes) -> bytes:
    """A zip archive whose directory says that its members are encrypted."""
    place = 0
    changed = bytearray(data)
    while (place := data.find(b"PK\1\2", place)) >= 0:
        changed[place + 8] |= 1
        place += 1
    return bytes(changed)


def with_method(data: bytes, method: int) -> bytes:
    place = 0
    changed = bytearray(data)
    while (place := data.find(b"PK\1\2", place)) >= 0:
        struct.pack_into("<H", changed, place + 10, method)
        place += 1
    return bytes(changed)


BROKEN: dict[str, tuple[str, bytes, str]] = {
    "cut off": ("b.zip", zipped(TREE)[:-500], "cannot be read as a zip archive"),
    "a page": ("b.zip", b"<!doctype html><html>" + bytes(300), "is an HTML page, not a zip archive"),
    "a pointer": ("b.zip", b"version https://git-lfs.github.com/spec/v1\n", "is a git-lfs pointer"),
    "empty": ("b.zip", b"", "is an empty file"),
    "not a tar": ("b.tar", b"\xff" * 2000, "cannot be read as a tar archive"),
    "cut gzip": ("b.tgz", tarred(TREE, "gz")[:-300], "damaged"),
    "gzip of text": ("b.tgz", zlib.compress(b"x"), "Not a gzipped file"),
    "a bomb": ("b.tar.xz", b"", "more than 100 times its size"),
    "a bomb in it": ("b.zip", b"", "more than 100 times its size"),
}


def bomb() -> bytes:
    return tarred({"p/0.jpg": bytes(80 << 20)}, "xz")


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_archive_is_named(tmp_path: Path, case: str, caplog: pytest.LogCaptureFixture) -> None:
    name, data, says = BROKEN[case]
    if case == "a bomb":
        data = bomb()
    elif case == "a bomb in it":
        name, data = "b.zip", zipped({"b.zip": zipped({"p/0.jpg": bytes(80 << 20)}, zipfile.ZIP_STORED)})
    beside = write(tmp_path / "x", {name: data, "a/0.jpg": jpeg(1), "d/0.jpg": jpeg(2)})
    artifact = made(beside, tmp_path / "out")
    (row,) = FaceDataset(artifact.path).rejected()
    assert row["where"].startswith("b") and row["reason"] == "unreadable" and says in row["detail"]
    assert artifact.contents["inputs"] == 3 and "cannot be read whole" in caplog.text
    if case != "a bomb in it":
        alone = write(tmp_path / "alone", {name: data}) / name
        with pytest.raises(InputError, match=says) as error:
            made(alone, tmp_path / "none")
        assert str(alone) in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "none").exists()


def test_members_that_cannot_be_read_are_rejected_with_what_to_do(tmp_path: Path) -> None:
    damaged = flip(zipped({"p/0.jpg": jpeg(1)}, zipfile.ZIP_STORED), jpeg(1)[100:110], bytes(10))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("../out.jpg", jpeg(1))
        archive.writestr("ok/../../p/0.jpg", jpeg(1))
    files = {
        "encrypted.zip": encrypted(zipped({"0.jpg": jpeg(1)})),
        "deflate64.zip": with_method(zipped({"0.jpg": jpeg(1)}), 9),
        "aes.zip": with_method(zipped({"0.jpg": jpeg(1)}), 99),
        "damaged.zip": damaged,
        "outside.zip": buffer.getvalue(),
        "tar.tar": tarred({"p/0.jpg": jpeg(1), "q/0.jpg": jpeg(2)})[:600],
        "good/0.jpg": jpeg(5),
    }
    dataset = FaceDataset(made(write(tmp_path / "x", files), tmp_path / "out", depth=1).path)
    found = {row["where"]: (row["reason"], row["detail"]) for row in dataset.rejected()}
    assert dataset.column("image_id") == ["good/0"]
    for where, reason, says in (
        ("encrypted/0.jpg", "unreadable", "with its password"),
        ("deflate64/0.jpg", "unreadable", "method 9 (Deflate64), which is not read; unpack"),
        ("aes/0.jpg", "unreadable", "method 99 (AES)"),
        ("damaged/p/0.jpg", "unreadable", "damaged in its archive"),
        ("outside.zip/../out.jpg", "bad_name", "leads out of the archive"),
        ("outside.zip/ok/../../p/0.jpg", "bad_name", "leads out of the archive"),
        ("tar/p/0.jpg", "unreadable", "it ends too early"),
        ("tar.tar", "unreadable", "cut off"),
    ):
        assert found[where][0] == reason and says in found[where][1], (where, found[where])
    assert dataset.artifact.contents["inputs"] == 1 + 8 == 1 + len(found)
    assert not (tmp_path / "out.jpg").exists()


def test_a_tar_damaged_in_its_middle_is_told_of(tmp_path: Path) -> None:
    data = bytearray(tarred({"p/0.jpg": jpeg(1), "q/0.jpg": jpeg(2), "r/0.jpg": jpeg(3)}))
    place = bytes(data).index(b"q/0.jpg")
    data[place : place + 200] = b"\xff" * 200
    dataset = FaceDataset(made(write(tmp_path / "x", {"x.tar": bytes(data)}) / "x.tar", tmp_path / "out").path)
    (row,) = dataset.rejected()
    assert (
        dataset.column("image_id") == ["p/0"]
        and f"damaged at byte {place}; what lies behind it is lost" in row["detail"]
    )


def test_links_and_repeated_members_of_a_tar(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in (("p/0.jpg", jpeg(1)), ("p/0.jpg", jpeg(2)), ("q/0.jpg", jpeg(3))):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for name, kind, target in (
            ("q/1.jpg", tarfile.LNKTYPE, "q/0.jpg"),
            ("q/2.jpg", tarfile.SYMTYPE, "0.jpg"),
            ("q/3.jpg", tarfile.SYMTYPE, "/etc/passwd"),
            ("q/4.jpg", tarfile.SYMTYPE, "../../out"),
            ("q/pipe", tarfile.FIFOTYPE, ""),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            archive.addfile(info)
    artifact = made(write(tmp_path / "x", {"x.tar": buffer.getvalue()}) / "x.tar", tmp_path / "out")
    dataset = FaceDataset(artifact.path)
    assert dataset.column("image_id") == ["p/0", "q/0", "q/1", "q/2"] and dataset.read(0) == jpeg(2)
    assert artifact.contents["passed_over"]["by_reason"] == {"copy": 1, "link": 2, "special_file": 1}
    assert artifact.contents["inputs"] == 8


def test_an_archive_beside_its_unpacked_folder_overwrites_nothing(tmp_path: Path) -> None:
    """The same files count once; another picture under the same name is kept or named."""
    files = {
        "p/0.jpg": jpeg(1),
        "p/1.jpg": jpeg(2),
        "p.zip": zipped({"0.jpg": jpeg(1), "1.jpg": jpeg(2, (40, 40)), "2.jpg": jpeg(3)}),
    }
    artifact = made(write(tmp_path / "x", files), tmp_path / "out")
    dataset = FaceDataset(artifact.path)
    stored = [dataset.read(row) for row in range(len(dataset))]
    assert {jpeg(1), jpeg(2), jpeg(3)} <= set(stored)
    lost = [row["where"] for row in dataset.rejected()]
    assert jpeg(2, (40, 40)) in stored or lost == ["p/1.jpg"]
    assert artifact.contents["passed_over"]["by_reason"] == {"copy": 1} and artifact.contents["inputs"] == 5


def test_archives_that_are_not_read_in_place_are_counted_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    nested = zipped({"0.jpg": jpeg(1)})
    for _ in range(6):
        nested = zipped({"x.zip": nested}, zipfile.ZIP_STORED)
    foreign = [
        "p.7z",
        "q.rar",
        "r.alz",
        "s.egg",
        "t.zip.001",
        "u.z01",
        "v.zip.part0",
        "w.gz",
        "x.part1.rar",
        "y.tar.zst",
    ]
    files: dict[str, bytes] = dict.fromkeys(foreign, b"?") | {
        "deep/deep.zip": nested,
        "a/0.jpg": jpeg(1),
        "e/e.zip": zipped({}),
    }
    artifact = made(write(tmp_path / "x", files), tmp_path / "out")
    assert artifact.contents["passed_over"]["by_reason"] == {"archive": len(foreign) + 2}
    assert "11 archive(s) such as" in caplog.text and "unpack" in caplog.text
    with pytest.raises(InputError, match=r"not read in place; unpack it"):
        made(tmp_path / "x" / "p.7z", tmp_path / "none")
    with pytest.raises(InputError, match=r"join the pieces"):
        made(tmp_path / "x" / "v.zip.part0", tmp_path / "none")


def test_a_full_disk_for_temporary_files_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write(tmp_path / "x", {"x.tgz": tarred(TREE, "gz")}) / "x.tgz"

    def full(*_: object, **__: object) -> io.RawIOBase:
        return (Path("/dev/full")).open("r+b", buffering=0)

    if not os.path.exists("/dev/full"):  # noqa: PTH110
        pytest.skip("no /dev/full")
    monkeypatch.setattr("eolgul.formats.archives.tempfile.TemporaryFile", full)
    with pytest.raises(InputError, match=r"no room to decompress an archive .*TMPDIR"):
        made(source, tmp_path / "out")


def test_names_and_other_commands(tmp_path: Path) -> None:
    assert source_name("s3://b/photos.tar.gz") == "photos" and source_name("a b.zip") == "a_b"
    source = write(tmp_path / "x", {"photos.zip": zipped(TREE)}) / "photos.zip"
    facts = steps.extract(str(source), str(tmp_path / "out"))
    assert facts["inputs"] == 14 and facts["passed_over"]["total"] == 2 and facts["depth"] == 1
    seen = inspect(str(source), tmp_path / "sheet.png")
    assert (seen["images"], seen["looked_at"], seen["widths_and_heights"]) == (12, 11, {"12x12": 11})
    assert (tmp_path / "sheet.png").is_file() and len(seen["problems"]) == 1


def test_annotations_of_kface_in_an_archive(tmp_path: Path) -> None:
    """They are read, checked and part of the digest as beside files."""
    base = "Middle_Resolution/19062421/S001/L1/E01"
    good = "".join(f"{n} {n + 1}\n" for n in range(7)) + "0 0 9 9\n" * 5
    files = {f"{base}/C7.jpg": jpeg(1, (346, 230)), f"{base}/C7.txt": good.encode(), f"{base}/C8.jpg": jpeg(2, (346, 230)),
             f"{base}/C8.txt": b"1 2\n3\n", f"{base}/C9.jpg": jpeg(3, (346, 230))}  # fmt: skip
    tree = made(write(tmp_path / "k", files), tmp_path / "tree")
    packed = made(write(tmp_path / "z", {"k.zip": zipped(files)}) / "k.zip", tmp_path / "packed")
    assert packed.digest == tree.digest
    dataset = FaceDataset(packed.path)
    assert dataset.column("landmarks")[0] is not None and dataset.column("landmarks")[1] is None
    (row,) = dataset.rejected()
    assert row["reason"] == "bad_annotation" and "C8.txt line 2" in row["detail"]
    assert packed.contents["passed_over"]["by_reason"] == {"annotation": 2} and packed.contents["inputs"] == 5

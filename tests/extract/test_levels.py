"""Which folders of a tree are people, and K-FACE from any level of its tree."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from support.trees import jpeg, tarred, write, zipped

from eolgul.dataset import FaceDataset
from eolgul.errors import InputError
from eolgul.extract.config import ExtractConfig
from eolgul.extract.kinds import detect_kind
from eolgul.extract.levels import find_level
from eolgul.extract.step import extract

PEOPLE = [f"n{number:06}" for number in range(14)]


def people(around: str = "", *, below: str = "", names: list[str] = PEOPLE, each: int = 2) -> dict[str, bytes]:
    return {f"{around}{name}/{below}{number}.jpg": jpeg(number) for name in names for number in range(each)}


def made(source: Path, out: Path, **options: Any) -> FaceDataset:
    return FaceDataset(extract(source, out, ExtractConfig(name="x", **options)).path)


@pytest.mark.parametrize(
    ("files", "depth", "count"),
    [
        (people(), 1, 14),
        (people("lfw/"), 2, 14),
        (people("data/train/"), 3, 14),
        (people("train/") | people("test/", names=["a", "b"]), 2, 16),
        (people("1.Training/") | people("2.Validation/", names=["a", "b"]), 2, 16),
        (people("학습/") | people("검증/", names=["a", "b"]), 2, 16),
        (people("images/") | {"labels/n000000/0.txt": b"1 2"}, 2, 14),
        (people(below="front/") | people(below="left/"), 1, 14),  # sessions of a person
        (people(below="more/") | {"n000000/x.jpg": jpeg(1)}, 1, 14),
        (people("train/", below="front/") | people("test/", below="front/", names=["a", "b"]), 2, 16),
        (
            {f"id{n}/v{n}-{k}/1.jpg": jpeg(n) for n in range(9) for k in range(3)},
            1,
            9,
        ),  # videos with names of their own
    ],
)
def test_the_level_that_is_plainly_meant(
    tmp_path: Path, files: dict[str, bytes], depth: int, count: int, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        dataset = made(write(tmp_path / "source", files), tmp_path / "out")
    contents = dataset.artifact.contents
    assert (contents["depth"], contents["identities"]) == (depth, count)
    assert all(image.count("/") >= 1 and not image.startswith("train/") for image in dataset.column("image_id"))
    if depth > 1:
        assert f"folders {depth} levels deep" in caplog.text and "--depth 1" in caplog.text


@pytest.mark.parametrize(
    "files",
    [
        people("African/") | people("Asian/", names=[f"m{n}" for n in range(20)]),  # RFW's folders of people
        people("train/") | people("bob/", names=["x"]) | people("ann/", names=["y"]),
        people("train/") | {"bob/1.jpg": jpeg(1), "ann/1.jpg": jpeg(2)},
    ],
)
def test_what_can_be_read_in_two_ways_is_refused(tmp_path: Path, files: dict[str, bytes]) -> None:
    source = write(tmp_path / "source", files)
    with pytest.raises(InputError, match=r"images lie 2 folders deep .* or --depth 2 .* or --depth 1"):
        made(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert made(source, tmp_path / "deep", depth=2).artifact.contents["depth"] == 2
    assert made(source, tmp_path / "flat", depth=1).artifact.contents["depth"] == 1


def test_equal_names_in_two_parts_are_one_person_only_when_that_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = write(tmp_path / "source", people("train/") | people("test/", names=PEOPLE[:3]))
    with pytest.raises(InputError, match=r"3 names of people, such as n000000, .* --depth 2"):
        made(source, tmp_path / "out")
    dataset = made(source, tmp_path / "out", depth=2)
    contents = dataset.artifact.contents
    assert (contents["identities"], contents["images"], contents["identities_of_several_folders"]) == (14, 34, 3)
    assert "each is taken as one person" in caplog.text


def test_images_above_the_level_are_rejected(tmp_path: Path) -> None:
    source = write(tmp_path / "source", people("train/") | {"train/sheet.jpg": jpeg(1), "top.jpg": jpeg(2)})
    dataset = made(source, tmp_path / "out", depth=2)
    assert {row["where"]: row["reason"] for row in dataset.rejected()} == {
        "train/sheet.jpg": "no_identity",
        "top.jpg": "no_identity",
    }
    with pytest.raises(InputError, match="not used with identity_from"):
        made(source, tmp_path / "none", depth=2, identity_from="(?P<identity>.*)/.*")
    with pytest.raises(InputError, match="4 or more folders deep"):
        made(source, tmp_path / "none", depth=4)


def test_one_persons_folder_stays_one_person() -> None:
    assert find_level(Path("x"), ["ann/old/1.jpg", "ann/old/2.jpg"]).depth == 1
    assert find_level(Path("x"), []).depth == 1


KFACE_PEOPLE = ("19062421", "19062422", "19062423")


def of_person(seed: int, size: tuple[int, int] = (346, 230)) -> dict[str, bytes]:
    return {f"S001/L{light}/E01/C{camera}.jpg": jpeg(seed + light, size) for light in (1, 2) for camera in (7, 8)}


def kface_files(around: str, size: tuple[int, int] = (346, 230)) -> dict[str, bytes]:
    return {
        f"{around}{person}/{path}": data
        for number, person in enumerate(KFACE_PEOPLE)
        for path, data in of_person(10 * number, size).items()
    }


def archives(around: str = "") -> dict[str, bytes]:
    return {f"{around}{person}.zip": zipped(of_person(10 * number)) for number, person in enumerate(KFACE_PEOPLE)}


KFACE: dict[str, tuple[dict[str, bytes], str]] = {
    "root": (kface_files("Middle_Resolution/"), ""),
    "resolution": (kface_files("k/Middle_Resolution/"), "k/Middle_Resolution"),
    "above": (kface_files("한국인 안면 이미지/Training/[원천]Middle_Resolution/"), ""),
    "above, one lower": (kface_files("a/Training/[원천]Middle_Resolution/"), "a/Training"),
    "no name": (kface_files("MR/"), ""),
    "no name, people": (kface_files("MR/"), "MR"),
    "doubled": (kface_files("Middle_Resolution/Middle_Resolution/"), ""),
    "archives in a folder": (archives("Middle_Resolution/"), ""),
    "archives alone": (archives(), ""),
    "archives with a folder each": (
        {
            f"Middle_Resolution/{person}.zip": zipped({f"{person}/{path}": data for path, data in of_person(10 * n).items()})
            for n, person in enumerate(KFACE_PEOPLE)
        },
        "",
    ),
    "outer archive": ({"Middle_Resolution.zip": zipped(archives(), 0)}, ""),
    "outer archive itself": ({"Middle_Resolution.zip": zipped(archives())}, "Middle_Resolution.zip"),
    "outer archive with its folder": ({"Middle_Resolution.zip": zipped(archives("Middle_Resolution/"))}, "Middle_Resolution.zip"),
    "archive of all": ({"d.zip": zipped({"안면/Training/Middle_Resolution.zip": zipped(archives(), 0)})}, "d.zip"),
    "AI Hub's download": ({"download.tar": tarred({"안면/[원천]Middle_Resolution.zip": zipped(archives())})}, "download.tar"),
    "labels beside it": (kface_files("Middle_Resolution/") | {f"Annotation/{n}.json": b"{}" for n in range(30)}, ""),
}  # fmt: skip


@pytest.mark.parametrize("name", KFACE)
def test_kface_from_any_level_and_in_any_archive(tmp_path: Path, name: str) -> None:
    files, below = KFACE[name]
    source = write(tmp_path / "source", files) / below
    assert detect_kind(source) == "kface"
    dataset = made(source, tmp_path / "out", selection="lights=L1")
    expected = {
        f"{person}/Middle_S001_L1_E01_C{camera}": of_person(10 * number)[f"S001/L1/E01/C{camera}.jpg"]
        for number, person in enumerate(KFACE_PEOPLE)
        for camera in (7, 8)
    }
    assert {one: dataset.read(row) for row, one in enumerate(dataset.column("image_id"))} == expected
    assert set(dataset.column("resolution")) == {"Middle"} and set(dataset.column("light")) == {"L1"}
    contents = dataset.artifact.contents
    assert contents["passed_over"]["by_reason"]["not_selected"] == 6 and contents["rejected"] == 0


@pytest.mark.parametrize("around", ["k/Middle_Resolution/", "k/", ""])
def test_one_person_of_kface(tmp_path: Path, around: str) -> None:
    write(tmp_path, {f"{around}19062421/{path}": data for path, data in of_person(1).items()})
    dataset = made(tmp_path / around / "19062421", tmp_path / "out")
    assert set(dataset.column("identity")) == {"19062421"} and set(dataset.column("resolution")) == {"Middle"}


@pytest.mark.parametrize(("size", "resolution"), [((864, 576), "High"), ((173, 115), "Low")])
def test_a_resolution_is_told_by_the_images_where_no_folder_names_it(
    tmp_path: Path, size: tuple[int, int], resolution: str, caplog: pytest.LogCaptureFixture
) -> None:
    source = write(tmp_path / "MR", kface_files("", size))
    dataset = made(source, tmp_path / "out")
    assert set(dataset.column("resolution")) == {resolution} and "their size" in caplog.text
    other = write(tmp_path / "other", kface_files("", (100, 100)))
    with pytest.raises(InputError, match=r"no folder .* is called <Resolution>_Resolution, .*100x100"):
        made(other, tmp_path / "none")


@pytest.mark.parametrize("below", ["", "Middle_Resolution"])
def test_people_unpacked_into_one_another_are_refused(tmp_path: Path, below: str) -> None:
    source = write(tmp_path / "k", {f"Middle_Resolution/{path}": data for path, data in of_person(1).items()})
    with pytest.raises(InputError, match=r"S001/L1/E01/C7\.jpg lies in no folder of a person"):
        made(source / below, tmp_path / "out")

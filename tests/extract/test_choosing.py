"""People of a source: names in every form, files of one stem, lists and limits, for every kind that names people."""

from __future__ import annotations

import itertools
import logging
import shutil
import unicodedata
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.datasets import make_dataset
from support.pictures import picture, pictures

from eolgul.assemble.step import assemble
from eolgul.dataset import FaceDataset
from eolgul.errors import InputError
from eolgul.export import export
from eolgul.extract.config import ExtractConfig
from eolgul.extract.step import extract
from eolgul.extract.trees import plan_folders
from eolgul.faces.aligned import read_face
from eolgul.formats.insightface import write_bin, write_rec
from eolgul.formats.kface import Condition
from eolgul.formats.lst import Row, write_lst
from eolgul.images.decode import EXTENSIONS, decode
from eolgul.inspection.summary import inspect

BROKEN = picture(1)[:-300]
# Per person, the images in order and which of them are broken: 1 of 1, the first of 4, none of 3, the first two of 3.
PEOPLE = ([False], [False, True, True, True], [True, True, True], [False, False, True])


def image(person: int, number: int, size: tuple[int, int] = (112, 112)) -> bytes:
    return picture(10 * person + number, size=size) if PEOPLE[person][number] else BROKEN


def put(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def as_rec(folder: Path) -> Path:
    write_rec(folder, [(person, image(person, n)) for person, own in enumerate(PEOPLE) for n in range(len(own))])
    return folder


def as_folders(folder: Path) -> Path:
    return put(
        folder, {f"{person:06}/{n}.jpg": image(person, n) for person, own in enumerate(PEOPLE) for n in range(len(own))}
    )


def as_lst(folder: Path) -> Path:
    as_folders(folder)
    rows = [
        Row(f"{person:06}/{n}.jpg", person, False)
        for n in range(4)  # nobody's images together
        for person, own in enumerate(PEOPLE)
        if n < len(own)
    ]
    write_lst(folder / "train.lst", rows)
    return folder / "train.lst"


def as_kface(folder: Path) -> Path:
    shots = {
        Condition("Middle", "S001", "L1", "E01", f"C{n + 1}").path(f"{person:06}"): image(person, n, (346, 230))
        for person, own in enumerate(PEOPLE)
        for n in range(len(own))
    }
    return put(folder, shots)


KINDS: dict[str, Callable[[Path], Path]] = {
    "rec": as_rec,
    "folders": as_folders,
    "lst": as_lst,
    "kface": as_kface,
}


def counted(source: Path, out: Path, **options: Any) -> tuple[dict[str, int], dict[str, int], FaceDataset]:
    """Images per identity, what is passed over by reason, and the dataset; every input is counted."""
    made = extract(source, out, ExtractConfig(**options))
    contents = made.contents
    assert contents["inputs"] == contents["images"] + contents["rejected"] + contents["passed_over"]["total"]
    dataset = FaceDataset(made.path)
    by_reason = dict(contents["passed_over"]["by_reason"])
    by_reason.pop("not_an_image", None)  # a .lst's own files
    return dict(Counter(dataset.column("identity"))), by_reason, dataset


def names(path: Path, *lines: str) -> str:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("kind", KINDS)
def test_limits_go_by_usable_images(kind: str, tmp_path: Path) -> None:
    source = KINDS[kind](tmp_path / "raw")
    for number, (options, images, over) in enumerate(
        (
            ({}, {"000001": 3, "000002": 3, "000003": 1}, 0),
            ({"max_images_per_identity": 2}, {"000001": 2, "000002": 2, "000003": 1}, 2),
            ({"min_images": 2}, {"000001": 3, "000002": 3}, 4),
            ({"max_identities": 2}, {"000001": 3, "000002": 3}, 3),
            ({"min_images": 3, "max_images_per_identity": 3, "max_identities": 1}, {"000001": 3}, 7),
        )
    ):
        found, passed_over, _ = counted(source, tmp_path / f"out{number}", **options)  # type: ignore[arg-type]
        assert found == images and passed_over == ({"over_limit": over} if over else {}), options
    with pytest.raises(InputError, match="nobody is left of 4 identities; no other identity has 9 usable images"):
        extract(source, tmp_path / "none", ExtractConfig(min_images=9))
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_lists_of_people(kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = KINDS[kind](tmp_path / "raw")
    some = names(tmp_path / "some.txt", "000002", "000001", "nobody", "nor I")
    found, passed_over, dataset = counted(source, tmp_path / "only", identities=some)
    assert found == {"000001": 3, "000002": 3} and passed_over == {"left_out": 4}
    assert dataset.artifact.contents["identities_unmatched"] == 2
    assert "2 of the 4 names in" in caplog.text and "'nobody', 'nor I'" in caplog.text
    found, passed_over, dataset = counted(source, tmp_path / "without", without_identities=some)
    assert found == {"000003": 1} and passed_over == {"left_out": 7}
    # Leaving people out is a matter of consent: neither bytes nor names of theirs are in the artifact.
    left = {path.read_bytes().find(image(2, 0, (346, 230) if kind == "kface" else (112, 112))) for path in
            (tmp_path / "without").rglob("*") if path.is_file()}  # fmt: skip
    assert left == {-1} and not any("00000" in (row["identity"] or "") and row["identity"] in ("000001", "000002")
                                    for row in dataset.rejected())  # fmt: skip
    for option in ("identities", "without_identities"):
        given: dict[str, Any] = {option: names(tmp_path / "none.txt", "nobody")}
        with pytest.raises(InputError, match=r"none\.txt: none of its 1 names is an identity of"):
            extract(source, tmp_path / "no", ExtractConfig(**given))


@pytest.mark.parametrize("kind", ["rec", "lst"])
def test_labels_may_be_listed_as_numbers(kind: str, tmp_path: Path) -> None:
    source = KINDS[kind](tmp_path / "raw")
    found, _, _ = counted(source, tmp_path / "out", identities=names(tmp_path / "some.txt", "2", "0003"))
    assert found == {"000002": 3, "000003": 1}


@pytest.mark.parametrize("workers", [1, 3])
def test_limits_do_not_depend_on_workers(workers: int, tmp_path: Path) -> None:
    made = extract(
        as_folders(tmp_path / "raw"),
        tmp_path / "out",
        ExtractConfig(max_images_per_identity=2, workers=workers, shard_bytes=1),
    )
    assert FaceDataset(made.path).column("image_id") == ["000001/1", "000001/2", "000002/0", "000002/1", "000003/2"]


def test_the_parts_of_a_rec_are_the_whole(tmp_path: Path) -> None:
    source = as_rec(tmp_path / "raw")
    options: dict[str, Any] = {"max_images_per_identity": 1, "without_identities": names(tmp_path / "no.txt", "2")}
    _, whole_over, whole = counted(source, tmp_path / "whole", **options)
    ids: list[str] = []
    over: Counter[str] = Counter()
    for number in (1, 2):
        _, passed_over, part = counted(source, tmp_path / f"part{number}", part=f"{number}/2", **options)
        ids += part.column("image_id")
        over.update(passed_over)
    assert ids == whole.column("image_id") and dict(over) == whole_over


def two_forms(folder: Path) -> Path:
    """12 people, each in a folder named in NFC and in one named in NFD, two other photos in each."""
    files = {}
    for person in range(12):
        name = f"김철수{chr(0xAC01 + person)}"
        for at, form in enumerate(("NFC", "NFD")):
            for number in (0, 1):
                data = picture(100 * person + 10 * at + number)
                files[f"{unicodedata.normalize(form, name)}/{number}.jpg"] = data  # type: ignore[arg-type]
    return put(folder, files)


def test_a_name_in_two_forms_is_one_person(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = two_forms(tmp_path / "raw")
    assert len(list(source.iterdir())) == 24
    found, _, dataset = counted(source, tmp_path / "out")
    assert len(found) == 12 and set(found.values()) == {4} and dataset.artifact.contents["rejected"] == 0
    assert (
        dataset.artifact.contents["identities_merged"] == 12 and "12 identities are spelled in two ways" in caplog.text
    )
    ids = dataset.column("image_id")
    assert len(set(ids)) == 48 and all(unicodedata.is_normalized("NFC", name) for name in (*ids, *found))
    # One person's images lie together, as the alignment of K-FACE and the limits of a loader expect.
    identities = dataset.column("identity")
    assert sum(one != other for one, other in itertools.pairwise(identities)) == 11
    assert dataset.numpy("label").tolist() == [row // 4 for row in range(48)]


def test_nobody_is_in_two_splits_under_two_names(tmp_path: Path) -> None:
    """The 12 people of two halves of an archive, one unpacked on a Mac: 8 of them used to be in two splits."""
    _, _, found = counted(two_forms(tmp_path / "raw"), tmp_path / "out")
    card: dict[str, Any] = {"step": "align", "recipe": {}, "inputs": [], "synthetic": False}
    with make_dataset(tmp_path / "aligned", **card) as maker:
        for row, (image_id, identity) in enumerate(
            zip(found.column("image_id"), found.column("identity"), strict=True)
        ):
            maker.add(image_id, identity, found.read(row), extension="jpg", size=(112, 112), source="raw")
        maker.describe(name="raw", aligned="arcface-112-v1", identities_known=True)
    assembled = FaceDataset(assemble([tmp_path / "aligned"], tmp_path / "assembled").path)
    splits: dict[str, set[str]] = {}
    for identity, split in zip(assembled.column("identity"), assembled.column("split"), strict=True):
        splits.setdefault(unicodedata.normalize("NFC", identity), set()).add(split)
    assert len(splits) == 12 and all(len(own) == 1 for own in splits.values())


def test_a_list_names_people_in_any_form(tmp_path: Path) -> None:
    source = two_forms(tmp_path / "raw")
    listed = unicodedata.normalize("NFD", f"김철수{chr(0xAC01)}")
    found, _, dataset = counted(source, tmp_path / "out", identities=names(tmp_path / "some.txt", listed))
    assert found == {unicodedata.normalize("NFC", listed): 4}
    assert dataset.artifact.contents["identities_unmatched"] == 0


def test_names_that_differ_in_case_are_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = put(tmp_path / "raw", {"Person_00/1.jpg": picture(1), "person_00/1.jpg": picture(2)})
    found, _, dataset = counted(source, tmp_path / "out")
    assert found == {"Person_00": 1, "person_00": 1} and dataset.artifact.contents["identities_alike"] == 1
    records = [
        record
        for record in caplog.records
        if record.levelno == logging.WARNING and "only in case" in record.getMessage()
    ]
    assert len(records) == 1 and "'Person_00', 'person_00' first" in records[0].getMessage()


@pytest.mark.parametrize(
    "name", ["kim\u200b", "\u202eann", "a\u00adb", "\ufeffkim", "kim ", "a\x1b[31mb", "a\nb", "\u3164"]
)
def test_names_that_nobody_can_see_are_refused(name: str, tmp_path: Path) -> None:
    source = put(
        tmp_path / "raw", {f"{name}/1.jpg": picture(1), "kim/1.jpg": picture(2), f"ann/x{name}x.jpg": picture(3)}
    )
    found, _, dataset = counted(source, tmp_path / "out")
    rejected = dataset.rejected()
    visible_inside = name == "kim "
    assert found == {"kim": 1} | ({"ann": 1} if visible_inside else {})
    assert {row["reason"] for row in rejected} == {"bad_name"} and len(rejected) == (1 if visible_inside else 2)
    for row in rejected:
        assert (row["detail"].isprintable() and row["where"].isprintable()) or name == "\u3164"
        assert visible_inside or "U+" in row["detail"]
        assert not any(character in row["detail"] for character in name if not character.isprintable())


def test_every_format_under_one_stem_is_kept(tmp_path: Path) -> None:
    files = {f"p00/a.{suffix}": data for suffix, data in pictures().items()}
    source = put(tmp_path / "raw", files | {"p01/1.jpg": picture(1), "p01/1.JPG": picture(2), "p02/1.jpg": picture(3)})
    _, _, dataset = counted(source, tmp_path / "out", verify=True)
    stored = {image_id: dataset.read(row) for row, image_id in enumerate(dataset.column("image_id"))}
    assert stored == files | {"p01/1.JPG": picture(2), "p01/1.jpg": picture(1), "p02/1": picture(3)}


def test_a_file_that_cannot_be_used_hides_none_that_can(tmp_path: Path) -> None:
    for number, broken in enumerate(("a.avif", "a.png", "a.webp")):
        files = {f"p00/a.{suffix}": data for suffix, data in pictures().items()} | {f"p00/{broken}": b"broken"}
        _, _, dataset = counted(put(tmp_path / f"raw{number}", files), tmp_path / f"out{number}")
        assert set(dataset.column("image_id")) == files.keys() - {f"p00/{broken}"}


def test_a_list_that_names_a_file_twice(tmp_path: Path) -> None:
    put(tmp_path / "raw", {"a/1.jpg": picture(1), "a/1.png": picture(2, "PNG")})
    rows = [Row(path, label, False) for path, label in (("a/1.jpg", 0), ("a/1.jpg", 0), ("a/1.png", 0), ("a/1.jpg", 1))]
    write_lst(tmp_path / "raw" / "train.lst", rows)
    dataset = FaceDataset(extract(tmp_path / "raw" / "train.lst", tmp_path / "out").path)
    assert dataset.column("image_id") == ["000000/a/1.jpg", "000000/a/1.png", "000001/a/1"]
    assert [row["reason"] for row in dataset.rejected()] == ["duplicate_key"]


AGEDB = r"[0-9]+_(?P<identity>.+)_[0-9]+_[mf]\.jpg"


def test_people_from_the_names_of_files(tmp_path: Path) -> None:
    files = {
        "0_MariaCallas_35_f.jpg": picture(1),
        "1_MariaCallas_40_f.jpg": picture(2),
        "2_José_18_m.jpg": picture(3),
        "notes_3.jpg": picture(4),
    }
    source = put(tmp_path / "raw", {unicodedata.normalize("NFD", name): data for name, data in files.items()})
    with pytest.raises(InputError, match="--identity-from"):
        extract(source, tmp_path / "none")
    with pytest.raises(InputError, match="--identity-from"):
        extract(source, tmp_path / "none", ExtractConfig(kind="folders"))
    found, _, dataset = counted(source, tmp_path / "out", identity_from=AGEDB)
    assert found == {"MariaCallas": 2, "José": 1}
    assert "MariaCallas/0_MariaCallas_35_f" in dataset.column("image_id")
    assert [(row["where"], row["reason"]) for row in dataset.rejected()] == [("notes_3.jpg", "no_identity")]
    with pytest.raises(InputError, match="identity_from fits none of 4 images, such as 0_MariaCallas"):
        extract(source, tmp_path / "none", ExtractConfig(identity_from="(?P<identity>[0-9])"))


def test_people_from_paths_and_limits(tmp_path: Path) -> None:
    source = put(
        tmp_path / "raw", {f"{year}/{who}-{n}.jpg": picture(n) for year in (1, 2) for who in "ab" for n in (1, 2)}
    )
    found, _, dataset = counted(
        source, tmp_path / "out", identity_from=r"[0-9]/(?P<identity>[a-z])-.*", max_images_per_identity=3
    )
    assert found == {"a": 3, "b": 3} and dataset.column("image_id")[:3] == ["a/1/a-1", "a/1/a-2", "b/1/b-1"]


@pytest.mark.parametrize(
    ("pattern", "says"), [("(", "is no regular expression"), ("a.*", "expected a group"), ("", "a group")]
)
def test_a_bad_pattern_is_a_sentence(pattern: str, says: str) -> None:
    with pytest.raises(InputError, match=f"identity_from .*{says}"):
        ExtractConfig(identity_from=pattern)


def test_every_reader_takes_every_format(tmp_path: Path) -> None:
    """What extraction keeps, the steps after it decode: alignment, training, export, inspection, another extraction."""
    size = {format: picture(3, format) for format in EXTENSIONS if format != "HEIF"}
    source = put(tmp_path / "raw", {f"{format}/1.{EXTENSIONS[format]}": data for format, data in size.items()})
    write_lst(
        source / "train.lst",
        [Row(f"{format}/1.{EXTENSIONS[format]}", n, True) for n, format in enumerate(sorted(size))],
    )
    made = extract(source / "train.lst", tmp_path / "out", ExtractConfig(verify=True))
    dataset = FaceDataset(made.path)
    assert len(dataset) == len(size) and made.contents["aligned"]
    faces = [read_face(dataset, row) for row in range(len(dataset))]
    exact = faces[sorted(size).index("PNG")].astype(int)
    assert all(np.abs(face - exact).mean() < 12 for face in faces)
    assert all(decode(dataset.read(row), reduce=2)[1].width == 112 for row in range(len(dataset)))
    export(made.path, tmp_path / "folders", to="folders")
    files = {file.suffix[1:]: file.read_bytes() for file in (tmp_path / "folders").glob("*/*/*")}
    assert files == {EXTENSIONS[format]: data for format, data in size.items()}
    export(made.path, tmp_path / "rec", to="rec")
    again = FaceDataset(extract(tmp_path / "rec", tmp_path / "again", ExtractConfig(verify=True)).path)
    assert [again.read(row) for row in range(len(again))] == [dataset.read(row) for row in range(len(dataset))]
    export(made.path, tmp_path / "shards", to="webdataset")
    facts = inspect(str(tmp_path / "folders"), tmp_path / "sheet.png")
    assert facts["images"] == facts["looked_at"] == len(size) and facts["problems"] == []
    write_bin(tmp_path / "set.bin", [data for data in size.values() for _ in (0, 1)], [True] * len(size))
    assert extract(tmp_path / "set.bin", tmp_path / "pairs").contents["pairs"] == len(size)


def test_a_pair_list_in_another_form(tmp_path: Path) -> None:
    nfd = unicodedata.normalize("NFD", "김")
    source = put(
        tmp_path / "raw", {f"{nfd}/{nfd}_000{n}.jpg": picture(n) for n in (1, 2)} | {"a/a_0001.jpg": picture(3)}
    )
    fold = f"{nfd}\t1\t2\n{nfd}\t1\ta\t1\n"
    (tmp_path / "pairs.txt").write_text(f"2\t1\n{fold}{fold}", encoding="utf-8")
    made = extract(source, tmp_path / "out", ExtractConfig(pairs=str(tmp_path / "pairs.txt")))
    assert (made.contents["pairs"], made.contents["pairs_lost"]) == (4, 0)


def test_a_list_of_files_in_another_form(tmp_path: Path) -> None:
    names_ = {form: unicodedata.normalize(form, "김/사진.jpg") for form in ("NFC", "NFD")}  # type: ignore[arg-type]
    put(tmp_path / "raw", {names_["NFD"]: picture(1)})
    write_lst(tmp_path / "raw" / "train.lst", [Row(names_["NFC"], 0, False)])
    _, _, dataset = counted(tmp_path / "raw" / "train.lst", tmp_path / "out")
    assert dataset.column("image_id") == ["000000/김/사진"]


def test_what_limits_count_is_what_is_kept(tmp_path: Path) -> None:
    """An image of another size is not usable among aligned faces, and takes no place."""
    source = put(
        tmp_path / "raw",
        {"a/0.jpg": picture(1, size=(64, 64)), "a/1.jpg": picture(2), "b/0.jpg": picture(3, size=(9, 9))},
    )
    options: dict[str, Any] = {"aligned": True, "max_images_per_identity": 1, "max_identities": 1}
    plan = plan_folders(source, ExtractConfig(**options))
    assert [entry.name for task in plan.tasks for entry in task.entries] == ["a/0.jpg", "a/1.jpg"]  # type: ignore[attr-defined]


def test_limits_and_names_are_the_same_in_an_archive(tmp_path: Path) -> None:
    folder = as_folders(tmp_path / "raw")
    shutil.make_archive(str(tmp_path / "raw"), "zip", folder)
    options: dict[str, Any] = {"max_images_per_identity": 2, "without_identities": names(tmp_path / "no.txt", "000002")}
    found, passed_over, unpacked = counted(folder, tmp_path / "unpacked", **options)
    packed, packed_over, inside = counted(tmp_path / "raw.zip", tmp_path / "packed", **options)
    assert packed == found == {"000001": 2, "000003": 1} and packed_over == passed_over
    assert inside.column("image_id") == unpacked.column("image_id")

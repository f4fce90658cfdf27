"""Walking: every file of a tree is an image, rejected or passed over with its reason, and nothing walks for ever."""

from __future__ import annotations

import json
import os
import unicodedata
import zipfile
from collections import Counter
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.trees import jpeg, tarred, write, zipped

from eolgul.artifact import canonical_json
from eolgul.assemble.config import AssembleConfig
from eolgul.assemble.step import assemble
from eolgul.dataset import FaceDataset
from eolgul.errors import InputError
from eolgul.extract.config import ExtractConfig
from eolgul.extract.file_names import begins_as_image, is_system_file, is_system_folder, says_image
from eolgul.extract.passed_over import PassedOver, Why, suffix_of
from eolgul.extract.step import extract

GOOD = jpeg(1)


def made(source: Path, out: Path, **options: Any) -> FaceDataset:
    dataset = FaceDataset(extract(source, out, ExtractConfig(name="x", **options)).path)
    contents = dataset.artifact.contents
    assert contents["inputs"] == contents["images"] + contents["rejected"] + contents["passed_over"]["total"]
    assert sum(contents["passed_over"]["by_reason"].values()) == contents["passed_over"]["total"]
    assert sum(contents["passed_over"]["by_suffix"].values()) == contents["passed_over"]["total"]
    return dataset


def passed(dataset: FaceDataset) -> dict[str, int]:
    return dict(dataset.artifact.contents["passed_over"]["by_reason"])


def test_files_without_a_suffix_or_with_an_unknown_one_are_looked_at(tmp_path: Path) -> None:
    files = {
        "p/0": GOOD,
        "p/1.jpe": jpeg(2),
        "p/2.photo": jpeg(3),
        "p/3.jpg": jpeg(4),
        "p/.jpg": jpeg(5),
        "p/cut": GOOD[:-9],
    }
    others = {
        "p/README": b"text",
        "p/a.txt": GOOD,
        "p/x.photo": b"no",
        "p/page": b"<html>",
        "p/empty": b"",
        "p/m.mat": b"x",
    }
    dataset = made(write(tmp_path / "source", files | others), tmp_path / "out")
    assert len(dataset) == 5 and [row["where"] for row in dataset.rejected()] == ["p/cut"]
    contents = dataset.artifact.contents
    assert (contents["inputs"], passed(dataset)) == (12, {"not_an_image": 6})
    assert contents["passed_over"]["by_suffix"] == {".mat": 1, ".photo": 1, ".txt": 1, "none": 3}


SYSTEM_FOLDERS = [
    "__MACOSX", ".AppleDouble", ".Spotlight-V100", ".Trashes", ".fseventsd", ".TemporaryItems", ".DocumentRevisions-V100",
    "@eaDir", "#recycle", "@Recycle", ".@__thumb", "@tmp", "$RECYCLE.BIN", "RECYCLER", "System Volume Information",
    "lost+found", ".Trash-1000", ".thumbnails", ".ipynb_checkpoints", ".git", ".svn", "__pycache__", "found.000", "$Recycle.Bin",
]  # fmt: skip
SNAPSHOTS = ["#snapshot", "@Recently-Snapshot", ".snapshot", ".zfs", "~snapshot"]
SYSTEM_FILES = [
    ".DS_Store", "Thumbs.db", "ehthumbs.db", "desktop.ini", "Desktop.ini", "._0.jpg", "._x.zip", "0.jpg:Zone.Identifier",
    "SYNOINDEX_MEDIA_INFO", "0.jpg@SynoEAStream", "Icon\r", ".localized", ".directory", ".picasa.ini", "~$doc.docx",
]  # fmt: skip


@pytest.mark.parametrize("level", ["", "p/", "p/more/"])
@pytest.mark.parametrize("archived", [False, True])
def test_what_systems_keep_is_no_person_at_any_level(tmp_path: Path, level: str, archived: bool) -> None:
    files = {f"{level}{folder}/{name}": GOOD for folder in SYSTEM_FOLDERS for name in ("0.jpg", "deep/1.jpg")}
    files |= {f"{level}.secret/0.jpg": GOOD}
    files |= {f"{level}{name}": GOOD for name in SYSTEM_FILES}
    people = {"p/0.jpg": GOOD, "q/0.jpg": jpeg(2)}
    source = write(tmp_path / "source", files | people)
    if archived:
        (tmp_path / "source.zip").write_bytes(zipped(files | people))
        source = tmp_path / "source.zip"
    dataset = made(source, tmp_path / "out")
    assert dataset.column("identity") == ["p", "q"] and not dataset.rejected()
    assert passed(dataset) == {"system_file": 2 * len(SYSTEM_FOLDERS) + len(SYSTEM_FILES), "hidden": 1}
    assert all(map(is_system_folder, SYSTEM_FOLDERS + SNAPSHOTS)) and all(map(is_system_file, SYSTEM_FILES))


def test_system_files_do_not_count_for_limits(tmp_path: Path) -> None:
    files = {"p/._0.jpg": GOOD, "p/._1.jpg": GOOD, "p/0.jpg": GOOD, "q/0.jpg": GOOD, "q/1.jpg": jpeg(2)}
    dataset = made(write(tmp_path / "source", files), tmp_path / "out", min_images=2)
    assert set(dataset.column("identity")) == {"q"} and passed(dataset) == {"system_file": 2, "over_limit": 1}


def test_a_nas_backup_of_the_whole_tree_is_not_entered(tmp_path: Path) -> None:
    files = {f"{name}/day{day}/p/0.jpg": GOOD for name in SNAPSHOTS for day in range(3)}
    dataset = made(write(tmp_path / "source", files | {"p/0.jpg": GOOD}), tmp_path / "out")
    assert passed(dataset) == {"system_file": len(SNAPSHOTS)}


def test_links(tmp_path: Path) -> None:
    """One that leads round is not followed; one that leads elsewhere is, at the top, once."""
    source = write(tmp_path / "source", {"p/0.jpg": GOOD, "q/0.jpg": jpeg(2)})
    elsewhere = write(tmp_path / "store", {"0.jpg": jpeg(3), "more/1.jpg": jpeg(4)})
    for name, target in {
        "up": "..", "self": ".", "same": "p", "inside": "p", "r": str(elsewhere), "s": str(elsewhere), "t": str(elsewhere / "more"),
        "root": "/", "loop": "loop", "p/back": "..", "p/other": str(elsewhere), "q/dead.jpg": "none.jpg", "q/dead": "none",
        "q/1.jpg": str(elsewhere / "0.jpg"),
    }.items():  # fmt: skip
        (source / name).symlink_to(target)
    os.mkfifo(source / "p" / "pipe.jpg")
    dataset = made(source, tmp_path / "out")
    assert dataset.column("image_id") == ["p/0", "q/0", "q/1", "r/0", "r/more/1"]
    assert [row["where"] for row in dataset.rejected()] == ["q/dead.jpg"]
    assert passed(dataset) == {"link": 11, "special_file": 1}


def test_artifacts_in_a_source_are_not_raw_data(tmp_path: Path) -> None:
    source = write(tmp_path / "source", {"p/0.jpg": GOOD, "q/0.jpg": GOOD})
    first = made(source, source / "out")
    assert passed(first) == {} and len(first) == 2
    again = made(source, source / "out")
    assert again.artifact.digest == first.artifact.digest
    other = made(source, tmp_path / "other")
    assert set(passed(other)) == {"artifact"} and other.artifact.contents["identities"] == 2
    (source / "p" / "dataset.json").write_text('{"kind": "photos"}')  # somebody else's
    assert made(source, tmp_path / "third").artifact.contents["identities"] == 2


def test_what_a_folder_without_people_holds_is_said(tmp_path: Path) -> None:
    files = {f"a/{n}.7z": b"7z" for n in range(3)} | {"a/x.txt": b"", "a/y": b"", "b/c.json": b""}
    with pytest.raises(InputError, match=r"it holds 3 \.7z, 1 \.json, 1 \.txt, 1 others; unpack it into a folder"):
        made(write(tmp_path / "source", files), tmp_path / "out")
    with pytest.raises(InputError, match=r"holds no train\.rec.*, but 2 \.rar; unpack"):
        made(write(tmp_path / "rar", {"1.rar": b"", "2.rar": b""}), tmp_path / "out", kind="auto")
    with pytest.raises(InputError, match="it is empty"):
        made(write(tmp_path / "empty", {}), tmp_path / "out")


def test_suffixes_are_few_and_plain() -> None:
    counts = PassedOver()
    for name in ("a.TXT", "b.txt", "c", "d.0001", "e.tar.gz", "f.한글", "g." + "x" * 30, ".hidden"):
        counts.add(Why.NOT_AN_IMAGE, name)
    for number in range(100):
        counts.add(Why.HIDDEN, f"x.a{number}b")
    facts = counts.to_json()
    assert facts["total"] == 108 == sum(facts["by_suffix"].values()) and len(facts["by_suffix"]) <= 42
    assert facts["by_suffix"][".txt"] == 2 and suffix_of("x.한글") == "other" and facts["by_suffix"]["none"] == 2
    assert says_image("x.JPG") and says_image("x.npy") is False and says_image("x") is None
    assert begins_as_image(GOOD[:64]) and not begins_as_image(b"PK\3\4" + bytes(60))


# Random trees. A name is in a normal form, or foreign, or a system's; a file is good, broken or something else; a folder may
# be an archive.
_PERSON = st.sampled_from(["ann", "김철수", "josé", "n0001"])
_NAME = st.one_of(
    _PERSON.map(lambda name: unicodedata.normalize("NFC", name)),
    _PERSON.map(lambda name: unicodedata.normalize("NFD", name)),
)
_FILE = st.tuples(
    st.sampled_from(["0", "1", "사진", "é", "._0", ".DS_Store", "Thumbs", "x"]),
    st.sampled_from([".jpg", ".JPG", ".png", "", ".txt", ".db", ".photo", ".7z", ".gif"]),
).map("".join)
_DATA = st.sampled_from([GOOD, jpeg(2), jpeg(3), GOOD[:-9], b"", b"text", b"GIF89a"])
_FILES = st.dictionaries(_FILE, _DATA, min_size=1, max_size=4)
_FOLDER = st.recursive(
    _FILES,
    lambda inner: st.dictionaries(
        st.one_of(_NAME, st.sampled_from(["@eaDir", ".git", "lost+found", "more", "a.zip", "b.tar", "ann.zip", ".x"])),
        inner,
        min_size=1,
        max_size=3,
    ),
    max_leaves=5,
)
_TREE = st.dictionaries(
    st.one_of(
        _NAME, _NAME.map("{}.zip".format), _NAME.map("{}.tar".format), st.sampled_from(["@eaDir", "$RECYCLE.BIN"])
    ),
    _FOLDER,
    min_size=1,
    max_size=6,
)


def flat(tree: dict[str, Any], below: str = "") -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    for name, value in tree.items():
        path = below + name
        if isinstance(value, bytes):
            files[path] = value
        elif name.endswith(".zip"):
            files[path] = zipped(flat(value), zipfile.ZIP_STORED if len(value) % 2 else zipfile.ZIP_DEFLATED)
        elif name.endswith(".tar"):
            files[path] = tarred(flat(value))
        else:
            files |= flat(value, f"{path}/")
    return files


def count(tree: dict[str, Any], closed: bool = False) -> int:
    """The inputs of a tree: its files, and for archives what is in them, unless a folder is a system's."""
    total = 0
    for name, value in tree.items():
        shut = closed or is_system_folder(name) or name.startswith(".")
        if isinstance(value, bytes):
            total += 1
        elif closed and name.endswith((".zip", ".tar")):
            total += 1  # it is not opened there
        else:
            total += count(value, shut)
    return total


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tree=_TREE, links=st.lists(st.sampled_from(["..", ".", "ann", "nowhere"]), max_size=2))
def test_inputs_are_images_and_rejected_and_passed_over(
    tmp_path_factory: pytest.TempPathFactory, tree: dict[str, Any], links: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("tree")
    source = write(folder / "source", flat(tree))
    for number, target in enumerate(links):
        (source / f"link{number}").symlink_to(target)
    try:
        dataset = made(source, folder / "out", depth=1)
    except InputError as error:
        assert any(
            words in str(error) for words in ("not one usable image", "no identity folder", "lie beside one another")
        )
        assert not (folder / "out").exists()
        return
    contents = dataset.artifact.contents
    assert contents["inputs"] == count(tree) + len(links)
    assert contents["rejected"] == len(dataset.rejected()) == sum(contents["rejected_by_reason"].values())
    ids = dataset.column("image_id")
    assert len(set(ids)) == len(ids)
    identities = Counter(dataset.column("identity"))
    assert all(unicodedata.is_normalized("NFC", name) for name in identities)
    assert not any(is_system_folder(name) or name.startswith(("link", ".")) for name in identities)


_PEOPLE = [f"Zoé {number:02}" for number in range(12)]  # enough to hold people back from every source
_PLACED_PERSON = st.tuples(st.integers(0, 1), st.sampled_from(_PEOPLE))


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    copied=st.lists(st.tuples(_PLACED_PERSON, _PLACED_PERSON), max_size=8),
    forms=st.sets(_PLACED_PERSON, max_size=4),
    nested=st.sets(_PLACED_PERSON, max_size=4),
    seed=st.integers(0, 5),
)
def test_nobody_of_random_trees_stands_in_two_splits(
    tmp_path_factory: pytest.TempPathFactory,
    copied: list[tuple[tuple[int, str], tuple[int, str]]],
    forms: set[tuple[int, str]],
    nested: set[tuple[int, str]],
    seed: int,
) -> None:
    """Neither by name, in whatever normal form its folders are, nor by an image that lies in two people's folders."""
    folder = tmp_path_factory.mktemp("people")
    own = {person: [jpeg(100 * place), jpeg(100 * place + 1)] for place, person in enumerate(product((0, 1), _PEOPLE))}
    trees: list[dict[str, bytes]] = [{}, {}]
    for place, ((tree, name), images) in enumerate(own.items()):
        below = f"{name}/{'session' if (tree, name) in nested else '.'}"
        trees[tree] |= {f"{below}/{number}.jpg": image for number, image in enumerate(images)}
        if (tree, name) in forms:
            trees[tree][f"{unicodedata.normalize('NFD', name)}/3.jpg"] = jpeg(100 * place + 3)
    for number, (one, (tree, name)) in enumerate(copied):
        trees[tree][f"{name}/copy{number}.jpg"] = own[one][0]
    places = []
    for number, files in enumerate(trees):
        source = write(folder / f"s{number}", {os.path.normpath(name): data for name, data in files.items()})
        extracted = extract(source, folder / f"x{number}", ExtractConfig(name=f"s{number}", depth=1)).path
        card = json.loads((extracted / "dataset.json").read_bytes())
        card["contents"]["aligned"] = "arcface-112-v1"
        (extracted / "dataset.json").write_bytes(canonical_json(card))
        places.append(extracted)
    try:
        made = FaceDataset(assemble(places, folder / "out", AssembleConfig(seed=seed)).path)
    except InputError as error:
        assert "too few to hold back" in str(error)  # copies have joined too many
        return
    where = set(zip(made.column("identity"), made.column("sha256"), made.column("split"), strict=True))
    for column in (0, 1):
        assert len({row[column] for row in where}) == len({(row[column], row[2]) for row in where})
    assert {row[0] for row in where} == {f"s{tree}.{name}" for tree, name in own}
    assert {row[2] for row in where} == {"train", "validation", "calibration", "test"}

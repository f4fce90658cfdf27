"""An artifact is whole or not there, and its digest stands for every byte of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eolgul.artifact import Artifact, canonical_json, open_artifact, reuse, seal, writing
from eolgul.errors import InputError


def make(out: Path, files: dict[str, bytes] | None = None, kind: str = "FaceDataset", **changes: Any) -> Artifact:
    facts: dict[str, Any] = {
        "step": "test",
        "version": 1,
        "recipe": {"a": 1},
        "inputs": [],
        "contents": {"images": 1},
        "synthetic": False,
    }
    with writing(out) as folder:
        for name, data in (files or {"a": b"a", "deep/b": b"b"}).items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
        seal(folder, kind, **(facts | changes))
    return open_artifact(out, check="sha256")


def test_the_same_things_give_the_same_digest_elsewhere(tmp_path: Path) -> None:
    one, other = make(tmp_path / "one"), make(tmp_path / "deep" / "er" / "other")
    assert one.digest == other.digest
    assert (one.path / "dataset.json").read_bytes() == (other.path / "dataset.json").read_bytes()


def test_anything_else_gives_another(tmp_path: Path) -> None:
    ways: list[dict[str, Any]] = [
        {},
        {"files": {"a": b"b", "deep/b": b"b"}},
        {"files": {"a": b"a", "deep/b": b"b", "c": b""}},
        {"files": {"a": b"a", "deep/c": b"b"}},
        {"recipe": {"a": 2}},
        {"inputs": [{"kind": "raw:rec", "digest": "0"}]},
        {"contents": {"images": 2}},
        {"synthetic": True},
        {"step": "other"},
        {"version": 2},
        {"kind": "Evaluation"},
    ]
    digests = [make(tmp_path / str(number), **way).digest for number, way in enumerate(ways)]
    assert len(set(digests)) == len(ways)


@pytest.mark.parametrize("before", [True, False])
def test_a_failure_leaves_what_was_there_and_nothing_else(tmp_path: Path, before: bool) -> None:
    out = tmp_path / "out"
    if before:
        digest = make(out).digest
    for problem in (ValueError, KeyboardInterrupt, SystemExit):
        with pytest.raises(problem), writing(out) as folder:
            (folder / "half").write_bytes(b"x")
            assert (not before) or open_artifact(out).digest == digest  # readers see the old one meanwhile
            raise problem
    assert [path.name for path in tmp_path.iterdir()] == (["out"] if before else [])
    if before:
        assert open_artifact(out, check="sha256").digest == digest


def test_a_new_one_replaces_the_old_one_entirely(tmp_path: Path) -> None:
    make(tmp_path / "out", {"old": b"1"})
    make(tmp_path / "out", {"new": b"2"})
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["dataset.json", "new"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_places_where_no_directory_can_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"precious")
    for out in (tmp_path / "file", tmp_path / "file" / "below", tmp_path / "file" / "far" / "below"):
        with pytest.raises(InputError, match="file"):
            make(out)
    assert (tmp_path / "file").read_bytes() == b"precious"


def test_a_folder_that_is_no_artifact_is_left_alone(tmp_path: Path) -> None:
    """`eolgul extract photos photos` must not delete the photos."""
    photo = tmp_path / "photos" / "ann" / "1.jpg"
    photo.parent.mkdir(parents=True)
    photo.write_bytes(b"precious")
    make(tmp_path / "data" / "x")
    for out in (tmp_path / "photos", tmp_path / "data"):
        with pytest.raises(InputError, match=rf"^{out}: is a folder that holds other things than an artifact"):
            make(out)
    assert photo.read_bytes() == b"precious"
    assert open_artifact(tmp_path / "data" / "x", check="sha256")
    (tmp_path / "empty").mkdir()
    make(tmp_path / "empty")


@pytest.mark.parametrize("name", ["notes.txt", "deep/notes.txt", "other/dataset.json", "link"])
def test_what_an_artifact_does_not_list_is_not_lost(tmp_path: Path, name: str) -> None:
    out = make(tmp_path / "out").path
    (out / name).parent.mkdir(exist_ok=True)
    if name == "link":
        (out / name).symlink_to("nowhere")
    else:
        (out / name).write_bytes(b"precious")
    with pytest.raises(InputError, match=rf"holds {name}, which does not belong to the artifact there"):
        make(out, {"new": b"2"})
    assert (out / name).is_symlink() or (out / name).read_bytes() == b"precious"
    assert open_artifact(out, check="sha256")
    (out / name).unlink()
    make(out, {"new": b"2"})


def test_what_is_put_there_meanwhile_is_not_lost(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds other things"), writing(tmp_path / "out"):
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "notes").write_bytes(b"precious")
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "notes"]


def test_a_damaged_artifact_is_replaced(tmp_path: Path) -> None:
    out = make(tmp_path / "out").path
    (out / "a").unlink()
    (out / "deep" / "b").write_bytes(b"longer")
    (tmp_path / ".out.1.partial").mkdir()  # of a process that was killed
    assert make(out, {"new": b"2"}).card["files"].keys() == {"new"}
    (out / "new").unlink()
    (out / "dataset.json").write_bytes(b"{")
    make(out)


def test_every_byte_counts(tmp_path: Path) -> None:
    made = make(tmp_path / "out")
    for name in made.card["files"]:
        file = made.path / name
        whole = file.read_bytes()
        file.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
        assert open_artifact(made.path).digest == made.digest  # as long as before: only sha256 tells
        with pytest.raises(InputError, match=rf"{name}: sha256 differs"):
            open_artifact(made.path, check="sha256")
        file.write_bytes(whole + b"x")
        with pytest.raises(InputError, match=rf"{name}: 2 bytes, expected 1"):
            open_artifact(made.path)
        file.unlink()
        with pytest.raises(InputError, match=rf"{name}: listed in dataset\.json but missing"):
            open_artifact(made.path)
        file.write_bytes(whole)
    card = made.path / "dataset.json"
    card.write_bytes(card.read_bytes().replace(b'"images": 1', b'"images": 2'))
    assert open_artifact(made.path).digest != made.digest


def test_kinds(tmp_path: Path) -> None:
    make(tmp_path / "out", kind="Evaluation")
    with pytest.raises(InputError, match="is an Evaluation, expected a FaceDataset"):
        open_artifact(tmp_path / "out", "FaceDataset")
    (tmp_path / "out" / "evaluation.json").rename(tmp_path / "out" / "dataset.json")
    with pytest.raises(InputError, match=r"dataset\.json: not a format 1 FaceDataset card"):
        open_artifact(tmp_path / "out")
    with pytest.raises(InputError, match="not an eolgul artifact"):
        open_artifact(tmp_path)
    with pytest.raises(InputError, match="no such artifact directory"):
        open_artifact(tmp_path / "none")


CHANGES: list[Callable[[dict[str, Any]], Any]] = [
    lambda card: [],
    lambda card: "card",
    lambda card: card | {"files": ["a"]},
    lambda card: card | {"files": {"a": None}},
    lambda card: card | {"files": {"a": {"size": 1}}},
    lambda card: card | {"files": {"a": {"size": "many", "sha256": ""}}},
    lambda card: card | {"format": 2},
    lambda card: card | {"contents": []},
    lambda card: {key: value for key, value in card.items() if key != "contents"},
    lambda card: {key: value for key, value in card.items() if key != "synthetic"},
    lambda card: {},
]


@pytest.mark.parametrize("number", range(len(CHANGES)))
def test_a_card_of_another_shape_is_a_sentence(tmp_path: Path, number: int) -> None:
    card = make(tmp_path / "out").card
    (tmp_path / "out" / "dataset.json").write_text(json.dumps(CHANGES[number](card)))
    with pytest.raises(InputError, match=r"dataset\.json: not a format 1 FaceDataset card"):
        open_artifact(tmp_path / "out")


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe", b"null", b"[" * 200_000])
def test_a_card_that_is_no_json(tmp_path: Path, data: bytes) -> None:
    make(tmp_path / "out")
    (tmp_path / "out" / "dataset.json").write_bytes(data)
    with pytest.raises(InputError, match=r"dataset\.json"):
        open_artifact(tmp_path / "out")


def test_a_card_may_not_point_outside(tmp_path: Path) -> None:
    card = make(tmp_path / "out").card
    (tmp_path / "a").write_bytes(b"a")
    for name in ("../a", "deep/../../a", str(tmp_path / "a")):
        (tmp_path / "out" / "dataset.json").write_text(json.dumps(card | {"files": {name: card["files"]["a"]}}))
        with pytest.raises(InputError, match="outside its directory: refused"):
            open_artifact(tmp_path / "out", check="sha256")


def test_reuse_asks_for_everything_to_be_equal(tmp_path: Path) -> None:
    wanted: dict[str, Any] = {"step": "test", "version": 1, "recipe": {"a": 1}, "inputs": []}
    out = tmp_path / "out"
    assert reuse(out, "FaceDataset", **wanted) is None
    digest = make(out).digest
    found = reuse(out, "FaceDataset", **wanted)
    assert found is not None and found.digest == digest
    changes: list[dict[str, Any]] = [
        {"step": "x"},
        {"version": 2},
        {"recipe": {"a": 2}},
        {"recipe": {"a": 1, "b": None}},
        {"inputs": [{"digest": "0"}]},
    ]
    for change in changes:
        assert reuse(out, "FaceDataset", **(wanted | change)) is None
    (out / "a").unlink()
    assert reuse(out, "FaceDataset", **wanted) is None
    (out / "dataset.json").write_bytes(b"{")
    assert reuse(out, "FaceDataset", **wanted) is None


def test_json_is_canonical() -> None:
    assert canonical_json({"b": 1, "a": "얼굴"}) == canonical_json({"a": "얼굴", "b": 1})
    assert "얼굴".encode() in canonical_json("얼굴")
    with pytest.raises(ValueError, match="JSON"):
        canonical_json({"a": float("nan")})

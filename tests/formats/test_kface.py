"""K-FACE's tree, its selection language and its annotation files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eolgul.errors import InputError
from eolgul.formats.identities import read_identities
from eolgul.formats.kface import (
    ACCESSORIES,
    CAMERAS,
    EXPRESSIONS,
    LIGHTS,
    RESOLUTIONS,
    Condition,
    Selection,
    image_id,
    parse_path,
    read_annotation,
    read_kface_pairs,
    visible_boxes,
    write_annotation,
)
from eolgul.formats.pair_lists import Pair


def test_the_published_counts() -> None:
    assert len(Selection(resolutions=RESOLUTIONS)) == 32_400  # images a person, all three resolutions
    original = Selection.parse("original")
    assert len(original) == len(list(original.conditions())) == 162  # the original project's, a person
    assert len(RESOLUTIONS) * len(ACCESSORIES) * len(LIGHTS) * len(EXPRESSIONS) * len(CAMERAS) == 32_400


@given(st.integers(1, 30), st.integers(1, 30))
def test_ranges(first: int, last: int) -> None:
    text = f"lights=L{first}-L{last} cameras=C7"
    if last < first:
        with pytest.raises(InputError, match="backwards"):
            Selection.parse(text)
    else:
        chosen = Selection.parse(text)
        assert chosen.lights == tuple(f"L{number}" for number in range(first, last + 1))
        assert chosen.cameras == ("C7",) and chosen.expressions == EXPRESSIONS


@pytest.mark.parametrize(
    "text", ["orginal", "lights=L0", "lights=L31", "light=L1", "cameras=", "cameras=C1-", "accessories=S1"]
)
def test_unknown_words_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="selection"):
        Selection.parse(text)


@pytest.mark.parametrize(
    "text", ["lights=L1 lights=L2", "lights=L3-L1", "resolutions=middle", "original lights=L1", "lights"]
)
def test_a_selection_that_would_mean_something_else_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="selection"):
        Selection.parse(text)


def test_the_order_of_values_does_not_matter() -> None:
    assert Selection.parse("cameras=C9,C5-C7,C6") == Selection.parse("cameras=C5,C6,C7,C9")
    assert Selection.parse("cameras=C9,C5").cameras == ("C5", "C9")


@given(st.lists(st.tuples(st.floats(0, 900, width=32), st.floats(0, 600, width=32)), min_size=7, max_size=7))
def test_annotations_come_back_to_a_tenth_of_a_pixel(
    tmp_path_factory: pytest.TempPathFactory, points: list[tuple[float, float]]
) -> None:
    file = tmp_path_factory.getbasetemp() / "C8.txt"
    write_annotation(file, np.array(points), [[1.25, 2, 3, 4]] * 6)
    found = read_annotation(file)
    np.testing.assert_allclose(found.points, points, atol=0.051)
    assert found.boxes.shape == (6, 4)


def test_membership_agrees_with_enumeration() -> None:
    chosen = Selection.parse("lights=L1,L16-L18 cameras=C5-C6 expressions=E02 accessories=S001")
    inside = set(chosen.conditions())
    assert all((condition in chosen) == (condition in inside) for condition in Selection().conditions())


def test_paths_both_ways() -> None:
    for condition in list(Selection(resolutions=RESOLUTIONS).conditions())[::97]:
        assert parse_path(f"some/where/{condition.path('19062421')}") == ("19062421", condition)
    seed = Condition("High", "S001", "L1", "E01", "C7")
    assert parse_path("High_Resolution/19062421/S001/L1/E1/C7.jpg") == ("19062421", seed)


@pytest.mark.parametrize(
    "path",
    [
        "Middle_Resolution/1/S001/L1/E01/C21.jpg",
        "Middle_Resolution/1/S007/L1/E01/C1.jpg",
        "Middle_Resolution/1/S001/L31/E01/C1.jpg",
        "Middle_Resolution/1/S001/L1/E04/C1.jpg",
        "Huge_Resolution/1/S001/L1/E01/C1.jpg",
        "Middle_Resolution/1/S001/L1/E01/C01.jpg",
        "Middle_Resolution/1/S001/L0/E01/C1.jpg",
        "Middle_Resolution/1/S001/L1/E00/C1.jpg",
        "Middle_Resolution/1/S001/L1/E011/C1.jpg",
        "Middle_Resolution/1/S001/L1/E01/C1.jpg.png.gif",
        "Middle_Resolution/1/S001/L1/E01/more/C1.jpg",
        "Middle_Resolution/1/S001/L1/E01/C1.txt",
        "1/S001/L1/E01/C1.jpg",
    ],
)
def test_other_paths_are_none(path: str) -> None:
    assert parse_path(path) is None


@pytest.mark.parametrize("separator", [" ", "\t", ",", ";", ", ", "  ", " \t", ";,", " ; "])
def test_the_separators_in_the_wild(tmp_path: Path, separator: str) -> None:
    points = [[number, number + 0.5] for number in range(7)]
    boxes = [[1.0, 2.0, 30.0, 40.0]] * 5
    text = "\n".join(separator.join(str(value) for value in row) for row in [*points, *boxes])
    (tmp_path / "C7.txt").write_text(text)
    found = read_annotation(tmp_path / "C7.txt")
    np.testing.assert_array_equal(found.points, points)
    np.testing.assert_array_equal(found.boxes, boxes)


def test_landmarks_come_in_the_templates_order(tmp_path: Path) -> None:
    """K-FACE: nose, right eye, left eye, right mouth, left mouth; the person's right is on the left of the picture."""
    seen = {
        "nose": (50, 60),
        "right eye": (30, 40),
        "left eye": (70, 40),
        "right mouth": (35, 80),
        "left mouth": (65, 80),
    }
    write_annotation(tmp_path / "a.txt", np.array([*seen.values(), (10, 50), (90, 50)]), [[0, 0, 100, 100]] * 5)
    expected = [seen[name] for name in ("right eye", "left eye", "nose", "right mouth", "left mouth")]
    np.testing.assert_array_equal(read_annotation(tmp_path / "a.txt").landmarks, expected)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "7 lines"),
        ("1 2\n" * 7, "7 lines"),
        ("1 2\n" * 7 + "1 2 3 4\n" * 4, "11 lines, expected 7 lines 'x y' and then 5 to 7"),
        ("1 2\n" * 7 + "1 2 3 4\n" * 8, "line 15: an 8th box"),
        ("1 2\n" * 7 + "1 2 3 4\n1 2 3\n", "line 9: "),
        ("1 nan\n" * 8, "line 1: "),
        ("1 2\n\n" * 7 + "1 2 3 inf\n", "line 15: "),
        ("1 2\n" * 2 + "1e99 2\n", "line 3: "),
        ("1 2\n" * 6 + "a b\n1 2 3 4", "line 7"),
        ("1 2 3\n" * 9, "line 1: "),
    ],
)
def test_malformed_annotations_are_sentences(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "C7.txt").write_text(text)
    with pytest.raises(InputError, match=rf"C7\.txt.*{says}"):
        read_annotation(tmp_path / "C7.txt")


def test_the_published_training_selections() -> None:
    """The paper's counts for its 370 people of the training."""
    counts = {name: 370 * len(Selection.parse(name)) for name in ("T1", "T2", "T3", "T4")}
    assert counts == {"T1": 2_590, "T2": 46_620, "T3": 654_160, "T4": 3_862_800}
    assert "L7" not in Selection.parse("protocol-test").lights and len(Selection.parse("protocol-test").lights) == 29


def test_the_selections_are_those_of_the_published_files(shared_data: Path) -> None:
    """`s1~2`, `l1~2,8 # except …`, `c4~10` of the protocol's own notation, against ours."""

    def numbers(text: str) -> list[int]:
        taken: list[int] = []
        for part in text.split("#", maxsplit=1)[0].strip()[1:].split(","):
            first, _, last = part.partition("~")
            taken += range(int(first), int(last or first) + 1)
        return taken

    for name in ("T1", "T2", "T3", "T4"):
        lines = (shared_data / "kface-protocol" / f"kface.{name}.yaml").read_text().splitlines()
        facts = dict(line.split(": ", 1) for line in lines if ": " in line and not line.startswith("#"))
        for prefix, chosen in (("train", Selection.parse(name)), ("test", Selection.parse("protocol-test"))):
            assert chosen.accessories == tuple(f"S{n:03}" for n in numbers(facts[f"{prefix}_acs"]))
            assert chosen.lights == tuple(f"L{n}" for n in numbers(facts[f"{prefix}_lux"]))
            assert chosen.expressions == tuple(f"E{n:02}" for n in numbers(facts[f"{prefix}_eps"]))
            assert chosen.cameras == tuple(f"C{n}" for n in numbers(facts[f"{prefix}_pose"]))


def test_the_published_lists(shared_data: Path) -> None:
    folder = shared_data / "kface-protocol"
    people = read_identities(folder / "kface-test-identity30.txt")
    assert len(people) == len(set(people)) == 30
    pairs = read_kface_pairs(folder / "kface.Q1.txt", "High")
    assert len(pairs) == 1_000 and sum(pair.same for pair in pairs) == 500
    for fold in range(10):
        assert [pair.same for pair in pairs if pair.fold == fold].count(True) == 50
        assert [pair.same for pair in pairs if pair.fold == fold].count(False) == 50
    assert all(pair.same == (pair.left.split("/")[0] == pair.right.split("/")[0]) for pair in pairs)
    assert {side.split("/")[0] for pair in pairs for side in pair[:2]} <= set(people)
    assert all(side.split("/")[1].startswith("High_S001_L1_E01_C") for pair in pairs for side in pair[:2])
    analysis = read_kface_pairs(folder / "kface_analysis_pair.txt")
    assert len(analysis) == 6_000 and {side.split("_C")[0].split("/")[1] for pair in analysis for side in pair[:2]} == {
        "Middle_S001_L1_E01"
    }


def test_pair_lists_by_hand(tmp_path: Path) -> None:
    file = tmp_path / "Q.txt"
    file.write_text("19062421/S001/L1/E01/C4.jpg 19062421/S003/L30/E03/C20.jpg 1\r\n\n7 C1 8 C2 0\n" * 10)
    condition = Condition("Low", "S003", "L30", "E03", "C20")
    assert read_kface_pairs(file, "Low") == [
        pair
        for fold in range(10)
        for pair in (
            Pair("19062421/Low_S001_L1_E01_C4", image_id("19062421", condition), True, fold),
            Pair("7/Low_S001_L1_E01_C1", "8/Low_S001_L1_E01_C2", False, fold),
        )
    ]
    file.write_text("7 C1 7 C2 1\n7 C1 8 C2 0\n" * 9)
    with pytest.raises(InputError, match=r"9 genuine and 9 impostor pairs without folds; the protocol has ten"):
        read_kface_pairs(file)
    for bad in ("a/S001/L1/E01/C4.jpg a/S001/L1/E01/C21.jpg 1", "a C1 b C2 2", "a C1 b 1", "a b c d e f", "x y 1"):
        file.write_text(f"7 C1 8 C2 0\n{bad}\n")
        with pytest.raises(InputError, match=r"Q\.txt line 2: "):
            read_kface_pairs(file)
    for empty, says in ((b"", "empty, expected one "), (b"\xff", "at byte 0"), (None, "No such file")):
        file.unlink(missing_ok=True)
        if empty is not None:
            file.write_bytes(empty)
        with pytest.raises(InputError, match=rf"Q\.txt.*{says}"):
            read_kface_pairs(file)


def test_boxes_have_the_names_of_what_the_camera_sees(tmp_path: Path) -> None:
    assert {camera: len(visible_boxes(camera)) for camera in CAMERAS} == {
        **dict.fromkeys(CAMERAS, 6),
        **dict.fromkeys(("C7", "C16"), 7),
        **dict.fromkeys(("C1", "C2", "C12", "C13"), 5),
    }
    assert visible_boxes("C1") == ("face", "left eye", "nose", "mouth", "left ear")  # yaw +90: the person's left side
    assert visible_boxes("C9")[-1] == "right ear" and visible_boxes("C19")[-1] == "left ear"
    write_annotation(tmp_path / "C12.txt", np.zeros((7, 2)), [[number, 0, 1, 1] for number in range(5)])
    found = read_annotation(tmp_path / "C12.txt")
    named = found.named_boxes("C12")
    assert [(name, int(box[0])) for name, box in named.items()] == [
        ("face", 0), ("right eye", 1), ("nose", 2), ("mouth", 3), ("right ear", 4),
    ]  # fmt: skip
    for camera, says in (("C7", "5 boxes of camera C7, expected 7"), ("C21", "'C21'")):
        with pytest.raises(InputError, match=says):
            found.named_boxes(camera)

"""K-FACE's tree, its selection language and its annotation files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eolgul.errors import InputError
from eolgul.formats.kface import (
    ACCESSORIES,
    CAMERAS,
    EXPRESSIONS,
    LIGHTS,
    RESOLUTIONS,
    Condition,
    Selection,
    parse_path,
    read_annotation,
    write_annotation,
)


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


@pytest.mark.parametrize("separator", [" ", "\t", ",", ";", ", "])
def test_the_separators_in_the_wild(tmp_path: Path, separator: str) -> None:
    points = [[number, number + 0.5] for number in range(7)]
    boxes = [[1, 2, 30, 40]] * 5
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
    write_annotation(tmp_path / "a.txt", np.array([*seen.values(), (10, 50), (90, 50)]), [[0, 0, 100, 100]])
    expected = [seen[name] for name in ("right eye", "left eye", "nose", "right mouth", "left mouth")]
    np.testing.assert_array_equal(read_annotation(tmp_path / "a.txt").landmarks, expected)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "7 lines"),
        ("1 2\n" * 7, "7 lines"),
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

"""Which people of a source are taken, how many of their images, and under which ids."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eolgul.errors import InputError
from eolgul.extract.config import ExtractConfig
from eolgul.extract.people import Choice, choose, compare_names, number_form, unique_ids

SOURCE = Path("photos")


def taken(codes: list[int], good: list[bool], **options: int) -> tuple[list[int], list[int]]:
    """The rows that are kept, and those that were looked at."""
    asked: list[int] = []

    def usable(row: int) -> bool:
        asked.append(row)
        return good[row]

    names = [f"p{number}" for number in range(max(codes, default=-1) + 1)]
    choice = choose(SOURCE, np.array(codes, np.int32), names, ExtractConfig(**options), usable)  # type: ignore[arg-type]
    return np.flatnonzero(choice.kept).tolist(), asked


def test_a_broken_image_takes_no_good_ones_place() -> None:
    codes = [0, 0, 0, 0, 1, 1, -1, 2, 2]
    good = [False, True, True, True, False, False, False, True, True]
    assert taken(codes, good) == ([*range(9)], [])
    assert taken(codes, good, max_images_per_identity=2)[0] == [0, 1, 2, 4, 5, 6, 7, 8]
    assert taken(codes, good, min_images=2)[0] == [0, 1, 2, 3, 6, 7, 8]
    assert taken(codes, good, min_images=4)[0] == [6]
    # The second person has no usable image, so that the third is the second.
    assert taken(codes, good, max_identities=2)[0] == [*range(9)]
    assert taken(codes, good, max_identities=1) == ([0, 1, 2, 3, 6], [0, 1])


def test_no_more_is_read_than_the_limits_ask_for() -> None:
    codes, good = [number // 10 for number in range(100)], [True] * 100
    assert taken(codes, good, max_identities=3)[1] == [0, 10, 20]
    assert taken(codes, good, min_images=2)[1] == [row for row in range(100) if row % 10 < 2]
    assert taken(codes, good, max_identities=1, max_images_per_identity=4)[1] == [0, 1, 2, 3]


@given(
    st.lists(st.tuples(st.integers(-1, 4), st.booleans()), max_size=40),
    st.integers(1, 4),
    st.none() | st.integers(1, 4),
    st.none() | st.integers(1, 4),
)
def test_limits_are_what_they_say_of_usable_images(
    inputs: list[tuple[int, bool]], least: int, most: int | None, people: int | None
) -> None:
    codes, good = [code for code, _ in inputs], [fine for _, fine in inputs]
    rows, asked = taken(codes, good, min_images=least, max_images_per_identity=most, max_identities=people)  # type: ignore[arg-type]
    assert len(asked) == len(set(asked))
    assert {row for row, code in enumerate(codes) if code < 0} <= set(rows)
    wanted = []
    for code in sorted({code for code in codes if code >= 0}):
        usable = [row for row, (own, fine) in enumerate(inputs) if own == code and fine]
        if len(usable) >= least if least > 1 else usable:
            wanted.append(usable[:most])
    good_rows = {row for row in rows if codes[row] >= 0 and good[row]}
    least_over_most = most is not None and most < least
    if not least_over_most:
        assert good_rows == {row for usable in wanted[:people] for row in usable}


def listed(folder: Path, *names: str) -> str:
    (folder / "people.txt").write_text("\n".join(names), encoding="utf-8")
    return str(folder / "people.txt")


def by_list(config: ExtractConfig, names: list[str]) -> Choice:
    return choose(SOURCE, np.arange(len(names)), names, config, lambda _: True, form=number_form, also_known=["also"])


def why(choice: Choice) -> list[str]:
    return [str(choice.why(row)) for row in np.flatnonzero(~choice.kept).tolist()]


def test_lists_say_whom_they_miss(tmp_path: Path) -> None:
    names = ["000001", "000012", "Kim Minsu"]
    file = listed(tmp_path, "12", "Kim Minsu", "nobody", "also", "أحمد")
    only = by_list(ExtractConfig(identities=file), names)
    assert only.kept.tolist() == [False, True, True] and only.facts == {"identities_unmatched": 2}
    assert why(only) == ["left_out"]
    without = by_list(ExtractConfig(without_identities=file), names)
    assert without.kept.tolist() == [True, False, False] and without.facts == {"without_identities_unmatched": 2}
    assert why(without) == ["left_out"] * 2
    assert without.warnings == [f"2 of the 5 names in {file} match nobody: 'nobody', 'أحمد'"]
    for option in ("identities", "without_identities"):
        with pytest.raises(
            InputError, match=r"people\.txt: none of its 1 names is an identity of photos \('x'; there are '"
        ):
            by_list(ExtractConfig(**{option: listed(tmp_path, "x")}), names)  # type: ignore[arg-type]
    several = ExtractConfig(without_identities=listed(tmp_path, "x"), one_of_several=True)
    assert by_list(several, names).facts == {"without_identities_unmatched": 1}


def test_both_lists_and_limits_count_apart(tmp_path: Path) -> None:
    names = ["a", "b", "c"]
    config = ExtractConfig(without_identities=listed(tmp_path, "a"), max_identities=1)
    choice = by_list(config, names)
    assert choice.kept.tolist() == [False, True, False] and why(choice) == ["left_out", "over_limit"]


def test_names_that_may_be_one_person() -> None:
    assert compare_names({"a": 1, "b": 1}) == ({}, [])
    facts, warnings = compare_names({"김": 2, "Ann": 1, "ann": 1})
    assert facts == {"identities_merged": 1, "identities_alike": 1}
    assert warnings[0].endswith("one person each: '김'") and warnings[1].endswith("other people: 'Ann', 'ann' first")


def ids(*files: tuple[str, str]) -> list[str]:
    """The ids of files, given as stem and suffix."""
    given = unique_ids([stem for stem, _ in files], lambda number: files[number][1])
    return [given.get(number, stem) for number, (stem, _) in enumerate(files)]


def test_files_of_one_stem_have_ids_of_their_own() -> None:
    assert ids(("p/a", ".png"), ("p/b", ".png")) == ["p/a", "p/b"]
    assert ids(("p/a", ".png"), ("p/a", ".webp"), ("p/b", ".png")) == ["p/a.png", "p/a.webp", "p/b"]
    assert ids(("p/0", ".jpg"), ("p/0", ".jpg")) == ["p/0.jpg", "p/0.jpg~2"]
    # A file may be called as another one's id.
    assert ids(("p/a.png", ".webp"), ("p/a", ".png"), ("p/a", ".jpg")) == ["p/a.png", "p/a.png~2", "p/a.jpg"]


@given(
    st.lists(st.tuples(st.sampled_from(["a", "b", "a.x", "a.x~2", "b.y"]), st.sampled_from(["", ".x", ".y", ".x~2"])))
)
def test_ids_are_all_different(files: list[tuple[str, str]]) -> None:
    given, stems = ids(*files), [stem for stem, _ in files]
    assert len(set(given)) == len(given)
    assert all(name == stem for name, stem in zip(given, stems, strict=True) if stems.count(stem) == 1)

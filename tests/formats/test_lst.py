"""`.lst` files, there and back and broken."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eolgul.errors import InputError
from eolgul.formats.lst import Row, read_lst, write_lst

finite = st.floats(allow_nan=False, allow_infinity=False)
paths = st.text(st.characters(exclude_characters="\t\r\n\0", exclude_categories=["Cs"]), min_size=1, max_size=40)
numbers = [st.none() | st.tuples(*[finite] * 4), st.none() | st.tuples(*[finite] * 10)]
rows = st.builds(
    lambda path, label, aligned, box, points: Row(path, label, aligned, box, points if box else None),
    paths, finite | st.integers(0, 1 << 40).map(float), st.booleans(), *numbers,
)  # fmt: skip


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(rows, max_size=20))
def test_there_and_back(tmp_path: Path, written: list[Row]) -> None:
    write_lst(tmp_path / "a.lst", written)
    assert list(read_lst(tmp_path / "a.lst")) == written


def test_as_insightface_writes_it(tmp_path: Path) -> None:
    file = tmp_path / "train.lst"
    points = "30 60 45 32 58 40 40 50 70 70"
    file.write_bytes(
        b"1\t0/a.jpg\t0\r\n\n0\tb c.jpg\t12\t1\t2\t30.5\t40\t" + points.replace(" ", "\t").encode() + b"\n"
    )
    box, landmarks = (1, 2, 30.5, 40), tuple(map(float, points.split()))
    assert list(read_lst(file)) == [Row("0/a.jpg", 0, True), Row("b c.jpg", 12, False, box, landmarks)]
    write_lst(file, [Row("a", 3, True)])
    assert file.read_bytes() == b"1\ta\t3\n"


@pytest.mark.parametrize(
    "line",
    [b"0\ta", b"2\ta\t1", b"1\t\t1", b"1\ta\tx", b"1\ta\tnan", b"1\ta\tinf", b"1 a 1", b"1\ta\t1\t1\t2\t3",
     b"1\ta\t1" + b"\t1" * 10, b"0\t5\ta.jpg", b"1\t\xff\t1", b"1\ta\0b\t1", b"1\t" + b"a" * 70_000 + b"\t1"],
)  # fmt: skip
def test_other_lines_are_named(tmp_path: Path, line: bytes) -> None:
    (tmp_path / "a.lst").write_bytes(b"1\tgood\t1\n\n" + line + b"\n")
    with pytest.raises(InputError, match=r"a\.lst line 3: "):
        list(read_lst(tmp_path / "a.lst"))
    with pytest.raises(InputError, match="nowhere"):
        list(read_lst(tmp_path / "nowhere.lst"))


@pytest.mark.parametrize("path", ["", "a\tb", "a\nb", "a\rb", "a\0b"])
def test_paths_that_no_line_holds(tmp_path: Path, path: str) -> None:
    with pytest.raises(ValueError, match="cannot hold"):
        write_lst(tmp_path / "a.lst", [Row(path, 0, True)])


PLAIN = [Row("a b/1.jpg", 3, False), Row("c/2.jpg", 0, False)]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("a b/1.jpg\t3\nc/2.jpg\t0\n", PLAIN),
        ("a b/1.jpg 3\nc/2.jpg 0\n", PLAIN),
        ("a b/1.jpg   3.0 \r\nc/2.jpg 0\r\n", PLAIN),
        ("0\t3.000000\ta b/1.jpg\n1\t0.000000\tc/2.jpg\n", PLAIN),
        ("17\t3\ta b/1.jpg\n5\t0\tc/2.jpg\n", PLAIN),
        ("\ufeff0\ta b/1.jpg\t3\n0\tc/2.jpg\t0\n", PLAIN),
        ('0\t"a b/1.jpg"\t3\n\n0\tc/2.jpg\t0\n', PLAIN),
        ('"a b/1.jpg" 3\nc/2.jpg 0', PLAIN),
    ],
)
def test_other_spellings(tmp_path: Path, text: str, wanted: list[Row]) -> None:
    (tmp_path / "a.lst").write_bytes(text.encode())
    assert list(read_lst(tmp_path / "a.lst")) == wanted


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("1 a.jpg 1", "line 1: '1 a.jpg 1', expected tabs between the fields"),
        ("0\t5\t7\ta.jpg\n", "line 1.*'index<TAB>label<TAB>path'"),
        ("a.jpg\t1\nb.jpg 1\n", "line 2: 'b.jpg 1', expected 'path<TAB>label' as in the first line"),
        ("5\t1\ta.jpg\n1\tb.jpg\t3\n", "line 2.*'index<TAB>label<TAB>path' as in the first line"),
        ("a.jpg\n", "line 1"),
        ("<!DOCTYPE html>", "a.lst: is an HTML page, expected a list of images"),
        ("\x1b[31ma\n", r"line 1: '\\x1b\[31ma'"),
    ],
)
def test_what_fits_no_form_is_a_sentence(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "a.lst").write_text(text)
    with pytest.raises(InputError, match=says):
        list(read_lst(tmp_path / "a.lst"))


def test_numbers_in_all_three_fields_are_insightfaces(tmp_path: Path) -> None:
    """Only a path that is a number would make another reading possible."""
    (tmp_path / "a.lst").write_text("1\t5\t7\n")
    assert list(read_lst(tmp_path / "a.lst")) == [Row("5", 7, True)]

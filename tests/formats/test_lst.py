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

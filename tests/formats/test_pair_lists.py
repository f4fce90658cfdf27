"""LFW's pairs.txt."""

from __future__ import annotations

from pathlib import Path

import pytest

from eolgul.errors import InputError
from eolgul.formats.pair_lists import read_pairs


def test_the_real_file(shared_data: Path) -> None:
    pairs = read_pairs(shared_data / "lfw-1-5" / "pairs.txt")
    assert len(pairs) == 3000 and sum(pair.same for pair in pairs) == 1500
    assert [pair.fold for pair in pairs] == sorted(pair.fold for pair in pairs) and pairs[-1].fold == 4
    images = shared_data / "lfw-1-5" / "images"
    assert all((images / f"{key}.jpg").is_file() for pair in pairs[::50] for key in (pair.left, pair.right))
    assert all((pair.left.split("/")[0] == pair.right.split("/")[0]) == pair.same for pair in pairs)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "line 1"),
        ("-1\t-1\nA\t1\t2\nA\t1\tB\t2\n", "line 1"),
        ("0\t300\n", "line 1"),
        ("1\t1\n\nA\t1\t2\n\nA\tone\tB\t2\n", "line 5"),
        ("ten\t300\n", "line 1"),
        ("1\t1\nA\t1\t2\n", "1 pair lines, expected 2"),
        ("1\t1\nA\t1\nA\t1\tB\t2\n", "line 2"),
        ("1\t1\nA\t1\t2\nA\tone\tB\t2\n", "line 3"),
    ],
)
def test_malformed_files_are_sentences(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "pairs.txt").write_text(text)
    with pytest.raises(InputError, match=rf"pairs\.txt.*{says}"):
        read_pairs(tmp_path / "pairs.txt")


def test_folds_and_names_are_those_of_the_lines(tmp_path: Path) -> None:
    text = "2\t1\nA_B\t1\t12\n\nA_B\t1\tC\t2\nC\t3\t4\nC\t1\tA_B\t10000\n"
    (tmp_path / "pairs.txt").write_text(text)
    assert [(pair.left, pair.right, pair.same, pair.fold) for pair in read_pairs(tmp_path / "pairs.txt")] == [
        ("A_B/A_B_0001", "A_B/A_B_0012", True, 0),
        ("A_B/A_B_0001", "C/C_0002", False, 0),
        ("C/C_0003", "C/C_0004", True, 1),
        ("C/C_0001", "A_B/A_B_10000", False, 1),
    ]


@pytest.mark.parametrize("data", [b"1\t1\nJos\xe9\t1\t2\nA\t1\tB\t2\n", b"\xff\xfe1\0"])
def test_what_is_not_utf8_is_a_sentence(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "pairs.txt").write_bytes(data)
    with pytest.raises(InputError, match=r"pairs\.txt at byte \d+: expected text in UTF-8"):
        read_pairs(tmp_path / "pairs.txt")
    with pytest.raises(InputError, match="directory"):
        read_pairs(tmp_path)

"""LFW's pairs.txt."""

from __future__ import annotations

from pathlib import Path

import pytest

from eolgul.errors import InputError
from eolgul.formats.lfw import read_pairs


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

"""Pair lists in every form that people hold them, and what is wrong with the others."""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eolgul.errors import InputError
from eolgul.formats.pair_lists import Pair, find_images, read_pairs

GENUINE = [(f"P{n}/P{n}_0001", f"P{n}/P{n}_0002") for n in range(20)]
IMPOSTOR = [(f"P{n}/P{n}_0001", f"P{n + 1}/P{n + 1}_0001") for n in range(20)]


def write(folder: Path, text: str | bytes, name: str = "pairs.txt") -> Path:
    file = folder / name
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


def lfw(pairs: Iterable[tuple[str, str]], same: bool, separator: str = "\t") -> list[str]:
    lines = []
    for pair in pairs:
        (name, one), (other, two) = (side.split("/")[1].rsplit("_", 1) for side in pair)
        numbers = [str(int(one)), str(int(two))]
        lines.append(separator.join([name, *numbers] if same else [name, numbers[0], other, numbers[1]]))
    return lines


def blocks(count: int, each: int, separator: str = "\t") -> list[str]:
    """LFW's order: per fold the genuine and then the impostor pairs."""
    made = []
    for fold in range(count):
        part = slice(fold * each, (fold + 1) * each)
        made += [*lfw(GENUINE[part], True, separator), *lfw(IMPOSTOR[part], False, separator)]
    return made


PARTS = [Pair(*pair, True, n // 2) for n, pair in enumerate(GENUINE)] + [
    Pair(*pair, False, n // 2) for n, pair in enumerate(IMPOSTOR)
]
FOLDED = [
    Pair(*pair, same, fold)
    for fold in range(10)
    for same, pairs in ((True, GENUINE), (False, IMPOSTOR))
    for pair in pairs[2 * fold : 2 * fold + 2]
]


def generic(pairs: list[Pair], form: str, *, suffix: str = ".jpg", yes: str = "1", no: str = "0") -> str:
    lines = [form.format(pair.left + suffix, pair.right + suffix, yes if pair.same else no) for pair in pairs]
    return "\n".join(lines) + "\n"


LISTS: dict[str, tuple[str | bytes, list[Pair]]] = {
    "pairs.txt": ("\n".join(["10\t2", *blocks(10, 2)]), FOLDED),
    "with spaces": ("\n".join(["10 2", *blocks(10, 2, " ")]), FOLDED),
    "CRLF": ("\r\n".join(["10\t2", *blocks(10, 2)]) + "\r\n", FOLDED),
    "old Mac": ("\r".join(["10\t2", *blocks(10, 2)]), FOLDED),
    "a mark": ("\ufeff" + "\n".join(["10\t2", *blocks(10, 2)]), FOLDED),
    "UTF-16": (("\ufeff" + "\n".join(["10\t2", *blocks(10, 2)])).encode("utf-16-le"), FOLDED),
    "empty lines": ("\n\n".join(["10\t2", *blocks(10, 2)]) + "\n\n\n", FOLDED),
    "no first line, LFW's order": ("\n".join(blocks(10, 2)), FOLDED),
    "no first line": ("\n".join(lfw(GENUINE, True) + lfw(IMPOSTOR, False)), PARTS),
    "pairsDevTest.txt": ("\n".join(["20", *lfw(GENUINE, True), *lfw(IMPOSTOR, False)]), PARTS),
    "one fold": ("\n".join(["1\t20", *lfw(GENUINE, True), *lfw(IMPOSTOR, False)]), PARTS),
    "lfw_test_pair.txt": (generic(FOLDED, "{} {} {}"), FOLDED),
    "tabs": (generic(PARTS, "{}\t{}\t{}"), PARTS),
    "commas": (generic(PARTS, "{},{},{}"), PARTS),
    "semicolons": (generic(PARTS, "{}; {}; {}"), PARTS),
    "quoted": (generic(PARTS, '"{}","{}",{}'), PARTS),
    "class first": (generic(PARTS, "{2} {0} {1}"), PARTS),
    "minus one": (generic(PARTS, "{} {} {}", no="-1"), PARTS),
    "true": (generic(PARTS, "{} {} {}", yes="True", no="False"), PARTS),
    "a count before": ("40\n" + generic(PARTS, "{} {} {}"), PARTS),
    "no suffix": (generic(PARTS, "{} {} {}", suffix=""), PARTS),
    "a table": ("path1,path2,label\n" + generic(PARTS, "{},{},{}"), PARTS),
    "another table": ("same;img_a;img_b\n" + generic(PARTS, "{2};{0};{1}"), PARTS),
    "pandas": (
        ",file1,file2,is_same\n"
        + "".join(f"{n},{line}\n" for n, line in enumerate(generic(PARTS, "{},{},{}").splitlines())),
        PARTS,
    ),
    "a table in words": ("left right same\n" + generic(PARTS, "{} {} {}"), PARTS),
    "export": (
        "left,right,same,fold\n" + "".join(f"{a}.jpg,{b}.jpg,{int(same)},{fold}\n" for a, b, same, fold in FOLDED),
        FOLDED,
    ),
    "Kaggle's pairs.csv": (
        "name,imagenum1,imagenum2,\n" + "\n".join(line + "," * (3 - line.count(",")) for line in blocks(10, 2, ",")),
        FOLDED,
    ),
    "match and mismatch joined": (
        "\n".join(
            [
                "name,imagenum1,imagenum2",
                *lfw(GENUINE, True, ","),
                "name,imagenum1,imagenum2",
                *lfw(IMPOSTOR, False, ","),
            ]
        ),
        PARTS,
    ),
    "four columns for both": (
        "name1,imagenum1,name2,imagenum2\n"
        + "".join(f"{a.split('/')[0]},{int(a[-4:])},{b.split('/')[0]},{int(b[-4:])}\n" for a, b in GENUINE + IMPOSTOR),
        PARTS,
    ),
}


@pytest.mark.parametrize("form", LISTS)
def test_every_form_gives_the_same_pairs(tmp_path: Path, form: str) -> None:
    text, wanted = LISTS[form]
    read = read_pairs(write(tmp_path, text))
    assert [
        pair._replace(left=pair.left[:-4], right=pair.right[:-4]) if ".jpg" in pair.left else pair for pair in read
    ] == (wanted)


@pytest.mark.parametrize("flag", ["1", "fold"])
def test_calfw_and_cplfw_have_two_lines_a_pair(tmp_path: Path, flag: str) -> None:
    lines = []
    for left, right, same, fold in PARTS:
        number = (fold + 1 if flag == "fold" else 1) if same else 0
        lines += [f"{side.split('/')[1]}.jpg {number}" for side in (left, right)]
    read = read_pairs(write(tmp_path, "\n".join(lines) + "\n", "pairs_CPLFW.txt"))
    assert [(f"{a}.jpg", f"{b}.jpg", same, fold) for a, b, same, fold in read] == [
        (f"{pair.left.split('/')[1]}.jpg.jpg", f"{pair.right.split('/')[1]}.jpg.jpg", pair.same, pair.fold)
        for pair in PARTS
    ]


def test_paths_with_spaces(tmp_path: Path) -> None:
    text = "".join(f"my photos/{a.split('/')[0]} x/1.JPG my photos/{b} 2.png {int(same)}\n" for a, b, same, _ in PARTS)
    read = read_pairs(write(tmp_path, text))
    assert read[0].left == "my photos/P0 x/1.JPG" and read[0].right == "my photos/P0/P0_0002 2.png"
    assert [pair.same for pair in read] == [pair.same for pair in PARTS]


def test_uneven_classes_are_read_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lines = blocks(10, 2)
    with caplog.at_level(logging.WARNING):
        read = read_pairs(write(tmp_path, "\n".join(["10\t2", *lines[:-1]])))
    assert read == FOLDED[:-1] and "announces 40 pairs, it holds 39" in caplog.text
    with caplog.at_level(logging.WARNING):
        read = read_pairs(write(tmp_path, "\n".join(["20", *lfw(GENUINE, True), *lfw(IMPOSTOR[:13], False)])))
    assert len(read) == 33 and "announces 40 pairs, it holds 33" in caplog.text
    for same in (True, False):
        assert {pair.fold for pair in read if pair.same == same} == set(range(10))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "line 1"),
        ("-1\t-1\nA\t1\t2\nA\t1\tB\t2\n", "line 1"),
        ("0\t300\n", "line 1"),
        ("1\t1\n\nA\t1\t2\n\nA\tone\tB\t2\n", "line 5"),
        ("ten\t300\n", "line 1"),
        ("10\t300\n", "line 1: no pair follows"),
        ("1\t1\nA\t1\t2\n", "holds only genuine pairs"),
        ("A\t1\tB\t2\n", "holds only impostor pairs"),
        ("1\t1\nA\t1\nA\t1\tB\t2\n", "line 3: .*expected 'file flag'"),
        ("1\t1\nA\t1\t2\nA\tone\tB\t2\n", "line 3"),
        ("1\t1\nA\t1\t2\nA\t1\tB\t2\n", "1 genuine and 1 impostor pairs without folds; the protocol has ten"),
        ("a/1.jpg b/1.jpg 1\na/1.jpg b/1.jpg 2\n", "line 2: .*two paths and 0.1 as in the lines before"),
        ("a/1.jpg b/1.jpg\n", "line 1"),
        ("a/1.jpg b/1.jpg 1 4\n", "line 1"),
        ("0 1 0\n1 0 1\n0 0 1\n", "holds only genuine"),
        ("0 a 1\n1 a 0\n", "which end of the lines is the class"),
        ("a.jpg 1\nb.jpg 0\n", "line 2: .*the flag 1 of the line before"),
        ("a.jpg 1\nb.jpg 1\nc.jpg 1\n", "line 3: .*a second line"),
        ("left,right,same,fold\na,b,1,x\n", "line 2: .*fold"),
        ("left,right,same\na,b,maybe\n", "line 2: .*0 or 1 in the column"),
        ("left,right,same\n", "line 1: only a header"),
        ("left,middle,right,path,same\n1,2,3,4,5", "line 1: .*two columns of paths"),
        ("10\t2\n" + "\n".join(blocks(6, 2)), "in 12 blocks.*expected 40 in 20 .*cut off"),
        ("<html><body>", "is an HTML page"),
        ("version https://git-lfs.github.com/spec/v1\noid sha256:a\nsize 1\n", "is a git-lfs pointer"),
        ("A\t\x1b[31m\tB\n", r"line 1: 'A\\t\\x1b\[31m\\tB'"),
    ],
)
def test_malformed_files_are_sentences(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "pairs.txt").write_text(text)
    with pytest.raises(InputError, match=rf"pairs\.txt.*{says}") as error:
        read_pairs(tmp_path / "pairs.txt")
    assert str(error.value).isprintable()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.sampled_from(["a/1.jpg", "b 2.png", "1", "0", "-1", "\t", ",", " ", "\n", "10", "name", "same", '"', "x"])
    )
)
def test_any_text_is_a_list_or_a_sentence(tmp_path: Path, parts: list[str]) -> None:
    try:
        pairs = read_pairs(write(tmp_path, "".join(parts)))
    except InputError as error:
        assert "pairs.txt" in str(error) and str(error).isprintable()
    else:
        assert {pair.same for pair in pairs} == {True, False} and len({pair.fold for pair in pairs}) > 1


def found(names: list[str], ids: list[str]) -> dict[str, str]:
    rows = {key: row for row, key in enumerate(ids)}
    made = find_images(names, lambda keys: {key: rows[key] for key in keys if key in rows}, (".jpg", ".png"))
    return {name: ids[row] for name, row in made.items()}


def test_images_are_found_by_every_spelling_of_their_names() -> None:
    ids = ["A/1", "B/2", "김/3", "C/4.jpg", "D_7"]
    for names in (
        ["A/1.jpg", "B/2.PNG", "김/3.jpg", "C/4.jpg"],
        ["A/1", "B/2", "김/3", "C/4.jpg"],
        ["./A/1.jpg", "B\\2.jpg", unicodedata.normalize("NFD", "김/3"), "C/4.jpg"],
        ["lfw/A/1.jpg", "lfw/B/2.jpg", "lfw/김/3.jpg", "lfw/C/4.jpg"],
        ["/data/x/A/1.jpg", "/data/x/B/2.jpg", "/data/x/김/3.png", "/data/x/C/4.jpg"],
    ):
        assert list(found(names, ids).values()) == ids[:4]
    assert found(["D_7.jpg"], ids) == {"D_7.jpg": "D_7"}
    assert found(["E_1.jpg"], ["E/E_1"]) == {"E_1.jpg": "E/E_1"}
    # One number of folders is left out of all paths, so that none is taken for another image.
    assert found(["test/A/1.jpg", "test/B/2.jpg", "train/A/1.jpg"], ["test/A/1", "test/B/2", "A/1"]) == {
        "test/A/1.jpg": "test/A/1",
        "test/B/2.jpg": "test/B/2",
    }


def test_the_real_file(shared_data: Path) -> None:
    pairs = read_pairs(shared_data / "lfw-1-5" / "pairs.txt")
    assert len(pairs) == 3000 and sum(pair.same for pair in pairs) == 1500
    assert [pair.fold for pair in pairs] == sorted(pair.fold for pair in pairs) and pairs[-1].fold == 4
    images = shared_data / "lfw-1-5" / "images"
    assert all((images / f"{key}.jpg").is_file() for pair in pairs[::50] for key in (pair.left, pair.right))
    assert all((pair.left.split("/")[0] == pair.right.split("/")[0]) == pair.same for pair in pairs)


def test_folds_and_names_are_those_of_the_lines(tmp_path: Path) -> None:
    text = "2\t1\nA_B\t1\t12\n\nA_B\t1\tC\t2\nC\t3\t4\nC\t1\tA_B\t10000\n"
    (tmp_path / "pairs.txt").write_text(text)
    assert [(pair.left, pair.right, pair.same, pair.fold) for pair in read_pairs(tmp_path / "pairs.txt")] == [
        ("A_B/A_B_0001", "A_B/A_B_0012", True, 0),
        ("A_B/A_B_0001", "C/C_0002", False, 0),
        ("C/C_0003", "C/C_0004", True, 1),
        ("C/C_0001", "A_B/A_B_10000", False, 1),
    ]


@pytest.mark.parametrize("data", [b"1\t1\nJos\xe9\t1\t2\nA\t1\tB\t2\n", b"\xe91\0"])
def test_what_is_not_utf8_is_a_sentence(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "pairs.txt").write_bytes(data)
    with pytest.raises(InputError, match=r"pairs\.txt at byte \d+: expected text in UTF-8"):
        read_pairs(tmp_path / "pairs.txt")
    with pytest.raises(InputError, match="directory"):
        read_pairs(tmp_path)

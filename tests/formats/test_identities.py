"""Names of people: one form, refused characters, and lists of them."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eolgul.errors import InputError
from eolgul.formats.identities import (
    fault,
    folded,
    identity_fault,
    nearly_equal,
    normal,
    read_identities,
)

BAD = {
    "\u200b": "U+200B",
    "\u200c": "U+200C",
    "\u200d": "U+200D",
    "\u200e": "U+200E",
    "\u202a": "U+202A",
    "\u202e": "U+202E",
    "\u2066": "U+2066",
    "\ufeff": "U+FEFF",
    "\u00ad": "U+00AD",
    "\u2060": "U+2060",
    "\u061c": "U+061C",
    "\u3164": "U+3164",
    "\u034f": "U+034F",
    "\ufe0f": "U+FE0F",
    "\U000e0041": "U+E0041",
    "\n": "U+000A",
    "\x1b": "U+001B",
    "\x7f": "U+007F",
    "\x9b": "U+009B",
    "\u2028": "U+2028",
    "\ue000": "U+E000",
    "\udc80": "U+DC80",
    "\uffff": "U+FFFF",
}


@pytest.mark.parametrize("character", BAD)
def test_what_cannot_be_seen_is_refused_by_its_number(character: str) -> None:
    for name in (f"kim{character}minsu", f"{character}kim", f"kim{character}"):
        assert BAD[character] in (fault(name) or "") and fault(name).isprintable()  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "name",
    ["000012", "Kim Minsu", "김민수", "José", "علی\u200cرضا", "श्\u200dरी", "O'Neil, J. (2)", "李 小龍", "😀", "kim.v2"],
)
def test_names_that_people_have_are_taken(name: str) -> None:
    for form in ("NFC", "NFD"):
        assert identity_fault(unicodedata.normalize(form, name)) is None  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["", " ", "kim ", " kim", "\u3000kim", "..", "a/b"])
def test_what_is_no_name_is_refused(name: str) -> None:
    assert identity_fault(name) is not None


@given(st.text(st.characters()))
def test_a_form_is_final(text: str) -> None:
    assert normal(normal(text)) == normal(text) and folded(folded(text)) == folded(text)
    assert fault(text) is None or fault(text).isprintable()  # type: ignore[union-attr]


def test_names_that_look_alike_are_counted() -> None:
    assert nearly_equal(["b", "a", "Person_00", "person_00", "PERSON_00", "b"]) == (2, ("PERSON_00", "Person_00"))
    assert nearly_equal(["علی\u200cرضا", "علیرضا"])[0] == 1
    assert nearly_equal(["a", "b"]) == (0, None)


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_a_list_of_people(tmp_path: Path) -> None:
    text = "pins_Given Family\n\n  19062421 \nO'Neil, J.\n19062421\n김민수\n"
    wanted = ["pins_Given Family", "19062421", "O'Neil, J.", "김민수"]
    for form in ("NFC", "NFD"):
        for start in ("", "\ufeff"):
            for end in ("\n", "\r\n"):
                data = (start + unicodedata.normalize(form, text)).replace("\n", end).encode()  # type: ignore[arg-type]
                assert read_identities(write(tmp_path / "people.txt", data)) == wanted


def test_a_list_that_is_none(tmp_path: Path) -> None:
    for bad in ("a/b", "..", "a\u200bb", "a\x1b[31m", "a\tb"):
        with pytest.raises(InputError, match=r"people\.txt line 2: ") as error:
            read_identities(write(tmp_path / "people.txt", f"1\n{bad}\n".encode()))
        assert str(error.value).isprintable() and "\\\\" not in str(error.value)
    for data, says in ((b"", "empty, expected one "), (b"\xff", "at byte 0")):
        with pytest.raises(InputError, match=rf"people\.txt.*{says}"):
            read_identities(write(tmp_path / "people.txt", data))
    with pytest.raises(InputError, match="No such file"):
        read_identities(tmp_path / "none.txt")

"""The rejection codes: each is decided, and an error that is not about one image stays an error."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eolgul.errors import InputError, Reason, Rejection, one_line, printable


def test_only_images_without_a_usable_face_are_failures_to_acquire() -> None:
    failures = {reason.value for reason in Reason if reason.is_acquisition_failure}
    assert failures == {
        "no_face",
        "several_faces",
        "too_small",
        "not_an_image",
        "undecodable",
        "truncated",
        "unsupported_format",
        "too_large",
    }


def test_a_reason_is_its_code() -> None:
    assert f"{Reason.NO_FACE}" == "no_face" == Reason.NO_FACE
    assert Reason("bad_record") is Reason.BAD_RECORD


def test_a_rejection_keeps_code_and_sentence_of_an_error() -> None:
    error = InputError("the image data ends after 7 bytes, before its end", Reason.TRUNCATED)
    assert Rejection.from_error(error) == Rejection(Reason.TRUNCATED, str(error))


def test_an_error_about_something_else_is_raised_again() -> None:
    error = InputError("shard 00000.tar: cut off")
    with pytest.raises(InputError) as raised:
        Rejection.from_error(error)
    assert raised.value is error


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("\x1b[1mWeights only\x1b[0m load failed.\nRe-running `torch.load` is dangerous", "Weights only load failed"),
        ("\n\n  second line:  with\tblanks \nthird", "second line: with blanks"),
        ("\x1b]0;title\x07named \u202egnp.exe", r"named \u202egnp.exe"),
        ("cut " * 100, "cut " * 39 + "cut…"),
        ("", "ValueError"),
        ("bell\x07 nul\x00", r"bell\x07 nul\x00"),
        ("lone \udcff", r"lone \udcff"),
    ],
)
def test_a_librarys_error_becomes_one_printable_line(text: str, line: str) -> None:
    assert one_line(ValueError(text)) == line


@given(st.text(st.characters(), max_size=500))
def test_no_error_text_leaves_the_line_or_reaches_the_terminal(text: str) -> None:
    line = one_line(ValueError(text))
    assert 1 <= len(line) <= 160 and line.isprintable()
    assert printable(text).isprintable()

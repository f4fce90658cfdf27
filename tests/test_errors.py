"""The rejection codes: each is decided, and an error that is not about one image stays an error."""

from __future__ import annotations

import pytest

from eolgul.errors import InputError, Reason, Rejection


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

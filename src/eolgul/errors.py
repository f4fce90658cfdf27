"""The error that every step raises for bad input, and the reasons why a single input does not become an image."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum


class InputError(Exception):
    """Bad input, described in one sentence: the file, the place in it, what is wrong and what was expected.

    The command line prints the sentence and exits with status 2; serving turns `code` into a problem document.
    """

    def __init__(self, message: str, code: str = "bad_input") -> None:
        """`code` is a stable name of the kind of error for programs; a `Reason` where one image is at fault."""
        super().__init__(message)
        self.code = code


# The escape sequences of terminals (ECMA-48): CSI … final byte, OSC … BEL or ST, and those of two characters.
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-_])")


def printable(text: str) -> str:
    """The same text, with an escape for each character that a terminal obeys or does not show (controls, bidi marks)."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape", "surrogatepass").decode() for one in text)


def one_line(error: object, limit: int = 160) -> str:
    """A library's error as a part of our sentence: its first line, printable characters only, without a final stop.

    Args:
        error: The exception, or its text.
        limit: The most characters; a longer line ends in "…".
    """
    lines = (_ESCAPES.sub("", line).strip() for line in str(error).splitlines())
    line = next((line for line in lines if line), "")
    line = printable(re.sub(r"\s+", " ", line)).rstrip(" .:;") or type(error).__name__
    return line if len(line) <= limit else f"{line[: limit - 1]}…"


class Reason(StrEnum):
    """Every reason code of a FaceDataset's `rejected.parquet`. Each value is stored as it is written here."""

    # The face: alignment got pixels but no usable face from them.
    NO_FACE = "no_face"
    """No face was detected, or none at the annotated place."""
    SEVERAL_FACES = "several_faces"
    """More than one face was detected and the policy `single` accepts only one."""
    TOO_SMALL = "too_small"
    """The image or the distance between the eyes is below the smallest usable size."""

    # The image file: its bytes are there but give no usable pixels.
    NOT_AN_IMAGE = "not_an_image"
    """The bytes are not an image, or their decoding fails."""
    UNDECODABLE = "undecodable"
    """The header names an image format, but the data breaks its rules."""
    TRUNCATED = "truncated"
    """The image data ends before its end marker or stated length."""
    UNSUPPORTED_FORMAT = "unsupported_format"
    """An image of a format that is not accepted: for a dataset JPEG XL and others, for the service all but three."""
    TOO_LARGE = "too_large"
    """More pixels than the decoder accepts."""

    # The source: the container, the file system or the data about the image is at fault.
    UNREADABLE = "unreadable"
    """The file system does not give the file's bytes."""
    BAD_RECORD = "bad_record"
    """A RecordIO record is damaged or holds no image."""
    MISSING_RECORD = "missing_record"
    """The source announces an image that it does not hold."""
    WRONG_SIZE = "wrong_size"
    """The image does not have the width and height that the source states for it."""
    BAD_ANNOTATION = "bad_annotation"
    """The annotation file beside the image cannot be read."""
    BAD_NAME = "bad_name"
    """The file's name cannot be stored or leads out of the source."""
    DUPLICATE_KEY = "duplicate_key"
    """An earlier image of the source has the same key."""
    NO_IDENTITY = "no_identity"
    """The image does not lie in an identity's folder."""
    UNKNOWN_IDENTITY = "unknown_identity"
    """The label is not an identity number, or not one of those that the source states."""
    UNKNOWN_CONDITION = "unknown_condition"
    """The path does not have the form of K-FACE's tree with its names."""

    @property
    def is_acquisition_failure(self) -> bool:
        """Whether this counts for the failure-to-acquire rate (ISO/IEC 19795-1).

        True where an image was presented and no usable face sample came of it; false where the source's bookkeeping or
        storage is at fault, which says nothing about faces.
        """
        return self in _ACQUISITION_FAILURES


_ACQUISITION_FAILURES = frozenset(
    {
        Reason.NO_FACE,  # the sample could not be located
        Reason.SEVERAL_FACES,  # the sample could not be told from others
        Reason.TOO_SMALL,  # the sample is below the quality that the system asks for
        Reason.NOT_AN_IMAGE,  # an image was presented; its pixels cannot be had
        Reason.UNDECODABLE,  # likewise
        Reason.TRUNCATED,  # likewise: what a broken capture or transfer leaves
        Reason.UNSUPPORTED_FORMAT,  # likewise: the system refuses the image as presented
        Reason.TOO_LARGE,  # likewise
    }
)
# Not failures to acquire: `unreadable`, `bad_record` and `missing_record` are faults of storage, before any image was presented;
# `wrong_size`, `bad_annotation`, `bad_name`, `no_identity`, `unknown_identity` and `unknown_condition` are faults of the
# source's description; a `duplicate_key` is an image that is counted already or whose name is taken.


ADVICE = {
    Reason.NO_FACE: "are these pictures of faces, upright, and large enough for the detector's smallest face?",
    Reason.SEVERAL_FACES: "another way to choose among several faces takes them",
    Reason.TOO_SMALL: "a smaller smallest face takes them, at the price of the match",
    Reason.NOT_AN_IMAGE: "look at one of the files: a failed download or another kind of file has an image's name",
    Reason.UNDECODABLE: "get the files again: their data is damaged",
    Reason.TRUNCATED: "get the files again: the copy or the download was not complete",
    Reason.UNSUPPORTED_FORMAT: "convert them to JPEG or PNG",
    Reason.TOO_LARGE: "scale them down",
    Reason.UNREADABLE: "check that the files are where the source says, and that they may be read",
    Reason.BAD_RECORD: "get the file again, or is it one of labels and features without images?",
    Reason.MISSING_RECORD: "get the file again",
    Reason.WRONG_SIZE: "any_size takes images of every size, unless they are to be aligned faces",
    Reason.BAD_NAME: "rename the files, or name the folder that the paths begin at with root",
    Reason.NO_IDENTITY: "expected a folder per person, <identity>/<image>",
    Reason.UNKNOWN_IDENTITY: "expected labels that are whole numbers from 0, or from 1",
    Reason.UNKNOWN_CONDITION: "expected K-FACE's own folders and names below the folder given",
}
"""What to do when the inputs of a whole source are rejected for one reason."""


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why one input does not become an image: a code for programs and a sentence for people."""

    code: Reason
    detail: str

    @classmethod
    def from_error(cls, error: InputError) -> Rejection:
        """The rejection that an error about one image describes; an error about something else is raised again.

        Raises:
            InputError: `error` itself, when its code is not a `Reason`.
        """
        try:
            return cls(Reason(error.code), str(error))
        except ValueError:
            raise error from None

"""The two ways a step can end badly without being a bug: bad input, and a place that is not there."""

from __future__ import annotations


class InputError(Exception):
    """Bad input, said in one sentence that names the file, the place in it and what was expected.

    The command line prints the sentence and exits with 2; serving turns `code` into a problem document.
    """

    def __init__(self, message: str, code: str = "bad_input") -> None:
        super().__init__(message)
        self.code = code

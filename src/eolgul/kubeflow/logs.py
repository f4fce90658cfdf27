"""The one sentence that matters in the output of a task that failed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from eolgul.errors import printable

_COLOURS = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
# The last line of a Python process that an exception ended.
_EXCEPTION = re.compile(r"^(?:[\w.]+\.)?(\w*(?:Error|Exception|Interrupt|Exit)\w*): (.+)$")
# A process that started the one that failed says so after it.
_LATER = {"CalledProcessError", "ChildFailedError"}
# The launcher's own lines, which follow the component's: glog's, and Argo's.
_LAUNCHER = re.compile(r"^(?:[IWEF]\d{4} |time=|level=)")


def without_colours(text: str) -> str:
    """The text without a terminal's colours."""
    return _COLOURS.sub("", text)


def last_sentence(lines: Iterable[str]) -> str:
    """What an output says about its failure: the last exception, without its class where it is an `InputError`.

    Args:
        lines: The output; colours and the lines of KFP's launcher are passed over.

    Returns:
        The sentence; the last line where there is no exception; "" for no output.
    """
    cleaned = [without_colours(line).strip() for line in lines]
    for line in reversed(cleaned):
        found = _EXCEPTION.match(line)
        if found and found[1] not in _LATER:
            return printable(found[2] if found[1] == "InputError" else line)
        if line.startswith("eolgul: "):  # a command of ours in a process of its own
            return printable(line.removeprefix("eolgul: "))
    return next((printable(line) for line in reversed(cleaned) if line and not _LAUNCHER.match(line)), "")


# What the processes beside a failed one say: true, but not the reason.
_SECONDARY = "another process of this run ended"


def first_refusal(lines: Sequence[str]) -> str:
    """What the output of several processes says about their failure: the first refusal that is not about another process."""
    cleaned = [without_colours(line).strip() for line in lines]
    ours = [line for line in cleaned if line.startswith("eolgul: ") and _SECONDARY not in line]
    return printable(ours[0].removeprefix("eolgul: ")) if ours else last_sentence(cleaned)

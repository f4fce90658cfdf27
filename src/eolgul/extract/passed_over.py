"""Count the inputs of a source that are neither images nor rejected: by reason and by suffix, without keeping their names.

Every file of a source is counted once: inputs = images + rejected + passed over.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from enum import StrEnum
from typing import Any

_SUFFIX = re.compile(r"\.(?=[a-z0-9_+-]{0,9}[a-z])[a-z0-9_+-]{1,10}", re.ASCII)
_SUFFIXES = 40  # that are counted one by one; the rarest of more are counted together


class Why(StrEnum):
    """Why an input is passed over. Each value is a key of `passed_over.by_reason` on the card."""

    NOT_AN_IMAGE = "not_an_image"
    """A file of another kind, by its suffix or, where that says nothing, by its first bytes."""
    SYSTEM_FILE = "system_file"
    """What an operating system, a NAS or a version control keeps beside the data, and everything in its folders."""
    HIDDEN = "hidden"
    """A file in a folder whose name begins with a dot."""
    ANNOTATION = "annotation"
    """A file about an image: K-FACE's `<Cn>.txt`."""
    NOT_SELECTED = "not_selected"
    """A K-FACE image whose condition is not in the selection."""
    LEFT_OUT = "left_out"
    """An image of an identity that the lists of identities leave out."""
    OVER_LIMIT = "over_limit"
    """An image beyond the limits on identities and images."""
    ARCHIVE = "archive"
    """An archive that cannot be read in place."""
    LINK = "link"
    """A link that is not followed, or that leads nowhere."""
    SPECIAL_FILE = "special_file"
    """A device, a socket or a pipe."""
    COPY = "copy"
    """The same path once more: an archive's member that lies unpacked beside it, or that a later member replaces."""
    ARTIFACT = "artifact"
    """A file of an artifact of eolgul, which is no raw data."""


class PassedOver:
    """Counters of what is passed over."""

    def __init__(self) -> None:
        self._by_reason: Counter[str] = Counter()
        self._by_suffix: Counter[str] = Counter()

    def add(self, why: Why, name: str = "", count: int = 1) -> None:
        """Count `count` inputs; `name` is a file's name or path, whose suffix is counted."""
        if count:
            self._by_reason[str(why)] += count
            self._by_suffix[suffix_of(name)] += count

    def take_in(self, other: PassedOver) -> None:
        """Add the counts of another."""
        self._by_reason.update(other._by_reason)
        self._by_suffix.update(other._by_suffix)

    @property
    def total(self) -> int:
        """The number of inputs that are passed over."""
        return self._by_reason.total()

    def count(self, why: Why) -> int:
        """The number of inputs that are passed over for one reason."""
        return self._by_reason[str(why)]

    def to_json(self) -> dict[str, Any]:
        """The counts as JSON values: `total`, `by_reason` and `by_suffix`, both in the order of their keys.

        A suffix is in lower case with its dot; "none" stands for no suffix and "other" for all that are rare or odd.
        """
        common = dict(sorted(self._by_suffix.items(), key=lambda item: (-item[1], item[0]))[:_SUFFIXES])
        rare = self.total - sum(common.values())
        if rare:
            common["other"] = common.get("other", 0) + rare
        return {
            "total": self.total,
            "by_reason": dict(sorted(self._by_reason.items())),
            "by_suffix": dict(sorted(common.items())),
        }

    def describe(self, most: int = 3) -> str:
        """The commonest suffixes with their counts, for a sentence; "" when nothing is passed over."""
        ordered = sorted(self._by_suffix.items(), key=lambda item: (-item[1], item[0]))
        named = [f"{count:,} {'without suffix' if suffix == 'none' else suffix}" for suffix, count in ordered[:most]]
        rest = self.total - sum(count for _, count in ordered[:most])
        return ", ".join([*named, *([f"{rest:,} others"] if rest else [])])


def suffix_of(name: str) -> str:
    """A file's suffix as it is counted."""
    suffix = os.path.splitext(name)[1].lower()  # noqa: PTH122 - millions of them
    if not suffix:
        return "none"
    return suffix if _SUFFIX.fullmatch(suffix) else "other"

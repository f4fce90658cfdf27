"""Choose the people of a source and how many of their images are taken; give images ids that are all different.

Limits count usable images only, so that a broken file never takes the place of a good one. To know which are usable, images
are read before the extraction, in the order of the people and of their images, and no more than the limits ask for: of a
person up to the last one that decides, and of nobody after the last person that is taken. Without a limit nothing is read.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eolgul.errors import InputError, printable
from eolgul.extract.config import ExtractConfig
from eolgul.formats.identities import nearly_equal, read_identities

_logger = logging.getLogger(__name__)
_LISTS = ("identities", "without_identities")
_SHOWN = 3  # names in a sentence
LEFT_OUT, OVER_LIMIT = "left_out", "over_limit"


@dataclass(frozen=True)
class Choice:
    """Which inputs of a source are taken (bool N), how many are passed over by reason, and facts for the card."""

    kept: NDArray[np.bool_]
    left_out: NDArray[np.bool_]
    facts: Mapping[str, Any]

    def passed_over(self, rows: slice | NDArray[np.bool_] = slice(None)) -> dict[str, int]:
        """The number of inputs among `rows` that are left out by a list, and by a limit; reasons with none are omitted."""
        left_out = int(self.left_out[rows].sum())
        over = int((~self.kept[rows]).sum()) - left_out
        return {reason: count for reason, count in ((LEFT_OUT, left_out), (OVER_LIMIT, over)) if count}


def choose(
    source: Path,
    codes: NDArray[np.integer[Any]],
    names: Sequence[str],
    config: ExtractConfig,
    usable: Callable[[int], bool],
    *,
    form: Callable[[str], str] = str,
) -> Choice:
    """Apply the lists of identities and the limits.

    Args:
        source: For messages.
        codes: The identity of each input, N numbers that index `names`; -1 for one that belongs to nobody, which is kept,
            so that it is rejected.
        names: The identities in the order in which `max_identities` takes them.
        config: The options.
        usable: Whether an input (by its row) becomes an image; asked only where a limit depends on it.
        form: Brings a name of a list into the form of `names`.

    Raises:
        InputError: A list cannot be read, or names nobody in the source.
    """
    facts: dict[str, Any] = {}
    only, without = (_read_list(source, option, names, config, form, facts) for option in _LISTS)
    kept = np.ones(len(codes), np.bool_)
    left_out = np.zeros(len(codes), np.bool_)
    least, most, people = config.min_images, config.max_images_per_identity, config.max_identities
    if only is not None or without is not None:
        wanted = np.array([(only is None or name in only) and name not in (without or ()) for name in names], np.bool_)
        left_out = (codes >= 0) & ~wanted[codes]
        kept &= ~left_out
    if least <= 1 and most is None and people is None:
        return Choice(kept, left_out, facts)
    rows = np.flatnonzero(kept & (codes >= 0))
    rows = rows[np.argsort(codes[rows], kind="stable")]
    begins = np.flatnonzero(np.diff(codes[rows], prepend=-1))
    taken = 0
    for own in np.split(rows, begins[1:]) if len(rows) else ():
        if people is not None and taken == people:
            kept[own] = False
            continue
        count = 0
        for place, row in enumerate(own.tolist(), 1):
            count += usable(row)
            if count == most:
                kept[own[place:]] = False
            if count == most or (most is None and count >= least):
                break
        if count >= least:
            taken += 1
        elif least > 1:
            kept[own] = False
        # Somebody without a usable image takes nobody's place, and all of those images are kept, to be rejected.
    return Choice(kept, left_out, facts)


def _read_list(
    source: Path,
    option: str,
    names: Sequence[str],
    config: ExtractConfig,
    form: Callable[[str], str],
    facts: dict[str, Any],
) -> frozenset[str] | None:
    """The names of a list, or None without one; those that name nobody are counted in `facts` and told of."""
    place = getattr(config, option)
    if not place:
        return None
    listed = read_identities(Path(place))
    known = set(names)
    unmatched = [name for name in listed if form(name) not in known]
    shown = ", ".join(repr(printable(name)) for name in unmatched[:_SHOWN]) + (", …" if len(unmatched) > _SHOWN else "")
    if len(unmatched) == len(listed):
        there = ", ".join(repr(printable(name)) for name in names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")
        raise InputError(
            f"{place}: none of its {len(listed)} names is an identity of {source} ({shown}; there are {there or 'none'})"
        )
    facts[f"{option}_unmatched"] = len(unmatched)
    if unmatched:
        _logger.warning("%s: %d of %d names match nobody in %s: %s", place, len(unmatched), len(listed), source, shown)
    return frozenset(map(form, listed))


def number_form(name: str) -> str:
    """A name of a list in the form of a label's identity: 12 is 000012."""
    return f"{int(name):06}" if name.isascii() and name.isdigit() else name


def compare_names(source: Path, spellings: Mapping[str, int]) -> dict[str, int]:
    """Tell of names that one person may have in two ways.

    Args:
        source: For messages.
        spellings: How many spellings each identity has in the source: more than one where they are equal in NFC.

    Returns:
        Facts for the card: `identities_merged` and `identities_alike`, each only where there are some.
    """
    facts: dict[str, int] = {}
    merged = [name for name, count in spellings.items() if count > 1]
    if merged:
        facts["identities_merged"] = len(merged)
        _logger.warning(
            "%s: %d identities are spelled in two ways that Unicode calls equal, and are taken as one person each: %r first",
            source,
            len(merged),
            printable(min(merged)),
        )
    alike, first = nearly_equal(spellings)
    if first is not None:
        facts["identities_alike"] = alike
        _logger.warning(
            "%s: %d identities differ from another one only in case, width or joining characters, and are taken as other "
            "people: %r and %r first",
            source,
            alike,
            *map(printable, first),
        )
    return facts


def unique_ids(stems: Sequence[str], suffixes: Sequence[str]) -> list[str]:
    """Ids of images that are all different, whichever of the images turn out to be broken.

    An image's id is its stem. Where several have one, each id keeps its suffix (`ann/1.jpg` and `ann/1.png`), and where
    that is taken too, gets a number (`ann/1.jpg~2`), in the order of the images.

    Args:
        stems: The wanted ids.
        suffixes: What tells images of one stem apart.
    """
    taken: set[str] = set()
    shared: set[str] = set()
    for stem in stems:
        (shared if stem in taken else taken).add(stem)
    if not shared:
        return list(stems)
    taken -= shared
    ids = []
    for stem, suffix in zip(stems, suffixes, strict=True):
        name, number = stem, 1
        if stem in shared:
            name = stem + suffix
            while name in taken:
                number += 1
                name = f"{stem}{suffix}~{number}"
            taken.add(name)
        ids.append(name)
    return ids

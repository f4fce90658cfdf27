"""Choose the people of a source and how many of their images are taken; give images ids that are all different.

Limits count usable images only, so that a broken file never takes the place of a good one. To know which are usable, images
are read before the extraction, in the order of the people and of their images, and no more than the limits ask for: of a
person up to the last one that decides, and of nobody after the last person that is taken. Without a limit nothing is read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eolgul.errors import InputError, printable
from eolgul.extract.config import ExtractConfig
from eolgul.extract.passed_over import Why
from eolgul.formats.identities import nearly_equal, read_identities

_LISTS = ("identities", "without_identities")
_SHOWN = 3  # names in a sentence


@dataclass(frozen=True)
class Choice:
    """Which inputs of a source are taken, and which are left out by a list (both bool N); the rest is over a limit.

    `facts` and `warnings` are for the plan.
    """

    kept: NDArray[np.bool_]
    left_out: NDArray[np.bool_]
    facts: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def why(self, row: int) -> Why:
        """Why an input that is not kept is passed over."""
        return Why.LEFT_OUT if self.left_out[row] else Why.OVER_LIMIT


def choose(
    source: Path,
    codes: NDArray[np.integer[Any]],
    names: Sequence[str],
    config: ExtractConfig,
    usable: Callable[[int], bool],
    *,
    form: Callable[[str], str] = str,
    also_known: Collection[str] = (),
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
        also_known: Identities of the source that have no input.

    Raises:
        InputError: A list cannot be read, or names nobody in the source.
    """
    choice = Choice(np.ones(len(codes), np.bool_), np.zeros(len(codes), np.bool_))
    kept, known = choice.kept, {*names, *also_known}
    only, without = (_read_list(source, option, known, config, form, choice) for option in _LISTS)
    least, most, people = config.min_images, config.max_images_per_identity, config.max_identities
    if only is not None or without is not None:
        wanted = np.array([(only is None or name in only) and name not in (without or ()) for name in names], np.bool_)
        choice.left_out[:] = (codes >= 0) & ~wanted[codes] if len(names) else False
        kept &= ~choice.left_out
    if not limits_given(config):
        return choice
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
    return choice


def lists_given(config: ExtractConfig) -> bool:
    """Whether a list of people is given."""
    return any(getattr(config, option) for option in _LISTS)


def limits_given(config: ExtractConfig) -> bool:
    """Whether a limit is given, for which images have to be read beforehand."""
    return config.min_images > 1 or config.max_identities is not None or config.max_images_per_identity is not None


def _read_list(
    source: Path, option: str, known: Collection[str], config: ExtractConfig, form: Callable[[str], str], choice: Choice
) -> frozenset[str] | None:
    """The names of a list, or None without one; those that name nobody are counted and told of."""
    place = getattr(config, option)
    if not place:
        return None
    listed = read_identities(Path(place))
    unmatched = [name for name in listed if form(name) not in known]
    if len(unmatched) == len(listed) and not (config.one_of_several and option == "without_identities"):
        raise InputError(
            f"{place}: none of its {len(listed)} names is an identity of {source} "
            f"({_some(unmatched)}; there {'is' if len(known) == 1 else 'are'} {_some(sorted(known)) or 'none'})"
        )
    choice.facts[f"{option}_unmatched"] = len(unmatched)
    if unmatched:
        choice.warnings.append(
            f"{len(unmatched)} of the {len(listed)} names in {place} match nobody: {_some(unmatched)}"
        )
    return frozenset(map(form, listed))


def _some(names: Sequence[str]) -> str:
    return ", ".join([*(f"'{printable(name)}'" for name in names[:_SHOWN]), *(["…"] if len(names) > _SHOWN else [])])


def nobody_left(source: Path, identities: int, left_out: int, config: ExtractConfig) -> str:
    """The sentence for a choice that leaves no image."""
    why = [f"{left_out} images are left out by the lists of people"] if left_out else []
    why += [f"no other identity has {config.min_images} usable images (min_images)"] if config.min_images > 1 else []
    return f"{source}: nobody is left of {identities} identities; {' and '.join(why) or 'none has an image'}"


def number_form(name: str) -> str:
    """A name of a list in the form of a label's identity: 12 is 000012."""
    return f"{int(name):06}" if name.isascii() and name.isdigit() else name


def compare_names(spellings: Mapping[str, int]) -> tuple[dict[str, Any], list[str]]:
    """Tell of names that one person may have in two ways.

    Args:
        spellings: How many spellings each identity has in the source: more than one where they are equal in NFC.

    Returns:
        Facts for the card, `identities_merged` and `identities_alike`, each only where there are some; and the sentences.
    """
    facts: dict[str, Any] = {}
    warnings = []
    merged = [name for name, count in spellings.items() if count > 1]
    if merged:
        facts["identities_merged"] = len(merged)
        warnings.append(
            f"{len(merged)} identities are spelled in two ways that are equal in Unicode, and are taken as one person each: "
            f"{_some(sorted(merged))}"
        )
    alike, first = nearly_equal(spellings)
    if first is not None:
        facts["identities_alike"] = alike
        warnings.append(
            f"{alike} identities differ from another only in case, width or joining characters, and are taken as other "
            f"people: {_some(first)} first"
        )
    return facts, warnings


def unique_ids(stems: Sequence[str], suffix: Callable[[int], str]) -> dict[int, str]:
    """Ids of images that are all different, whichever of the images turn out to be broken.

    An image's id is its stem. Where several have one, each id keeps its suffix (`ann/1.jpg` and `ann/1.png`), and where
    that is taken too, gets a number (`ann/1.jpg~2`), in the order of the images.

    Args:
        stems: The wanted ids.
        suffix: What tells the image of a number from others of its stem.

    Returns:
        The ids that are not their stems, by the image's number.
    """
    # There may be millions: hashes are compared, and as text only those that agree.
    hashes = np.fromiter(map(hash, stems), np.int64, len(stems))
    order = np.argsort(hashes, kind="stable")
    hashes = hashes[order]
    alike = np.zeros(len(order), np.bool_)
    alike[1:] = hashes[1:] == hashes[:-1]
    alike[:-1] |= alike[1:]
    numbers = np.sort(order[alike]).tolist()
    shared = {stem for stem, count in Counter(stems[number] for number in numbers).items() if count > 1}
    given: set[str] = set()

    def is_taken(name: str) -> bool:
        if name in given or name in shared:
            return name in given
        begin, end = (np.searchsorted(hashes, hash(name), side) for side in ("left", "right"))
        return any(stems[number] == name for number in order[begin:end].tolist())

    ids = {}
    for number in numbers:
        stem = stems[number]
        if stem in shared:
            name = wanted = stem + suffix(number)
            again = 1
            while is_taken(name):
                again += 1
                name = f"{wanted}~{again}"
            given.add(name)
            if name != stem:
                ids[number] = name
    return ids

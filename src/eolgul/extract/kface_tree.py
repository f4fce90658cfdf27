"""Plan K-FACE's tree from any level of it: its root, one resolution, one person, or folders and archives around it."""

from __future__ import annotations

import itertools
import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from eolgul.errors import InputError, Reason, Rejection, printable
from eolgul.extract.choosing import Naming, plan_people
from eolgul.extract.config import ExtractConfig
from eolgul.extract.file_names import says_image
from eolgul.extract.passed_over import Why
from eolgul.extract.plan import Plan, text
from eolgul.extract.tree import Entry, Tree
from eolgul.formats import kface
from eolgul.formats.archives import archive_stem
from eolgul.formats.identities import normal
from eolgul.images.header import read_header

_UNKNOWN_CONDITION = Rejection(
    Reason.UNKNOWN_CONDITION, "expected <Resolution>/<ID>/S00x/Ly/E0z/Cn.jpg with K-FACE's names"
)
_LOOKED_AT = 1000  # files after which a tree is no K-FACE's if none of them is an image of one
_SAMPLE = 9  # images whose size tells the resolution of a folder


class _Found(NamedTuple):
    """An image of K-FACE: its file, the folder of its person, that folder's name, and its condition."""

    entry: Entry
    above: str
    identity: str
    place: kface.Place


def is_kface(source: Path) -> bool:
    """Whether the first files of a folder or an archive are named as K-FACE's images are."""
    try:
        for entry in itertools.islice(Tree(source).files(), _LOOKED_AT):
            if kface.parse_place(entry.name) is not None:
                return True
    except InputError:  # it is told of when the source is planned
        pass
    return False


def count_kface(names: Sequence[str]) -> int:
    """How many of some paths are those of K-FACE's images."""
    return sum(kface.parse_place(name) is not None for name in names)


def plan_kface(source: Path, config: ExtractConfig) -> Plan:
    """Plan the images of the selection, each with its condition and its annotation, if it has one.

    The resolution is read from the nearest folder named after one, else from the images' size.

    Raises:
        InputError: when no image is in the selection, no resolution can be told, or people have no folders.
    """
    tree = Tree(source)
    selection = kface.Selection.parse(config.selection) if config.selection else None
    notes: dict[str, Entry] = {}
    found: list[_Found] = []
    entries: list[Entry] = []
    for entry in tree.files():
        if entry.name.endswith(".txt"):
            notes[entry.name[:-4]] = entry
            tree.passed_over.add(Why.ANNOTATION, entry.name)
            continue
        place = kface.parse_place(entry.name) if says_image(entry.name) else None
        if place is not None and text(entry.name) == entry.name:
            found.append(_Found(entry, place.above, place.above.rpartition("/")[2] or _own_name(source), place))
        elif tree.is_picture(entry):
            entries.append(entry._replace(rejection=_UNKNOWN_CONDITION))
        else:
            tree.passed_over.add(Why.NOT_AN_IMAGE, entry.name)
    resolutions, warnings = _resolutions(source, found)
    known: set[str] = set()
    before = len(entries)
    for one in found:
        entry = one.entry
        condition = kface.Condition(resolutions[one.above], *one.place.names)
        known.add(normal(one.identity))
        if selection is not None and condition not in selection:
            tree.passed_over.add(Why.NOT_SELECTED, entry.name)
            continue
        note = notes.get(os.path.splitext(entry.name)[0])  # noqa: PTH122 - millions of them
        image_id = kface.image_id(one.identity, condition)
        entries.append(entry._replace(image_id=image_id, identity=one.identity, condition=condition, note=note))
    if len(entries) == before:
        beside = tree.describe()
        raise InputError(
            f"{source}: no K-FACE image of the selection ({config.selection or 'all'}) in it"
            f"{f', among {len(found):,} images of K-FACE' if found else ''}{f'; it holds {beside}' if beside else ''}"
        )
    entries.sort(key=lambda entry: entry.name.split("/"))
    plan = plan_people(source, source, entries + tree.broken, config, tree.passed_over, Naming(also_known=known))
    plan.warnings[:0] = [*tree.warnings(), *warnings]
    return plan


def _own_name(source: Path) -> str:
    return archive_stem(source.name) or source.name


def _resolutions(source: Path, found: Sequence[_Found]) -> tuple[dict[str, str], list[str]]:
    """The resolution of each person's folder, and what to say about how it is known."""
    made: dict[str, str] = {}
    own = [_own_name(source), source.absolute().parent.name]
    warnings = []
    firsts: dict[str, _Found] = {}
    for image in found:
        firsts.setdefault(image.above, image)
    for above, first in firsts.items():
        identity, example = first.identity, first.entry.name
        if kface.resolution_of(identity) is not None:
            raise InputError(
                f"{source}: {example} lies in no folder of a person, expected <Resolution>/<ID>/S00x/…; unpack each person's "
                "archive into a folder of its name, or give the archives as they are"
            )
        around = above.split("/")[:-1][::-1] + (own if above else own[1:])
        named = next((one for name in around if (one := kface.resolution_of(name)) is not None), None)
        if named is not None:
            made[above] = named
        if not above and not re.fullmatch(r"\d+", identity):
            warnings.append(f"S001 and so on lie at the top, so all images are taken as one person's, {identity!r}")
    unnamed: dict[str, list[_Found]] = {}
    for image in found:
        if image.above not in made:
            unnamed.setdefault(image.above.rpartition("/")[0], []).append(image)
    for around_them, images in unnamed.items():
        resolution, shape = _by_size(source, around_them, images)
        made |= dict.fromkeys((image.above for image in images), resolution)
        warnings.append(
            f"no folder around {printable(around_them) or 'the images'} is called <Resolution>_Resolution; their size, {shape}, "
            f"is {resolution}'s"
        )
    return made, warnings


def _by_size(source: Path, around: str, group: Sequence[_Found]) -> tuple[str, str]:
    """The resolution that the sizes of some images say, and the size."""
    seen: Counter[tuple[int, int]] = Counter()
    for one in group[:: max(1, len(group) // _SAMPLE)]:
        try:
            data = one.entry.place(source)
            info = read_header(data if isinstance(data, bytes) else data.read_bytes())
        except (InputError, OSError):
            continue
        seen[info.width, info.height] += 1
    for (width, height), _ in seen.most_common():
        for resolution, size in kface.SIZES.items():
            if size == (width, height):
                return resolution, f"{width}x{height}"
    sizes = ", ".join(f"{width}x{height}" for (width, height), _ in seen.most_common(3)) or "unknown sizes"
    expected = ", ".join(f"{width}x{height} ({name})" for name, (width, height) in kface.SIZES.items())
    raise InputError(
        f"{source}: no folder around {printable(around) or 'the images'} is called <Resolution>_Resolution, and the images "
        f"({sizes}) have no resolution's size, expected {expected}"
    )

"""Plan K-FACE's tree from any level of it: its root, one resolution, one person, or folders and archives around it."""

from __future__ import annotations

import itertools
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from eolgul.errors import InputError, Reason, Rejection, printable
from eolgul.extract.choosing import Naming, plan_people
from eolgul.extract.config import ExtractConfig
from eolgul.extract.entries import Entries, Entry
from eolgul.extract.file_names import says_image
from eolgul.extract.passed_over import Why
from eolgul.extract.plan import Plan, text
from eolgul.extract.tree import Tree
from eolgul.formats import kface
from eolgul.formats.archives import archive_stem
from eolgul.formats.identities import normal
from eolgul.images.header import read_header
from eolgul.storage.far import FarFolder

_UNKNOWN_CONDITION = Rejection(
    Reason.UNKNOWN_CONDITION, "expected <Resolution>/<ID>/S00x/Ly/E0z/Cn.jpg with K-FACE's names"
)
_LOOKED_AT = 1000  # files after which a tree is no K-FACE's if none of them is an image of one
_SAMPLE, _SAMPLE_OF_PERSON = 9, 3  # people, and images of each, whose size tells the resolution where no folder does


def is_kface(source: Path, far: FarFolder | None = None) -> bool:
    """Whether the first files of a folder or an archive are named as K-FACE's images are."""
    try:
        for entry in itertools.islice(Tree(source, far).files(), _LOOKED_AT):
            if kface.parse_place(entry.name) is not None:
                return True
    except InputError:  # it is told of when the source is planned
        pass
    return False


def count_kface(names: Sequence[str]) -> int:
    """How many of some paths are those of K-FACE's images."""
    return sum(kface.parse_place(name) is not None for name in names)


def plan_kface(source: Path, config: ExtractConfig, far: FarFolder | None = None) -> Plan:
    """Plan the images of the selection, each with its condition and its annotation, if it has one.

    The resolution is read from the nearest folder named after one, else from the images' size.

    Memory: about 80 bytes per image of the selection with its annotation, 121 at most while ids are compared; 32 more in S3 and
    300 in archives. The others are counted and not kept.

    Raises:
        InputError: when no image is in the selection, no resolution can be told, or people have no folders.
    """
    tree = Tree(source, far)
    selection = kface.Selection.parse(config.selection) if config.selection else None
    entries, notes = Entries(), _Notes()
    samples: dict[str, list[Entry]] = {}
    total = found = 0
    for entry in tree.files():
        if entry.name.endswith(".txt"):
            tree.passed_over.add(Why.ANNOTATION, entry.name)
            beside = kface.parse_place(f"{entry.name[:-4]}.jpg")
            if beside is not None and (selection is None or selection.may_have(beside.names)):
                notes.add(entry, entries)
            continue
        place = kface.parse_place(entry.name) if says_image(entry.name) else None
        if place is not None and text(entry.name) == entry.name:
            total += 1
            some = samples.setdefault(place.above, [])
            if len(some) < _SAMPLE_OF_PERSON:
                some.append(entry)
            # Here, since a tree has millions of files that nobody asks for; the resolution is not known yet.
            if selection is None or selection.may_have(place.names):
                notes.give(entries.append(entry), entry.name, entries)
            else:
                tree.passed_over.add(Why.NOT_SELECTED, entry.name)
        elif tree.is_picture(entry):
            entries.append(entry._replace(rejection=_UNKNOWN_CONDITION))
        else:
            tree.passed_over.add(Why.NOT_AN_IMAGE, entry.name)
    notes.finish(entries)
    resolutions, warnings = _resolutions(source, samples)
    known = {normal(_identity(source, above)) for above in samples}
    kept = np.ones(len(entries), np.bool_)
    for row, name in enumerate(entries.names()):
        if entries.rejection(row) is not None:
            continue
        place = kface.parse_place(name)
        assert place is not None
        condition = kface.Condition(resolutions[place.above], *place.names)
        if selection is not None and condition not in selection:
            tree.passed_over.add(Why.NOT_SELECTED, name)
            kept[row] = False
            continue
        found += 1
        entries.describe(row, _identity(source, place.above), condition)
    if not found:
        others = tree.describe()
        raise InputError(
            f"{source}: no K-FACE image of the selection ({config.selection or 'all'}) in it"
            f"{f', among {total:,} images of K-FACE' if total else ''}{f'; it holds {others}' if others else ''}"
        )
    if not kept.all():
        entries = entries.take(np.flatnonzero(kept))
    for entry in tree.broken:
        entries.append(entry)
    plan = plan_people(source, source, entries, config, tree.passed_over, Naming(also_known=known))
    plan.warnings[:0] = [*tree.warnings(), *warnings]
    return plan


class _Notes:
    """Brings annotations and images together, which lie beside one another, without keeping either.

    A walk gives a folder's files together, but for what lies in folders in it: so only the folders that lead to the present
    one are remembered, and what is left over.
    """

    def __init__(self) -> None:
        self._open: list[
            tuple[str, dict[str, Entry], dict[str, list[int]]]
        ] = []  # a folder's annotations, and images' rows
        self._late: dict[str, Entry] = {}

    def add(self, note: Entry, entries: Entries) -> None:
        """Take an annotation."""
        stem = note.name[:-4]
        notes, rows = self._folder(stem)
        notes[stem] = note
        for row in rows.get(stem, ()):
            entries.add_note(row, note)

    def give(self, row: int, name: str, entries: Entries) -> None:
        """Take an image, and give it its annotation if that came before."""
        stem = os.path.splitext(name)[0]  # noqa: PTH122 - millions of them
        notes, rows = self._folder(stem)
        rows.setdefault(stem, []).append(row)
        if stem in notes:
            entries.add_note(row, notes[stem])

    def finish(self, entries: Entries) -> None:
        """Give what is left over to images that came before or after in other places of the walk."""
        while self._open:
            self._close()
        if self._late:
            for row, name in enumerate(entries.names()):
                note = self._late.get(os.path.splitext(name)[0])  # noqa: PTH122
                if note is not None and entries.rejection(row) is None:
                    entries.add_note(row, note)

    def _folder(self, stem: str) -> tuple[dict[str, Entry], dict[str, list[int]]]:
        above = stem[: stem.rfind("/") + 1]
        while self._open and not above.startswith(self._open[-1][0]):
            self._close()
        if not self._open or self._open[-1][0] != above:
            self._open.append((above, {}, {}))
        return self._open[-1][1], self._open[-1][2]

    def _close(self) -> None:
        _, notes, rows = self._open.pop()
        self._late |= {stem: note for stem, note in notes.items() if stem not in rows}


def _own_name(source: Path) -> str:
    return archive_stem(source.name) or source.name


def _identity(source: Path, above: str) -> str:
    """The person whose folder is at a path."""
    return above.rpartition("/")[2] or _own_name(source)


def _resolutions(source: Path, samples: Mapping[str, Sequence[Entry]]) -> tuple[dict[str, str], list[str]]:
    """The resolution of each person's folder, and what to say about how it is known.

    Args:
        source: The source.
        samples: Some images of each person's folder.
    """
    made: dict[str, str] = {}
    own = [_own_name(source), source.absolute().parent.name]
    warnings = []
    unnamed: dict[str, list[str]] = {}
    for above, some in samples.items():
        identity = _identity(source, above)
        if kface.resolution_of(identity) is not None:
            raise InputError(
                f"{source}: {some[0].name} lies in no folder of a person, expected <Resolution>/<ID>/S00x/…; unpack each "
                "person's archive into a folder of its name, or give the archives as they are"
            )
        if not above and not re.fullmatch(r"\d+", identity):
            warnings.append(f"S001 and so on lie at the top, so all images are taken as one person's, {identity!r}")
        around = above.split("/")[:-1][::-1] + (own if above else own[1:])
        named = next((one for name in around if (one := kface.resolution_of(name)) is not None), None)
        if named is not None:
            made[above] = named
        else:
            unnamed.setdefault(above.rpartition("/")[0], []).append(above)
    for around_them, people in unnamed.items():
        chosen = people[:: max(1, len(people) // _SAMPLE)]
        resolution, shape = _by_size(source, around_them, [entry for above in chosen for entry in samples[above]])
        made |= dict.fromkeys(people, resolution)
        warnings.append(
            f"no folder around {printable(around_them) or 'the images'} is called <Resolution>_Resolution; their size, {shape}, "
            f"is {resolution}'s"
        )
    return made, warnings


def _by_size(source: Path, around: str, entries: Sequence[Entry]) -> tuple[str, str]:
    """The resolution that the sizes of some images say, and the size."""
    seen: Counter[tuple[int, int]] = Counter()
    for entry in entries:
        try:
            data = entry.place(source)
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

"""From the image files of a tree to its plan: names are checked, ids given, people and images chosen."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eolgul.errors import InputError, Reason, Rejection
from eolgul.extract.config import ExtractConfig
from eolgul.extract.entries import Entries, Entry
from eolgul.extract.files import FilesTask, plan_files
from eolgul.extract.passed_over import PassedOver
from eolgul.extract.people import choose, compare_names, limits_given, lists_given, nobody_left, unique_ids
from eolgul.extract.plan import Plan, text
from eolgul.extract.worker import Checks, is_usable
from eolgul.formats.identities import fault, identity_fault, normal

_NOT_TEXT = "the file's name is not UTF-8; rename it, or unpack its archive with its encoding"


@dataclass(frozen=True)
class Naming:
    """How a kind of source names people.

    Attributes:
        order: Sorts identities for `max_identities`.
        form: Brings a name of a list of people into the form of an identity.
        also_known: Identities of the source that have no entry.
        may_repeat: Whether the source may name a file twice.
    """

    order: Callable[[str], str | int] = str
    form: Callable[[str], str] = str
    also_known: Collection[str] = ()
    may_repeat: bool = False


def plan_people(
    source: Path,
    root: Path,
    entries: Entries,
    config: ExtractConfig,
    passed_over: PassedOver,
    naming: Naming = Naming(),
) -> Plan:
    """Plan image files with the identities and ids that their paths give them.

    Args:
        source: For messages.
        root: What the entries' names are below.
        entries: The files, each with an identity and an id as its path spells them, or with a rejection. They are changed.
        config: The options.
        passed_over: Counts the files that are not taken.
        naming: The kind's names.

    Raises:
        InputError: A list of people names nobody, or nobody is left.
    """
    # There may be 13 million entries, so nothing is kept beside them for each.
    spellings: dict[str, set[str]] = {}
    for row, entry in enumerate(entries):
        named = _named(entry)
        if named is not entry:
            entries.amend(row, named)
        if named.identity is not None:
            spellings.setdefault(named.identity, set()).add(entry.identity or "")
    facts, warnings = compare_names({name: len(written) for name, written in spellings.items()})
    if any(len(written) > 1 for written in spellings.values()):
        entries = _put_together(entries)
    if naming.may_repeat:
        _reject_repeated(entries)
    _give_ids(entries)
    if lists_given(config) or limits_given(config):
        names = sorted(spellings, key=naming.order)
        code_of = {name: code for code, name in enumerate(names)}
        known, codes = entries.identities()
        codes = np.array([*(code_of.get(name, -1) for name in known), -1], np.int32)[codes]

        def usable(row: int) -> bool:
            if entries.rejection(row) is not None:
                return False
            task = FilesTask(root, entries, range(row, row + 1), config.any_size)
            return is_usable(next(task.candidates()), Checks.of(config))

        choice = choose(source, codes, names, config, usable, form=naming.form, also_known=naming.also_known)
        facts |= choice.facts
        warnings += choice.warnings
        for row in np.flatnonzero(~choice.kept).tolist():
            passed_over.add(choice.why(row), entries.name(row))
        taken = choice.kept & (codes >= 0)
        if not taken.any():
            raise InputError(nobody_left(source, len(names), int(choice.left_out.sum()), config))
        entries = entries.take(np.flatnonzero(choice.kept))
    plan = plan_files(root, entries, config, passed_over)
    plan.facts |= facts
    plan.warnings += warnings
    return plan


def _named(entry: Entry) -> Entry:
    """An entry with its names in NFC, or rejected for one that is refused."""
    before = entry.identity or ""
    if entry.name.isascii() and entry.name.isprintable() and before == before.strip():
        return entry
    if text(entry.name) != entry.name:
        wrong, identity = _NOT_TEXT, before if text(before) == before else ""
    else:
        wrong, identity = "", normal(before)
        of_person = identity_fault(identity) if entry.identity is not None else None
        if of_person is not None:
            wrong, identity = f"the identity's name is refused, since {of_person}; rename it", ""
        elif (of_path := fault(entry.name)) is not None:
            wrong = f"the file's path is refused, since {of_path}; rename it"
    if wrong:
        rejection = Rejection(Reason.BAD_NAME, wrong)
        return entry._replace(identity=identity or None, rejection=entry.rejection or rejection)
    if entry.identity is None:
        return entry
    return entry._replace(identity=identity, image_id=normal(entry.image_id))


def _put_together(entries: Entries) -> Entries:
    """Put each person's images (of one resolution) together, which lie in several folders."""
    first: dict[tuple[str, str | None], int] = {}
    keys = np.empty(len(entries), np.int64)
    for row, entry in enumerate(entries):
        resolution = None if entry.condition is None else entry.condition.resolution
        keys[row] = first.setdefault((entry.identity, resolution), row) if entry.identity else row
    return entries.take(np.argsort(keys, kind="stable"))


def _reject_repeated(entries: Entries) -> None:
    """Reject a file that is named again for the same identity."""
    seen: set[tuple[str, str | None]] = set()
    for row, entry in enumerate(entries):
        if entry.rejection is None and (entry.name, entry.identity) in seen:
            detail = f"{entry.name} is there already, for the same identity"
            entries.amend(row, entry._replace(rejection=Rejection(Reason.DUPLICATE_KEY, detail)))
        seen.add((entry.name, entry.identity))


class _Ids(Sequence[str]):
    """The ids of some rows, made one by one."""

    def __init__(self, entries: Entries, rows: NDArray[np.int64]) -> None:
        self._entries, self._rows = entries, rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, place: Any) -> Any:
        return self._entries.image_id(int(self._rows[place]))


def _give_ids(entries: Entries) -> None:
    """Give every file that may become an image an id of its own."""
    rows = entries.accepted()

    def suffix(number: int) -> str:
        return normal(os.path.splitext(entries.name(int(rows[number])))[1])  # noqa: PTH122 - millions of them

    for number, image_id in unique_ids(_Ids(entries, rows), suffix).items():
        row = int(rows[number])
        entries.amend(row, entries.entry(row)._replace(image_id=image_id))

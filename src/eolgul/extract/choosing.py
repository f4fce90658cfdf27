"""From the image files of a tree to its plan: names are checked, ids given, people and images chosen."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from eolgul.errors import InputError, Reason, Rejection
from eolgul.extract.config import ExtractConfig
from eolgul.extract.passed_over import PassedOver
from eolgul.extract.people import choose, compare_names, limits_given, lists_given, nobody_left, unique_ids
from eolgul.extract.plan import Plan, text
from eolgul.extract.tree import Entry, FilesTask, plan_files
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
    entries: Sequence[Entry],
    config: ExtractConfig,
    passed_over: PassedOver,
    naming: Naming = Naming(),
) -> Plan:
    """Plan image files with the identities and ids that their paths give them.

    Args:
        source: For messages.
        root: What the entries' names are below.
        entries: The files, each with an identity and an id as its path spells them, or with a rejection.
        config: The options.
        passed_over: Counts the files that are not taken.
        naming: The kind's names.

    Raises:
        InputError: A list of people names nobody, or nobody is left.
    """
    # There may be 13 million entries, so nothing is kept beside them for each.
    chosen: list[Entry] = []
    spellings: dict[str, set[str]] = {}
    for entry in entries:
        named = _named(entry)
        chosen.append(named)
        if named.identity is not None:
            spellings.setdefault(named.identity, set()).add(entry.identity or "")
    facts, warnings = compare_names({name: len(written) for name, written in spellings.items()})
    if any(len(written) > 1 for written in spellings.values()):
        _put_together(chosen)
    if naming.may_repeat:
        _reject_repeated(chosen)
    _give_ids(chosen)
    if lists_given(config) or limits_given(config):
        names = sorted(spellings, key=naming.order)
        code_of = {name: code for code, name in enumerate(names)}
        codes = np.array([-1 if entry.identity is None else code_of[entry.identity] for entry in chosen], np.int32)

        def usable(row: int) -> bool:
            if chosen[row].rejection is not None:
                return False
            task = FilesTask(root, [chosen[row]], config.any_size)
            return is_usable(next(task.candidates()), Checks.of(config))

        choice = choose(source, codes, names, config, usable, form=naming.form, also_known=naming.also_known)
        facts |= choice.facts
        warnings += choice.warnings
        for row in np.flatnonzero(~choice.kept).tolist():
            passed_over.add(choice.why(row), chosen[row].name)
        taken = choice.kept & (codes >= 0)
        if not taken.any():
            raise InputError(nobody_left(source, len(names), int(choice.left_out.sum()), config))
        chosen = [entry for entry, kept in zip(chosen, choice.kept.tolist(), strict=True) if kept]
    plan = plan_files(root, chosen, config, passed_over)
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


def _put_together(entries: list[Entry]) -> None:
    """Put each person's images (of one resolution) together, which lie in several folders."""
    first: dict[tuple[str, str | None], int] = {}
    keys = []
    for place, entry in enumerate(entries):
        resolution = None if entry.condition is None else entry.condition.resolution
        keys.append(first.setdefault((entry.identity, resolution), place) if entry.identity else place)
    entries[:] = [entries[place] for place in sorted(range(len(entries)), key=keys.__getitem__)]


def _reject_repeated(entries: list[Entry]) -> None:
    """Reject a file that is named again for the same identity."""
    seen: set[tuple[str, str | None]] = set()
    for place, entry in enumerate(entries):
        if entry.rejection is None and (entry.name, entry.identity) in seen:
            detail = f"{entry.name} is there already, for the same identity"
            entries[place] = entry._replace(rejection=Rejection(Reason.DUPLICATE_KEY, detail))
        seen.add((entry.name, entry.identity))


def _give_ids(entries: list[Entry]) -> None:
    """Give every file that may become an image an id of its own."""
    places = [place for place, entry in enumerate(entries) if entry.rejection is None]

    def suffix(number: int) -> str:
        return normal(os.path.splitext(entries[places[number]].name)[1])  # noqa: PTH122 - millions of them

    for number, image_id in unique_ids([entries[place].image_id for place in places], suffix).items():
        entries[places[number]] = entries[places[number]]._replace(image_id=image_id)

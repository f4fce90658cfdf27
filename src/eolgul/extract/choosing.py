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
from eolgul.extract.tree import Entry, plan_files
from eolgul.extract.worker import is_usable
from eolgul.formats.identities import fault, identity_fault, normal

_NOT_TEXT = "the file's name is not UTF-8; rename it, or unpack its archive with its encoding"


@dataclass(frozen=True)
class Naming:
    """How a kind of source names people.

    Attributes:
        order: Sorts identities for `max_identities`.
        form: Brings a name of a list of people into the form of an identity.
        also_known: Identities of the source that have no entry.
    """

    order: Callable[[str], str | int] = str
    form: Callable[[str], str] = str
    also_known: Collection[str] = ()


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
    named = _together([_named(entry) for entry in entries])
    named = _with_ids(named)
    spellings: dict[str, set[str]] = {}
    for entry, before in named:
        if entry.identity is not None:
            spellings.setdefault(entry.identity, set()).add(before)
    facts, warnings = compare_names({name: len(written) for name, written in spellings.items()})
    chosen = [entry for entry, _ in named]
    if lists_given(config) or limits_given(config):
        names = sorted(spellings, key=naming.order)
        code_of = {name: code for code, name in enumerate(names)}
        codes = np.array([-1 if entry.identity is None else code_of[entry.identity] for entry in chosen], np.int32)

        def usable(row: int) -> bool:
            if chosen[row].rejection is not None:
                return False
            (task,) = plan_files(root, [chosen[row]], config).tasks
            return is_usable(next(iter(task.candidates())), verify=config.verify)

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


def _named(entry: Entry) -> tuple[Entry, str]:
    """An entry with its names in NFC, or rejected for one that is refused; and its identity as it was spelled."""
    before = entry.identity or ""
    if entry.name.isascii() and entry.name.isprintable() and before == before.strip():
        return entry, before
    if text(entry.name) != entry.name:
        wrong, identity = _NOT_TEXT, text(before)
        if identity != before:
            identity = ""
    else:
        wrong, identity = "", normal(before)
        of_person = identity_fault(identity) if entry.identity is not None else None
        if of_person is not None:
            wrong, identity = f"the identity's name is refused, since {of_person}; rename it", ""
        elif (of_path := fault(entry.name)) is not None:
            wrong = f"the file's path is refused, since {of_path}; rename it"
    if wrong:
        rejection = Rejection(Reason.BAD_NAME, wrong)
        return entry._replace(identity=identity or None, rejection=entry.rejection or rejection), before
    if entry.identity is None:
        return entry, before
    return entry._replace(identity=identity, image_id=normal(entry.image_id)), before


def _together(named: list[tuple[Entry, str]]) -> list[tuple[Entry, str]]:
    """The entries with each person's images (of one resolution) together, also where two folders are one person's."""
    if all(entry.identity in (None, before) for entry, before in named):
        return named
    first: dict[tuple[str | None, str | None], int] = {}
    keys = []
    for place, (entry, _) in enumerate(named):
        resolution = None if entry.condition is None else entry.condition.resolution
        keys.append(first.setdefault((entry.identity, resolution), place) if entry.identity else place)
    return [named[place] for place in sorted(range(len(named)), key=keys.__getitem__)]


def _with_ids(named: list[tuple[Entry, str]]) -> list[tuple[Entry, str]]:
    """Give every file that may become an image an id of its own; one that a list names twice is rejected."""
    seen: set[tuple[str, str | None]] = set()
    places = []
    for place, (entry, before) in enumerate(named):
        if entry.rejection is not None:
            continue
        if (entry.name, entry.identity) in seen:
            detail = f"{entry.name} is there already, for the same identity"
            named[place] = entry._replace(rejection=Rejection(Reason.DUPLICATE_KEY, detail)), before
            continue
        seen.add((entry.name, entry.identity))
        places.append(place)
    stems = [named[place][0].image_id for place in places]
    suffixes = [normal(os.path.splitext(named[place][0].name)[1]) for place in places]  # noqa: PTH122 - millions of them
    for place, stem, image_id in zip(places, stems, unique_ids(stems, suffixes), strict=True):
        if image_id != stem:
            entry, before = named[place]
            named[place] = entry._replace(image_id=image_id), before
    return named

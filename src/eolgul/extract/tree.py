"""Walk a tree of files, and plan those of them that are images: one task per shard, which any worker can carry out."""

from __future__ import annotations

import hashlib
import os
import stat as modes
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from eolgul.errors import InputError, Reason, Rejection, printable
from eolgul.extract.config import ExtractConfig
from eolgul.extract.file_names import SNAPSHOTS, begins_as_image, is_system_file, is_system_folder, says_image
from eolgul.extract.passed_over import PassedOver, Why
from eolgul.extract.plan import Candidate, Plan, shares, text
from eolgul.files import is_unfinished
from eolgul.formats import kface

_HEAD = 64  # bytes that tell whether a file is an image


class Entry(NamedTuple):
    """A file of a tree; `name` is its path below the source."""

    name: str
    size: int
    stamp: tuple[int, int]  # times (ns) of modification and of change of the file itself
    image_id: str = ""
    identity: str | None = None
    condition: kface.Condition | None = None
    facts: Mapping[str, Any] | None = None
    rejection: Rejection | None = None
    note: Entry | None = None


@dataclass(frozen=True)
class FilesTask:
    """Image files of a tree."""

    root: Path
    entries: Sequence[Entry]
    any_size: bool

    def candidates(self) -> Iterator[Candidate]:
        """Yield the files, with their conditions and annotations where they have them."""
        for entry in self.entries:
            path, rejection, size = self.root / entry.name, entry.rejection, None
            where = printable(text(entry.name))  # it is shown on terminals and pages
            facts = dict(entry.facts) if entry.facts else None
            if entry.condition is not None:
                facts = {name: getattr(entry.condition, name) for name in entry.condition.__slots__}
                size = None if self.any_size else kface.SIZES[entry.condition.resolution]
            beside = None
            if entry.note is not None:
                note = self.root / entry.note.name
                beside = (os.fsencode(entry.note.name), note)
                try:
                    landmarks = kface.read_annotation(note).landmarks
                except InputError as error:
                    detail = str(error).removeprefix(f"{self.root}/")
                    rejection = rejection or Rejection(Reason.BAD_ANNOTATION, detail)
                else:
                    assert facts is not None
                    facts |= {"landmarks": landmarks.ravel().tolist(), "landmark_source": "annotated"}
            name = os.fsencode(entry.name)
            yield Candidate(where, entry.image_id, entry.identity, path, name, facts, rejection, beside, size)


def plan_files(root: Path, entries: list[Entry], config: ExtractConfig, passed_over: PassedOver | None = None) -> Plan:
    """Plan the files of a tree, whose ids are all different."""
    sizes = np.array([entry.size for entry in entries], np.int64)
    cuts = shares(sizes, config.shard_bytes)
    tasks = [FilesTask(root, entries[cut], config.any_size) for cut in cuts]
    stamp = hashlib.sha256()
    for entry in entries:
        for one in (entry, entry.note):
            if one is not None:
                stamp.update(os.fsencode(one.name) + f"\0{one.size} {one.stamp}\n".encode())
    return Plan(tasks, stamp.hexdigest(), passed_over=passed_over or PassedOver())


class Tree:
    """The files below a folder. What is passed over on the way is counted in `passed_over`."""

    def __init__(self, root: Path) -> None:
        self.root, self.passed_over = root, PassedOver()

    def pictures(self) -> Iterator[Entry]:
        """Yield every file that is an image by its suffix or its first bytes, in the order of `files`; count the others."""
        for entry in self.files():
            if self.is_picture(entry):
                yield entry
            else:
                self.passed_over.add(Why.NOT_AN_IMAGE, entry.name)

    def is_picture(self, entry: Entry) -> bool:
        """Whether a file is an image by its suffix or, where that says nothing, by its first bytes."""
        said = says_image(entry.name)
        if said is not None:
            return said
        try:
            with (self.root / entry.name).open("rb", buffering=0) as file:
                return begins_as_image(file.read(_HEAD))
        except OSError:
            return False

    def files(self) -> Iterator[Entry]:
        """Yield every file, ordered by the parts of its path, but for those of systems; no file is opened.

        Links to folders are followed at the top only.

        Raises:
            InputError: when a folder cannot be read.
        """
        return self._walk("")

    def _walk(self, below: str) -> Iterator[Entry]:
        """Yield the files of a folder."""
        folder = self.root / below
        try:
            with os.scandir(folder) as found:
                ordered = sorted(found, key=lambda entry: entry.name)
        except OSError as error:
            raise InputError(f"{folder}: {error.strerror}") from error
        followed: list[str] = [os.path.realpath(self.root)] if not below else []
        for entry in ordered:
            name = f"{below}/{entry.name}" if below else entry.name
            if entry.is_dir(follow_symlinks=False):
                if not self._passes_folder(entry, name):
                    yield from self._walk(name)
                continue
            try:
                facts = entry.stat()
            except OSError:  # a link that leads nowhere, or round in a circle
                if says_image(name):
                    yield Entry(name, 0, (0, 0))  # it is rejected as unreadable later
                else:
                    self.passed_over.add(Why.LINK, name)
                continue
            if modes.S_ISDIR(facts.st_mode):
                if below or is_system_folder(entry.name) or not _leads_elsewhere(entry.path, followed):
                    self.passed_over.add(Why.LINK, name)
                else:
                    yield from self._walk(name)
            elif not modes.S_ISREG(facts.st_mode):
                self.passed_over.add(Why.SPECIAL_FILE, name)
            elif is_system_file(entry.name):
                self.passed_over.add(Why.SYSTEM_FILE, name)
            elif not is_unfinished(entry.name):
                yield Entry(name, facts.st_size, (facts.st_mtime_ns, facts.st_ctime_ns))

    def _passes_folder(self, entry: os.DirEntry[str], name: str) -> bool:
        """Whether a folder is not people's; then what is in it is counted."""
        if is_unfinished(entry.name):  # a build of eolgul, which comes and goes
            return True
        system = is_system_folder(entry.name)
        if not system and not entry.name.startswith("."):
            return False
        if entry.name.lower() in SNAPSHOTS:
            self.passed_over.add(Why.SYSTEM_FILE)
        else:
            self._count(entry.path, Why.SYSTEM_FILE if system else Why.HIDDEN)
        return True

    def _count(self, folder: str, why: Why) -> None:
        """Count every file of a folder that is passed over; one that cannot be read counts as one."""
        waiting = [folder]
        while waiting:
            try:
                with os.scandir(waiting.pop()) as found:
                    for entry in found:
                        if entry.is_dir(follow_symlinks=False):
                            waiting.append(entry.path)
                        else:
                            self.passed_over.add(why, entry.name)
            except OSError:
                self.passed_over.add(why)


def _leads_elsewhere(link: str, followed: list[str]) -> bool:
    """Whether a link leads neither into a folder that is visited anyway nor to one around it; if so, `followed` grows."""
    target = os.path.realpath(link)
    for other in followed:
        common = os.path.commonpath([target, other])
        if common in (target, other):
            return False
    followed.append(target)
    return True

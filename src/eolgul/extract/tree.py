"""Walk a tree of files, on the disk, in S3 or in archives."""

from __future__ import annotations

import itertools
import json
import os
import stat as modes
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from eolgul.artifact import CARDS
from eolgul.errors import InputError, Reason, Rejection, printable
from eolgul.extract.entries import Entry
from eolgul.extract.file_names import SNAPSHOTS, begins_as_image, is_system_file, is_system_folder, says_image
from eolgul.extract.passed_over import PassedOver, Why
from eolgul.extract.plan import text
from eolgul.files import is_unfinished
from eolgul.formats.archives import (
    MAX_DEPTH,
    BrokenArchiveError,
    FilePlace,
    Member,
    Node,
    archive_stem,
    how_to_unpack,
    is_foreign_archive,
    list_archive,
    nesting,
)
from eolgul.formats.identities import normal
from eolgul.storage.far import FarEntry, FarFolder

_CARDS = frozenset(CARDS.values())
_Listed = os.DirEntry[str] | FarEntry
_HEAD = 64  # bytes that tell whether a file is an image


class Tree:
    """The files below a folder or in an archive; archives among them are read in place, as folders of their names.

    `archives.zip` beside a folder `archives` adds to it. What is passed over on the way is counted in `passed_over`, and
    `broken` are archives that cannot be read.
    """

    def __init__(self, root: Path, far: FarFolder | None = None) -> None:
        """The tree at `root`; with `far` that of a folder in S3, and `root` is the place of its copies on the local disk."""
        self.root, self.passed_over, self._far = root, PassedOver(), far
        self.broken: list[Entry] = []
        self._foreign: list[str] = []
        self._encodings: dict[str, str] = {}
        self._followed = [os.path.realpath(root)]

    def warnings(self) -> Iterator[str]:
        """Sentences about archives, without the source's name."""
        if self._foreign:
            first = self._foreign[0]
            yield (
                f"{len(self._foreign):,} archive(s) such as {printable(first)} are passed over, since they are not read in "
                f"place; {how_to_unpack(first)}"
            )
        if self.broken:
            first_entry = self.broken[0]
            assert first_entry.rejection is not None
            name = printable(text(first_entry.name))
            yield f"{len(self.broken):,} archive(s) cannot be read whole, such as {name}: {first_entry.rejection.detail}"
        for encoding in sorted(set(self._encodings.values()) - {"utf-8"}):
            some = [name for name, one in self._encodings.items() if one == encoding]
            yield f"the names in {len(some):,} archive(s) such as {printable(some[0])} are read as {encoding.upper()}"

    def describe(self) -> str:
        """What is passed over, and what to do with archives among it, for a sentence."""
        found = self.passed_over.describe()
        return f"{found}; {how_to_unpack(self._foreign[0])}" if self._foreign else found

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
            if entry.member is not None:
                return begins_as_image(entry.member.read_head(_HEAD))
            with (self.root / entry.name).open("rb", buffering=0) as file:
                return begins_as_image(file.read(_HEAD))
        except OSError:
            return False

    def files(self) -> Iterator[Entry]:
        """Yield every file, ordered by the parts of its path, but for those of systems; no file but archives is opened.

        Links to folders are followed at the top only.

        Raises:
            InputError: when a folder, or the source itself if it is an archive, cannot be read.
        """
        if self.root.is_dir():
            yield from self._walk("", True, [])
            return
        try:
            node = self._list(_Archive(FilePlace.at(self.root), self.root.name), source=True)
        except BrokenArchiveError as error:
            raise InputError(f"{self.root}: {error}") from error
        if node is not None:
            yield from self._walk("", False, [node])

    def _walk(self, below: str, real: bool, nodes: Sequence[_Part]) -> Iterator[Entry]:
        """Yield the files of a folder that is one on the disk, or in archives, or both."""
        found = self._scan(below) if real else []
        if below and any(entry.name in _CARDS for entry in found) and self._is_artifact(below):
            self._count(below, Why.ARTIFACT)
            return
        if not nodes and not any(archive_stem(entry.name) for entry in found):
            before = f"{below}/" if below else ""
            for entry in found:
                name = before + entry.name
                if _is_dir(entry):
                    yield from self._folder(entry, name)
                elif (one := self._file(entry, name)) is not None:
                    yield one
            return
        children: dict[str, _Child] = defaultdict(_Child)
        for entry in found:
            stem = archive_stem(entry.name)
            if stem is not None and not is_system_file(entry.name) and _is_file(entry):
                path = _join(below, entry.name)
                children[stem].archives.append(_Archive(self._archive(entry, path), path))
            else:
                children[entry.name].entry = entry
        for part in nodes:
            for name, folder in part.node.folders.items():
                children[name].nodes.append(_Part(folder, part.modified))
            for name, member in part.node.files.items():
                stem = archive_stem(name)
                if stem is not None and not is_system_file(name):
                    archive = _Archive(member, _join(below, name), part.modified)
                    children[stem].archives.append(archive)
                else:
                    children[name].members.append((member, part.modified))
        for name in sorted(children):
            yield from self._child(children.pop(name), _join(below, name), name)

    def _child(self, child: _Child, path: str, name: str) -> Iterator[Entry]:
        """Yield the files of one name in a folder: a file, or the files of a folder and of archives that count as it."""
        opened = [self._list(archive) for archive in child.archives]
        nodes = child.nodes + [part for part in opened if part is not None]
        entry = child.entry
        merged = entry is not None and bool(nodes) and entry.is_dir(follow_symlinks=False)
        sizes = set()
        if entry is not None and not merged:
            if _is_dir(entry):
                yield from self._folder(entry, path)
            elif (one := self._file(entry, path)) is not None:
                sizes.add(one.size)
                yield one
        if nodes and (is_system_folder(name) or name.startswith(".")):
            why = Why.SYSTEM_FILE if is_system_folder(name) else Why.HIDDEN
            for file in itertools.chain.from_iterable(part.node.paths() for part in nodes):
                self.passed_over.add(why, file)
            if merged and entry is not None:
                self._count(path, why)
        elif nodes:
            yield from self._walk(path, merged, nodes)
        for member, modified in child.members:
            if is_system_file(name):
                self.passed_over.add(Why.SYSTEM_FILE, name)
            elif is_foreign_archive(name):
                self._pass_archive(path)
            elif member.size in sizes:
                self.passed_over.add(Why.COPY, name)
            else:
                sizes.add(member.size)
                stamp = (modified, member.offset if member.checksum < 0 else member.checksum)
                yield Entry(path, member.size, stamp, member=member)

    def _list(self, archive: _Archive, *, source: bool = False) -> _Part | None:
        """The tree of an archive; None when it cannot be read. What is passed over in it is counted."""
        name = archive.path.rpartition("/")[2]
        modified = archive.place.modified if isinstance(archive.place, FilePlace) else archive.modified
        if nesting(archive.place) > MAX_DEPTH:
            self._pass_archive(archive.path)
            return None
        try:
            listing = list_archive(archive.place, name)
        except BrokenArchiveError as error:
            if source:
                raise
            self._reject(archive, modified, Reason.UNREADABLE, str(error))
            return None
        for why, paths in (
            (Why.COPY, listing.replaced),
            (Why.LINK, listing.links),
            (Why.SPECIAL_FILE, listing.special),
        ):
            for path in paths:
                self.passed_over.add(why, path)
        for path in listing.refused:
            self._reject(archive, modified, Reason.BAD_NAME, f"{path!r} leads out of the archive", path)
        if listing.broken:
            self._reject(archive, modified, Reason.UNREADABLE, listing.broken)
        if listing.names:
            self._encodings[archive.path] = listing.names
        if listing.is_empty:
            self.passed_over.add(Why.ARCHIVE, archive.path)
        return _Part(_without_double(listing.root, archive_stem(name) or ""), modified)

    def _reject(self, archive: _Archive, modified: int, reason: Reason, detail: str, member: str = "") -> None:
        where = f"{archive.path}/{member}" if member else archive.path
        self.broken.append(Entry(where, 0, (modified, 0), rejection=Rejection(reason, detail), unread=True))

    def _pass_archive(self, path: str) -> None:
        self.passed_over.add(Why.ARCHIVE, path)
        self._foreign.append(path)

    def _archive(self, entry: _Listed, path: str) -> FilePlace:
        """An archive's place on the local disk: it is read by many small steps."""
        return FilePlace.at(entry.path if self._far is None else self._far.copy(path))

    def _is_artifact(self, below: str) -> bool:
        """Whether a folder holds an artifact of eolgul, by its card."""
        for kind, name in CARDS.items():
            try:
                path = _join(below, name)
                card = (self.root / path).read_bytes() if self._far is None else self._far.read_bytes(path)
                if json.loads(card)["kind"] == kind:
                    return True
            except (OSError, ValueError, KeyError, TypeError):
                continue
        return False

    def _scan(self, below: str) -> list[_Listed]:
        if self._far is not None:
            return list(self._far.scan(below))
        folder = os.path.join(self.root, below)  # noqa: PTH118 - one per folder
        try:
            with os.scandir(folder) as found:
                return sorted(found, key=lambda entry: entry.name)
        except OSError as error:
            raise InputError(f"{folder}: {error.strerror}") from error

    def _folder(self, entry: _Listed, name: str) -> Iterator[Entry]:
        """Yield the files of a folder of the disk, or of one that a link leads to."""
        if not entry.is_dir(follow_symlinks=False):
            if "/" in name or is_system_folder(entry.name) or not _leads_elsewhere(entry.path, self._followed):
                self.passed_over.add(Why.LINK, name)
            else:
                yield from self._walk(name, True, [])
        elif not self._passes_folder(entry, name):
            yield from self._walk(name, True, [])

    def _file(self, entry: _Listed, name: str) -> Entry | None:
        """A file of the disk; None when it is passed over."""
        try:
            facts = entry.stat()
        except OSError:  # a link that leads nowhere, or round in a circle
            if says_image(name):
                return Entry(name, 0, (0, 0))  # it is rejected as unreadable later
            self.passed_over.add(Why.LINK, name)
            return None
        if not modes.S_ISREG(facts.st_mode):
            self.passed_over.add(Why.SPECIAL_FILE, name)
        elif is_system_file(entry.name):
            self.passed_over.add(Why.SYSTEM_FILE, name)
        elif is_foreign_archive(entry.name):
            self._pass_archive(name)
        elif not is_unfinished(entry.name):
            file = entry.file if isinstance(entry, FarEntry) else None
            return Entry(name, facts.st_size, (facts.st_mtime_ns, facts.st_ctime_ns), member=file)
        return None

    def _passes_folder(self, entry: _Listed, path: str) -> bool:
        """Whether a folder is not people's; then what is in it is counted."""
        if is_unfinished(entry.name):  # a build of eolgul, which comes and goes
            return True
        if is_system_folder(entry.name):
            why = Why.SYSTEM_FILE
        elif entry.name.startswith("."):
            why = Why.HIDDEN
        else:
            return False
        self._count(path, why)
        return True

    def _count(self, below: str, why: Why) -> None:
        """Count every file of a folder that is passed over; one that is not to be entered counts as one."""
        if below.rpartition("/")[2].lower() in SNAPSHOTS:
            self.passed_over.add(why)
            return
        if self._far is not None:
            for path in self._far.paths(below):
                self.passed_over.add(why, path)
            return
        waiting = [os.path.join(self.root, below)]  # noqa: PTH118
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


class Names(NamedTuple):
    """The names of what lies in a folder."""

    files: set[str]
    folders: set[str]


def names_in(source: Path, far: FarFolder | None, below: str = "") -> Names:
    """The names in a folder of a source, which lies on the disk or in S3; none where there is no such folder."""
    names = Names(set(), set())
    folder = source / below
    found: Iterable[_Listed] = far.scan(below) if far is not None else os.scandir(folder) if folder.is_dir() else ()
    for entry in found:
        (names.folders if _is_dir(entry) else names.files).add(entry.name)
    return names


class _Part(NamedTuple):
    """A folder of an archive, and the time of modification of the archive's file."""

    node: Node
    modified: int


class _Archive(NamedTuple):
    """An archive that is to be read in place; `path` is its path in the tree."""

    place: FilePlace | Member
    path: str
    modified: int = 0


@dataclass
class _Child:
    """What one name stands for in a folder: on the disk and in archives."""

    entry: _Listed | None = None
    nodes: list[_Part] = field(default_factory=list)
    members: list[tuple[Member, int]] = field(default_factory=list)
    archives: list[_Archive] = field(default_factory=list)


def _is_dir(entry: _Listed) -> bool:
    """Whether it is a folder, or a link to one; a link that leads round in a circle is not."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _is_file(entry: _Listed) -> bool:
    try:
        return entry.is_file()
    except OSError:
        return False


def _join(below: str, name: str) -> str:
    return f"{below}/{name}" if below else name


def _without_double(node: Node, stem: str) -> Node:
    """The tree of an archive without its only folder when that has the archive's own name."""
    folders = [name for name in node.folders if not is_system_folder(name)]
    files = [name for name in node.files if not is_system_file(name)]
    if files or len(folders) != 1 or normal(folders[0]) != normal(stem):
        return node
    inner = node.folders[folders[0]]
    rest = {name: folder for name, folder in node.folders.items() if name != folders[0]}
    return Node(rest | inner.folders, node.files | inner.files)


def _leads_elsewhere(link: str, followed: list[str]) -> bool:
    """Whether a link leads neither into a folder that is visited anyway nor to one around it; if so, `followed` grows."""
    target = os.path.realpath(link)
    for other in followed:
        common = os.path.commonpath([target, other])
        if common in (target, other):
            return False
    followed.append(target)
    return True

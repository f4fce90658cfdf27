"""The files of a tree, millions of them: as columns of numbers, and one by one as `Entry`.

Memory: about 80 bytes per K-FACE image with its annotation (a tuple of Python objects for each takes 1.7 kB), 32 more in S3.
What few files have (a rejection, facts of a list, a place in an archive) is kept as it is.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from eolgul.errors import Rejection
from eolgul.extract.plan import Readable
from eolgul.formats import kface
from eolgul.formats.archives import Member
from eolgul.storage.far import FarFile


class OnDisk(NamedTuple):
    """A file of the disk. There are millions, and a Path takes longer to make than a small image to read."""

    path: str

    def read_bytes(self) -> bytes:
        """Read it whole. Raises OSError."""
        with open(self.path, "rb", buffering=0) as file:  # noqa: PTH123
            return file.read()


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
    member: Member | FarFile | None = None  # where it lies if that is in an archive or in S3
    unread: bool = False  # it is rejected without a look at its bytes

    def place(self, root: Path) -> bytes | OnDisk | Member | FarFile:
        """Where its bytes are; `root` is the folder of the source."""
        return b"" if self.unread else self.member or OnDisk(os.path.join(root, self.name))  # noqa: PTH118

    def file(self, root: Path) -> Readable:
        """Where the bytes of a file are that is read."""
        return self.member or root / self.name


T = TypeVar("T")
_COLUMNS = {
    "folder": "i",  # number in `_folders`
    "end": "q",  # of the file's own name in `_names`
    "size": "q",
    "modified": "q",
    "changed": "q",
    "identity": "i",  # number in `_identities`; -1 for none
    "id": "i",  # where the id begins in the name without its suffix; `_OWN`, `_OF_CONDITION`
    "condition": "i",  # number in `_conditions`; -1 for none
    "note_size": "q",  # of the annotation; -1 without one
    "note_modified": "q",
    "note_changed": "q",
}
_OWN, _OF_CONDITION = -1, -2  # an id that is kept as it is, and one of K-FACE's
_TAG = 16  # bytes of an object's version in S3
_NOTE = ".txt"


class Entries(Sequence[Entry]):
    """Files in order, which can be appended and amended. It can be pickled."""

    def __init__(self, some: Iterable[Entry] = ()) -> None:
        self._columns = {name: array(kind) for name, kind in _COLUMNS.items()}
        self._names = bytearray()
        self._folders: list[str] = []
        self._identities: dict[str, int] = {}
        self._identity_names: list[str] = []
        self._conditions: dict[kface.Condition, int] = {}
        self._condition_names: list[kface.Condition] = []
        self._far = ""  # the prefix in S3 that names lie below
        self._tags, self._note_tags = bytearray(), bytearray()  # their versions, and those of annotations
        self._ids: dict[int, str] = {}
        self._facts: dict[int, Mapping[str, Any]] = {}
        self._rejections: dict[int, Rejection] = {}
        self._members: dict[int, Member | FarFile] = {}
        self._notes: dict[int, Entry] = {}
        self._unread: set[int] = set()
        for entry in some:
            self.append(entry)

    def __len__(self) -> int:
        return len(self._columns["size"])

    def __iter__(self) -> Iterator[Entry]:
        return map(self.entry, range(len(self)))

    def __getitem__(self, row: Any) -> Any:
        """One entry by its row, or those of a slice as new `Entries`."""
        if isinstance(row, slice):
            return self.take(np.arange(*row.indices(len(self))))
        return self.entry(range(len(self))[row])

    def append(self, entry: Entry) -> int:
        """Add a file; return its row."""
        columns, row = self._columns, len(self)
        above, slash, own = entry.name.rpartition("/")
        above += slash
        if not self._folders or self._folders[-1] != above:
            self._folders.append(above)
        columns["folder"].append(len(self._folders) - 1)
        self._names += own.encode("utf-8", "surrogateescape")
        columns["end"].append(len(self._names))
        columns["size"].append(entry.size)
        columns["modified"].append(entry.stamp[0])
        columns["changed"].append(entry.stamp[1])
        columns["identity"].append(-1)
        columns["id"].append(_OWN)
        columns["condition"].append(-1)
        for name in ("note_size", "note_modified", "note_changed"):
            columns[name].append(-1)
        if self._tags:
            self._tags += bytes(_TAG)
        if self._note_tags:
            self._note_tags += bytes(_TAG)
        if entry.member is not None:
            self._keep_member(row, entry.name, entry.member)
        if entry.facts:
            self._facts[row] = entry.facts
        if entry.unread:
            self._unread.add(row)
        self.amend(row, entry)
        return row

    def amend(self, row: int, entry: Entry) -> None:
        """Take over the identity, the id, the condition, the rejection and the annotation of `entry`, a file of the same name."""
        columns = self._columns
        columns["identity"][row] = _code(entry.identity, self._identities, self._identity_names)
        columns["condition"][row] = _code(entry.condition, self._conditions, self._condition_names)
        self._ids.pop(row, None)
        stem = os.path.splitext(entry.name)[0]  # noqa: PTH122 - millions of them
        if entry.condition is not None and entry.image_id == kface.image_id(entry.identity or "", entry.condition):
            columns["id"][row] = _OF_CONDITION
        elif entry.image_id and stem.endswith(entry.image_id):
            columns["id"][row] = len(stem) - len(entry.image_id)
        else:
            columns["id"][row] = _OWN
            if entry.image_id:
                self._ids[row] = entry.image_id
        if entry.rejection is None:
            self._rejections.pop(row, None)
        else:
            self._rejections[row] = entry.rejection
        if entry.note is not None:
            self.add_note(row, entry.note)

    def describe(self, row: int, identity: str, condition: kface.Condition) -> None:
        """State whom a file shows and how; its id is K-FACE's."""
        columns = self._columns
        columns["identity"][row] = _code(identity, self._identities, self._identity_names)
        columns["condition"][row] = _code(condition, self._conditions, self._condition_names)
        columns["id"][row] = _OF_CONDITION

    def add_note(self, row: int, note: Entry) -> None:
        """Give a file its annotation."""
        columns, name = self._columns, self.name(row)
        tag = self._tag(note.name, note.member)
        if note.name != os.path.splitext(name)[0] + _NOTE or (note.member is not None and tag is None):  # noqa: PTH122
            self._notes[row] = note
            return
        columns["note_size"][row] = note.size
        columns["note_modified"][row], columns["note_changed"][row] = note.stamp
        if tag is not None:
            self._note_tags = self._note_tags or bytearray(_TAG * len(self))
            self._note_tags[_TAG * row : _TAG * row + _TAG] = tag

    def _keep_member(self, row: int, name: str, member: Member | FarFile) -> None:
        tag = self._tag(name, member)
        if tag is None:
            self._members[row] = member
            return
        self._tags = self._tags or bytearray(_TAG * len(self))
        self._tags[_TAG * row : _TAG * row + _TAG] = tag

    def _tag(self, name: str, member: Member | FarFile | None) -> bytes | None:
        """The version of an object in S3 as bytes; None for anything that these do not tell."""
        if not isinstance(member, FarFile) or not member.uri.endswith(name):
            return None
        above = member.uri.removesuffix(name)
        self._far = self._far or above
        try:
            tag = bytes.fromhex(member.etag)
        except ValueError:  # of an object that was uploaded in parts
            return None
        fits = above == self._far and len(tag) == _TAG and tag.hex() == member.etag and any(tag)
        return tag if fits else None

    def name(self, row: int) -> str:
        """The path of a file below the source."""
        ends = self._columns["end"]
        own = self._names[ends[row - 1] if row else 0 : ends[row]]
        return self._folders[self._columns["folder"][row]] + own.decode("utf-8", "surrogateescape")

    def names(self) -> Iterator[str]:
        """The paths of all files."""
        return map(self.name, range(len(self)))

    def image_id(self, row: int) -> str:
        """The id of a file as an image."""
        at = self._columns["id"][row]
        if at == _OWN:
            return self._ids.get(row, "")
        if at == _OF_CONDITION:
            condition = self._condition_names[self._columns["condition"][row]]
            code = self._columns["identity"][row]
            return kface.image_id("" if code < 0 else self._identity_names[code], condition)
        return os.path.splitext(self.name(row))[0][at:]  # noqa: PTH122

    def rejection(self, row: int) -> Rejection | None:
        """Why a file is rejected already."""
        return self._rejections.get(row)

    def entry(self, row: int) -> Entry:
        """One file with all that is known of it."""
        columns, name = self._columns, self.name(row)
        identity, condition = columns["identity"][row], columns["condition"][row]
        size = columns["size"][row]
        return Entry(
            name,
            size,
            (columns["modified"][row], columns["changed"][row]),
            self.image_id(row),
            None if identity < 0 else self._identity_names[identity],
            None if condition < 0 else self._condition_names[condition],
            self._facts.get(row) if self._facts else None,
            self._rejections.get(row) if self._rejections else None,
            self._note(row, name),
            self._object(self._tags, row, name, size) or self._members.get(row),
            row in self._unread,
        )

    def _note(self, row: int, name: str) -> Entry | None:
        columns = self._columns
        size = columns["note_size"][row]
        if size < 0:
            return self._notes.get(row) if self._notes else None
        note = os.path.splitext(name)[0] + _NOTE  # noqa: PTH122
        stamp = columns["note_modified"][row], columns["note_changed"][row]
        return Entry(note, size, stamp, member=self._object(self._note_tags, row, note, size))

    def _object(self, tags: bytearray, row: int, name: str, size: int) -> FarFile | None:
        tag = tags[_TAG * row : _TAG * row + _TAG]
        return FarFile(self._far + name, size, tag.hex()) if any(tag) else None

    def sizes(self) -> NDArray[np.int64]:
        """The size of each file in bytes."""
        return np.array(self._columns["size"], np.int64)

    def identities(self) -> tuple[list[str], NDArray[np.int32]]:
        """The identities, and the number of each file's among them; -1 for none."""
        return list(self._identity_names), np.array(self._columns["identity"], np.int32)

    def accepted(self) -> NDArray[np.int64]:
        """The rows of the files that are not rejected."""
        mask = np.ones(len(self), np.bool_)
        mask[list(self._rejections)] = False
        return np.flatnonzero(mask)

    @property
    def in_s3(self) -> bool:
        """Whether files lie in S3."""
        return bool(self._far)

    def members(self) -> Iterator[Member | FarFile]:
        """The places of files in archives."""
        return iter(self._members.values())

    def take(self, rows: NDArray[np.integer]) -> Self:
        """New entries: those of some rows, in their order, each once at most."""
        rows = np.asarray(rows, np.int64)
        made = type(self)()
        for name, kind in _COLUMNS.items():
            if name != "end":
                made._columns[name] = array(kind, _view(self._columns[name])[rows].tobytes())
        ends = _view(self._columns["end"])
        begins = np.append(0, ends[:-1])
        for some in np.array_split(rows, max(1, len(rows) >> 20)):
            lengths = ends[some] - begins[some]
            behind = np.cumsum(lengths)
            total = int(behind[-1]) if len(some) else 0
            where = np.arange(total, dtype=np.int64) + np.repeat(begins[some] - behind + lengths, lengths)
            made._columns["end"].frombytes((len(made._names) + behind).astype(np.int64).tobytes())
            made._names += np.frombuffer(self._names, np.uint8)[where].tobytes()
        for name in ("_folders", "_identities", "_identity_names", "_conditions", "_condition_names"):
            setattr(made, name, getattr(self, name).copy())
        made._far = self._far
        for name in ("_tags", "_note_tags"):
            tags = getattr(self, name)
            if tags:
                setattr(made, name, bytearray(np.frombuffer(tags, np.uint8).reshape(-1, _TAG)[rows].tobytes()))
        place = np.full(len(self), -1, np.int64)
        place[rows] = np.arange(len(rows))
        for name in ("_ids", "_facts", "_rejections", "_members", "_notes"):
            kept = {int(place[row]): value for row, value in getattr(self, name).items() if place[row] >= 0}
            setattr(made, name, kept)
        made._unread = {int(place[row]) for row in self._unread if place[row] >= 0}
        return made


def _code(value: T | None, codes: dict[T, int], values: list[T]) -> int:
    """The number of a value among those that are known; -1 for none."""
    if value is None:
        return -1
    code = codes.setdefault(value, len(codes))
    if code == len(values):
        values.append(value)
    return code


def _view(column: array[int]) -> NDArray[Any]:
    return np.frombuffer(column, np.dtype(column.typecode)) if len(column) else np.empty(0, column.typecode)

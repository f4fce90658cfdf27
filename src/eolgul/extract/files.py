"""Plan the files of a tree that are images: one task per shard, which any worker can carry out."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eolgul.errors import InputError, Reason, Rejection, printable
from eolgul.extract.config import ExtractConfig
from eolgul.extract.entries import Entries, Entry, OnDisk
from eolgul.extract.passed_over import PassedOver
from eolgul.extract.plan import Candidate, Division, Plan, Readable, text
from eolgul.formats import kface
from eolgul.formats.archives import Member, Unpacked
from eolgul.storage.far import FarFile

_REQUESTS, _AHEAD = 8, 64  # of S3: requests at once, and files that are read before they are asked for


@dataclass(frozen=True)
class FilesTask:
    """Image files of a tree: some rows of its entries. Another process gets these rows alone."""

    root: Path
    files: Entries
    rows: range
    any_size: bool

    @property
    def entries(self) -> Iterator[Entry]:
        """The files."""
        return map(self.files.entry, self.rows)

    def __reduce__(self) -> tuple[Any, ...]:
        own = self.files[self.rows.start : self.rows.stop]
        return FilesTask, (self.root, own, range(len(own)), self.any_size)

    def candidates(self) -> Iterator[Candidate]:
        """Yield the files, with their conditions and annotations where they have them."""
        for entry, place, note in self._places():
            rejection, size = entry.rejection, None
            where = printable(text(entry.name))  # it is shown on terminals and pages
            facts = dict(entry.facts) if entry.facts else None
            if entry.condition is not None:
                facts = {name: getattr(entry.condition, name) for name in entry.condition.__slots__}
                size = None if self.any_size else kface.SIZES[entry.condition.resolution]
            beside = None
            if entry.note is not None:
                assert note is not None
                beside = (os.fsencode(entry.note.name), note)
                try:
                    landmarks = kface.parse_annotation(note.read_bytes(), entry.note.name).landmarks
                except (InputError, OSError) as error:
                    detail = str(error) if isinstance(error, InputError) else f"{entry.note.name}: {_why(error)}"
                    rejection = rejection or Rejection(Reason.BAD_ANNOTATION, detail)
                else:
                    assert facts is not None
                    facts |= {"landmarks": landmarks.ravel().tolist(), "landmark_source": "annotated"}
            name = os.fsencode(entry.name)
            yield Candidate(where, entry.image_id, entry.identity, place, name, facts, rejection, beside, size)

    def _places(self) -> Iterator[tuple[Entry, bytes | Readable, Readable | None]]:
        """The files with where their bytes are and those of their annotations; what lies in S3 is read some files ahead."""
        if not self.files.in_s3:
            for entry in self.entries:
                yield entry, entry.place(self.root), entry.note.file(self.root) if entry.note else None
            return
        with ThreadPoolExecutor(_REQUESTS) as pool:
            ahead: deque[tuple[Entry, bytes | Readable, Readable | None]] = deque()

            def read(place: bytes | OnDisk | Member | FarFile) -> bytes | Readable:
                return place if isinstance(place, bytes) else _Ahead(pool.submit(place.read_bytes))

            try:
                for entry in self.entries:
                    note = _Ahead(pool.submit(entry.note.file(self.root).read_bytes)) if entry.note else None
                    ahead.append((entry, read(entry.place(self.root)), note))
                    if len(ahead) > _AHEAD:
                        yield ahead.popleft()
                while ahead:
                    yield ahead.popleft()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise


@dataclass(frozen=True)
class _Ahead:
    """A file that is being read."""

    data: Future[bytes]

    def read_bytes(self) -> bytes:
        """Wait for its bytes. Raises OSError."""
        return self.data.result()


def _why(error: OSError) -> str:
    return error.strerror or str(error)


def plan_files(root: Path, entries: Entries, config: ExtractConfig, passed_over: PassedOver | None = None) -> Plan:
    """Plan the files of a tree, whose ids are all different; with `share`, only the files of that share are kept."""
    division = Division.of(entries.sizes(), config)
    stamp = hashlib.sha256()
    for entry in entries:
        for one in (entry, entry.note):
            if one is not None:
                stamp.update(os.fsencode(one.name) + f"\0{one.size} {one.stamp}\n".encode())
    # A compressed tar is decompressed once per process; others are read by offset, from any process.
    streams = any(isinstance(member, Member) and isinstance(member.archive, Unpacked) for member in entries.members())
    first = division.cuts[0].start if division.cuts else 0
    if config.share:
        entries = entries[first : division.cuts[-1].stop if division.cuts else first]
    else:
        first = 0
    tasks = [FilesTask(root, entries, range(cut.start - first, cut.stop - first), config.any_size)
             for cut in division.cuts]  # fmt: skip
    return Plan(tasks, division, stamp.hexdigest(), portable=not streams, passed_over=passed_over or PassedOver())

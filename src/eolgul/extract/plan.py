"""What the plan of an extraction consists of: candidates, the tasks that yield them, and what the card states of a source."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from eolgul.dataset import member_size
from eolgul.errors import Rejection
from eolgul.extract.config import ExtractConfig
from eolgul.extract.passed_over import PassedOver
from eolgul.files import sha256_bytes
from eolgul.formats.pair_lists import Pair


class Readable(Protocol):
    """A file, or a member of an archive."""

    def read_bytes(self) -> bytes:
        """Read it whole. Raises OSError when that is not possible."""


class Candidate(NamedTuple):
    """An image that may enter the dataset, or its rejection.

    `data` is the encoded image or where to read it. `name` is its name in the digest of the source. `beside` is the name
    and place of another file about the image.
    """

    where: str
    image_id: str
    identity: str | None
    data: bytes | Readable
    name: bytes
    facts: Mapping[str, Any] | None = None
    rejection: Rejection | None = None
    beside: tuple[bytes, Readable] | None = None
    size: tuple[int, int] | None = None  # the width and height that the source states


class Task(Protocol):
    """One shard's part of a source. It can be pickled if the plan is portable."""

    def candidates(self) -> Iterator[Candidate]:
        """Yield the candidates in the order of the dataset."""


class Division(NamedTuple):
    """How a source is cut into shards, and which of them this machine writes.

    Attributes:
        cuts: The candidates of each shard that is written here.
        first: The number of the first of these shards.
        shards: How many shards there are in all.
        digest: SHA-256 (hex) of the whole division: machines that share a source must agree on it.
    """

    cuts: Sequence[slice]
    first: int
    shards: int
    digest: str

    @classmethod
    def of(cls, sizes: NDArray[np.int64], config: ExtractConfig) -> Self:
        """Divide candidates of these sizes (bytes) by the options."""
        cuts = list(shares(sizes, config.shard_bytes))
        mine = config.share_of(len(cuts))
        about = repr(([cut.stop for cut in cuts], int(sizes.sum())))
        return cls(cuts[mine.start : mine.stop], mine.start, len(cuts), sha256_bytes(about.encode()))


@dataclass
class Plan:
    """A source as tasks: those of its shards that are written here, numbered as `division` says.

    `stamp` changes when the source does, and needs no file to be read. `aligned` names the template that the faces lie on.
    `pairs` are those of a benchmark: two image ids, whether they show one person, and the fold. `portable` says whether
    the tasks can be sent to other processes. `also` are small files that are part of the input besides what tasks read.
    `passed_over` counts the inputs that no task yields. `warnings` are sentences for people, and `facts` are further
    contents of the card.
    """

    tasks: Sequence[Task]
    division: Division
    stamp: str
    aligned: str | None = None
    identities_known: bool = True
    pairs: list[Pair] | None = None
    portable: bool = True
    also: list[Path] = field(default_factory=list)
    passed_over: PassedOver = field(default_factory=PassedOver)
    warnings: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def numbers(self) -> range:
        """The numbers of the shards that are written here, one per task."""
        return range(self.division.first, self.division.first + len(self.tasks))


def shares(sizes: NDArray[np.int64], shard_bytes: int) -> Iterator[slice]:
    """Divide candidates of these sizes (bytes) into consecutive shards of at most `shard_bytes`, one candidate at least."""
    ends = np.cumsum(member_size(0) + (sizes + 511) // 512 * 512)
    begin = 0
    while begin < len(sizes):
        before = int(ends[begin - 1]) if begin else 0
        end = max(int(np.searchsorted(ends, before + shard_bytes, side="right")), begin + 1)
        yield slice(begin, end)
        begin = end


def text(name: str) -> str:
    """A path as text that can be stored: bytes that are not UTF-8 (as in old Korean archives) become escapes."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def stamp_files(files: Sequence[Path]) -> str:
    """The SHA-256 (hex) over the names, sizes and times of files."""
    facts = [(path.name, (one := path.stat()).st_size, one.st_mtime_ns, one.st_ctime_ns) for path in files]
    return hashlib.sha256(repr(facts).encode()).hexdigest()


def line(name: bytes, sha256: str) -> bytes:
    """The line of a file in the digest of a source."""
    return name + f"\0{sha256}\n".encode()


def sha256_or_unreadable(file: Readable) -> str:
    """The SHA-256 (hex) of a file, or the word "unreadable"."""
    try:
        return sha256_bytes(file.read_bytes())
    except OSError:
        return "unreadable"

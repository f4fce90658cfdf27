"""Plan the extraction of each kind of source: one task per shard, which any worker can carry out."""

from __future__ import annotations

import hashlib
import os
import stat as modes
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from eolgul.dataset import member_size
from eolgul.errors import InputError, Reason, Rejection
from eolgul.extract.config import ExtractConfig
from eolgul.files import sha256_file
from eolgul.formats import insightface, kface, rec_index
from eolgul.formats.mxnet_reader import mxnet_python, read_images_mxnet
from eolgul.formats.pair_lists import Pair
from eolgul.model.package import TEMPLATE_NAME

IMAGE_SUFFIXES = {
    ".jpg", ".jpeg", ".png", ".pgm", ".ppm", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".heic", ".avif", ".jfif"
}  # fmt: skip


class Candidate(NamedTuple):
    """An image that may enter the dataset, or its rejection.

    `data` is the encoded image or its file. `name` is its name in the digest of the source. `beside` is the name and path of
    another file about the image.
    """

    where: str
    image_id: str
    identity: str | None
    data: bytes | Path
    name: bytes
    facts: Mapping[str, Any] | None = None
    rejection: Rejection | None = None
    beside: tuple[bytes, Path] | None = None
    size: tuple[int, int] | None = None  # the width and height that the source states


class Task(Protocol):
    """One shard's part of a source. It can be pickled if the plan is portable."""

    def candidates(self) -> Iterator[Candidate]:
        """Yield the candidates in the order of the dataset."""


@dataclass
class Plan:
    """A source as tasks.

    `stamp` changes when the source does, and needs no file to be read. `aligned` names the template that the faces lie on.
    `pairs` are those of a benchmark: two image ids, whether they show one person, and the fold. `portable` says whether
    the tasks can be sent to other processes. `also` are small files that are part of the input besides what tasks read.
    `notes` are sentences about what the source gets wrong, for people; `facts` are the same for the card.
    """

    tasks: Sequence[Task]
    stamp: str
    aligned: str | None = None
    identities_known: bool = True
    pairs: list[Pair] | None = None
    portable: bool = True
    also: list[Path] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)


def detect_kind(source: Path) -> str:
    """The kind of a source, from its names alone.

    Raises:
        InputError: when it is of no known kind.
    """
    if source.is_file():
        kind = {".rec": "rec", ".bin": "bin", ".lst": "lst"}.get(source.suffix)
        if kind:
            return kind
        raise InputError(f"{source}: expected a .rec, .bin or .lst file or a folder")
    if not source.is_dir():
        raise InputError(f"{source}: no such file or folder")
    if (source / "train.rec").is_file():
        return "rec"
    if (source / "meta" / "storage").is_file() and (source / "data").is_dir():
        return "carrays"
    names = [entry.name for entry in source.iterdir() if entry.is_dir() and not entry.name.startswith(".")]
    if any(f"{resolution}_Resolution" in names for resolution in kface.RESOLUTIONS):
        return "kface"
    if names:
        return "folders"
    raise InputError(f"{source}: holds no train.rec, no K-FACE tree, no carray and no identity folders")


def shares(sizes: NDArray[np.int64], shard_bytes: int) -> Iterator[slice]:
    """Divide candidates of these sizes (bytes) into consecutive shards of at most `shard_bytes`, one candidate at least."""
    ends = np.cumsum(member_size(0) + (sizes + 511) // 512 * 512)
    begin = 0
    while begin < len(sizes):
        before = int(ends[begin - 1]) if begin else 0
        end = max(int(np.searchsorted(ends, before + shard_bytes, side="right")), begin + 1)
        yield slice(begin, end)
        begin = end


@dataclass(frozen=True)
class RecTask:
    """Records of a `.rec`, by key and byte offset (both int64).

    A record that the file does not hold has the offset -1, and the key -1 if that is unknown too. Labels from `label_end`
    on are those of no identity that the property file counts.
    """

    rec: Path
    keys: NDArray[np.int64]
    offsets: NDArray[np.int64]
    repeated: NDArray[np.bool_]
    label_end: int | None
    size: tuple[int, int] | None
    python: Path | None = None

    def candidates(self) -> Iterator[Candidate]:
        """Yield the records."""
        there = self.offsets >= 0
        keys, offsets = self.keys[there], self.offsets[there]
        if self.python is None:
            records = insightface.read_images(self.rec, keys, offsets)
        else:
            records = read_images_mxnet(self.rec, keys, offsets, self.python)
        file, parent = self.rec.name, f"{self.rec.parent}/"
        for wanted, present, repeated in zip(self.keys.tolist(), there.tolist(), self.repeated.tolist(), strict=True):
            if not present:
                yield self._missing(wanted)
                continue
            key, offset, label, image, rejection = next(records)
            where = f"{file} record {key} at byte {offset}"
            if rejection is not None:
                # No machine's path in an artifact.
                rejection = Rejection(rejection.code, rejection.detail.removeprefix(parent))
                yield Candidate(where, "", None, image, b"%d" % key, rejection=rejection)
                continue
            assert label is not None
            identity = f"{label:06}"
            if repeated:
                detail = f"the .idx has given the key {key} to an earlier record"
                rejection = Rejection(Reason.DUPLICATE_KEY, detail)
            elif self.label_end is not None and label >= self.label_end:
                detail = f"label {label}, but property says that labels end before {self.label_end}"
                rejection = Rejection(Reason.UNKNOWN_IDENTITY, detail)
            name = b"%d %d" % (key, label)
            image_id = f"{identity}/{key:08}"
            yield Candidate(where, image_id, identity, image, name, rejection=rejection, size=self.size)

    def _missing(self, key: int) -> Candidate:
        which = f"record {key}" if key >= 0 else "a record whose key nothing tells"
        rejection = Rejection(Reason.MISSING_RECORD, "record 0 announces it, and the file does not hold it")
        return Candidate(f"{self.rec.name} {which}", "", None, b"", b"%d missing" % key, rejection=rejection)


def plan_rec(rec: Path, config: ExtractConfig) -> Plan:
    """Plan a `.rec` by its index; `part` (i, n) takes the records that begin in the i-th of n equal byte ranges.

    Raises:
        InputError: when the file is not RecordIO, or the part has no record.
    """
    index = rec_index.index_rec(rec)
    about = rec.with_name("property")
    stated = insightface.read_property(about) if about.is_file() else None
    keys, offsets, sizes, repeated, begins = _with_missing(index)
    if config.byte_range is not None:
        number, count = config.byte_range
        total = rec.stat().st_size
        chosen = (begins >= total * (number - 1) // count) & (begins < total * number // count)
        if not (offsets[chosen] >= 0).any():
            raise InputError(f"{rec}: no image record begins in part {number} of {count}")
        keys, offsets, sizes, repeated = keys[chosen], offsets[chosen], sizes[chosen], repeated[chosen]
    python = mxnet_python() if config.reader == "mxnet" else None
    size = (stated.width, stated.height) if stated is not None and not config.any_size else None
    notes, facts = list(index.notes), dict[str, Any]()
    label_end = stated.identities if stated is not None else None
    if stated is not None and index.labels_from_one(stated.identities):
        label_end, facts["labels_from"] = stated.identities + 1, 1
        notes.append(f"{rec}: its labels count from 1 to {stated.identities}, not from 0; they are kept as they are")
    tasks = [
        RecTask(rec, keys[cut], offsets[cut], repeated[cut], label_end, size, python)
        for cut in shares(sizes, config.shard_bytes)
    ]
    aligned = stated is not None and (stated.height, stated.width) == (112, 112)
    files = [path for path in (rec, rec.with_suffix(".idx"), about) if path.is_file()]
    also = [about] if about.is_file() else []
    return Plan(tasks, stamp_files(files), TEMPLATE_NAME if aligned else None, also=also, notes=notes, facts=facts)


def _with_missing(
    index: rec_index.ImageIndex,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_], NDArray[np.int64]]:
    """The records of an index and those that are missing, in the order of the keys.

    Returns:
        Keys; byte offsets, -1 for a missing record; sizes in bytes; whether the key was given before; and the byte that
        decides to which part of the file the record belongs, for a missing one that of the record before it.
    """
    missing = len(index.missing)
    if not missing:
        return index.keys, index.offsets, index.sizes, index.repeated, index.offsets
    before = np.searchsorted(index.keys, index.missing) - 1
    keys = np.concatenate([index.keys, index.missing])
    order = np.argsort(keys, kind="stable")
    begins = np.concatenate([index.offsets, index.offsets[np.maximum(before, 0)]])
    offsets = np.concatenate([index.offsets, np.full(missing, -1, np.int64)])
    sizes = np.concatenate([index.sizes, np.zeros(missing, np.int64)])
    repeated = np.concatenate([index.repeated, np.zeros(missing, np.bool_)])
    return keys[order], offsets[order], sizes[order], repeated[order], begins[order]


@dataclass(frozen=True)
class BinTask:
    """Images of a `.bin` that is in memory. It names no people: a genuine pair counts as one identity, an impostor as two."""

    name: str
    loaded: insightface.Bin
    share: slice
    size: tuple[int, int] | None

    def candidates(self) -> Iterator[Candidate]:
        """Yield the images; `<pair>/0` and `<pair>/1` are the ids of a pair."""
        for number in range(self.share.start, self.share.stop):
            pair, side = divmod(number, 2)
            identity = f"{pair:06}" if self.loaded.same[pair] else f"{pair:06}{'ab'[side]}"
            image = self.loaded.images[number]
            name = b"%d %d" % (number, self.loaded.same[pair])
            yield Candidate(f"{self.name} image {number}", f"{pair:06}/{side}", identity, image, name, size=self.size)


def plan_bin(file: Path, config: ExtractConfig) -> Plan:
    """Plan a `.bin` set: a benchmark with ten consecutive folds. Every image must have the size that most of them have."""
    loaded = insightface.read_bin(file)
    sizes = np.array([len(image) for image in loaded.images], np.int64)
    size = None if config.any_size else _common_size(loaded.images)
    tasks = [BinTask(file.name, loaded, cut, size) for cut in shares(sizes, config.shard_bytes)]
    pairs = _consecutive_pairs(loaded.same)
    aligned = TEMPLATE_NAME if size == (112, 112) else None
    return Plan(tasks, stamp_files([file]), aligned, False, pairs, portable=False)


def _consecutive_pairs(same: NDArray[np.bool_]) -> list[Pair]:
    """The pairs of a set that has its own, in ten consecutive folds."""
    flags = same.tolist()
    return [Pair(f"{n:06}/0", f"{n:06}/1", flag, 10 * n // len(flags)) for n, flag in enumerate(flags)]


def _common_size(images: Sequence[bytes]) -> tuple[int, int] | None:
    """The width and height that most of the images have, judged from about 200 evenly spaced ones."""
    from collections import Counter

    from eolgul.images.header import read_header

    seen: Counter[tuple[int, int]] = Counter()
    for image in images[:: max(1, len(images) // 200)]:
        try:
            info = read_header(image)
        except InputError:
            continue
        seen[info.width, info.height] += 1
    return seen.most_common(1)[0][0] if seen else None


@dataclass(frozen=True)
class CarrayTask:
    """Images of a bcolz carray, which stores pixels: they are encoded again, without loss."""

    folder: Path
    begin: int
    end: int

    def candidates(self) -> Iterator[Candidate]:
        """Yield the images as PNG; `<pair>/0` and `<pair>/1` are the ids of a pair."""
        from eolgul.formats.carrays import read_carray
        from eolgul.images.decode import encode_png

        carray = read_carray(self.folder)
        for number, pixels in enumerate(carray.images(self.begin, self.end), self.begin):
            pair, side = divmod(number, 2)
            identity = f"{pair:06}" if carray.same[pair] else f"{pair:06}{'ab'[side]}"
            name = b"%d %d" % (number, carray.same[pair])
            where = f"{self.folder.name} image {number}"
            yield Candidate(where, f"{pair:06}/{side}", identity, encode_png(pixels), name, size=(112, 112))


def plan_carrays(folder: Path, config: ExtractConfig) -> Plan:
    """Plan a carray: InsightFace_Pytorch's copy of a `.bin` set."""
    from eolgul.formats.carrays import read_carray

    carray = read_carray(folder)
    guess = np.full(len(carray), 25_000, np.int64)  # bytes of a 112x112 PNG of a face, about
    tasks = [CarrayTask(folder, cut.start, cut.stop) for cut in shares(guess, config.shard_bytes)]
    pairs = _consecutive_pairs(carray.same)
    files = [*sorted((folder / "data").iterdir()), *sorted((folder / "meta").iterdir()), carray.list_file]
    return Plan(tasks, stamp_files(files), TEMPLATE_NAME, False, pairs)


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
            where = text(entry.name)
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


def plan_files(root: Path, entries: list[Entry], config: ExtractConfig) -> Plan:
    """Plan the files of a tree; of several with one id all but the first are rejected."""
    seen: set[str] = set()
    for place, entry in enumerate(entries):
        if entry.rejection is None and entry.image_id in seen:
            detail = f"an image with the id {entry.image_id} is already there"
            entries[place] = entry._replace(rejection=Rejection(Reason.DUPLICATE_KEY, detail))
        seen.add(entry.image_id)
    sizes = np.array([entry.size for entry in entries], np.int64)
    cuts = shares(sizes, config.shard_bytes)
    tasks = [FilesTask(root, entries[cut], config.any_size) for cut in cuts]
    stamp = hashlib.sha256()
    for entry in entries:
        for one in (entry, entry.note):
            if one is not None:
                stamp.update(os.fsencode(one.name) + f"\0{one.size} {one.stamp}\n".encode())
    return Plan(tasks, stamp.hexdigest())


def walk(root: Path, below: str = "") -> Iterator[Entry]:
    """Yield every file below `root`, ordered by the parts of its path; no file is opened and no link to a folder followed.

    Raises:
        InputError: when a folder cannot be read.
    """
    try:
        with os.scandir(root / below) as found:
            ordered = sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        raise InputError(f"{root / below}: {error.strerror}") from error
    for entry in ordered:
        name = f"{below}/{entry.name}" if below else entry.name
        if entry.is_dir(follow_symlinks=False):
            yield from walk(root, name)
            continue
        try:
            facts = entry.stat()
        except OSError:  # a broken link: it is rejected as unreadable later
            yield Entry(name, 0, (0, 0))
            continue
        if modes.S_ISREG(facts.st_mode):
            yield Entry(name, facts.st_size, (facts.st_mtime_ns, facts.st_ctime_ns))


def is_picture(name: str) -> bool:
    """Whether a file's suffix is that of an image format."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES  # noqa: PTH122 - a Path per file would be slow


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


def sha256_or_unreadable(path: Path) -> str:
    """The SHA-256 (hex) of a file, or the word "unreadable"."""
    try:
        return sha256_file(path)
    except OSError:
        return "unreadable"

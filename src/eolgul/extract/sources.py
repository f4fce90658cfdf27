"""Plan the sources that are one container: RecordIO, `.bin`, carrays; one task per shard, which any worker can carry out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eolgul.errors import InputError, Reason, Rejection
from eolgul.extract.config import ExtractConfig
from eolgul.extract.passed_over import PassedOver, Why
from eolgul.extract.people import Choice, choose, limits_given, lists_given, nobody_left, number_form
from eolgul.extract.plan import Candidate, Division, Plan, stamp_files
from eolgul.extract.worker import Checks, is_usable
from eolgul.formats import insightface, rec_index
from eolgul.formats.mxnet_reader import mxnet_python, read_images_mxnet
from eolgul.formats.pair_lists import Pair
from eolgul.model.package import TEMPLATE_NAME
from eolgul.storage.ranges import Ranges


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
                detail = f"label {label}, but property says {self.label_end} identities"
                rejection = Rejection(Reason.UNKNOWN_IDENTITY, detail)
            name = b"%d %d" % (key, label)
            image_id = f"{identity}/{key:08}"
            yield Candidate(where, image_id, identity, image, name, rejection=rejection, size=self.size)

    def _missing(self, key: int) -> Candidate:
        which = f"record {key}" if key >= 0 else "a record whose key nothing tells"
        rejection = Rejection(Reason.MISSING_RECORD, "record 0 announces it, and the file does not hold it")
        return Candidate(f"{self.rec.name} {which}", "", None, b"", b"%d missing" % key, rejection=rejection)


def plan_rec(rec: Path, config: ExtractConfig, known: Ranges | None = None) -> Plan:
    """Plan a `.rec` by its index; `part` (i, n) takes the records that begin in the i-th of n equal byte ranges.

    `known` are the bytes of the file that are here, as `index_rec` takes them.

    Lists of people and limits go by the whole file, whose labels are read then, so that the parts together are the whole.

    Memory: some 60 bytes per record.

    Raises:
        InputError: when the file is not RecordIO, the part has no record, a list names nobody, or nobody is left.
        PartialError: with `known`, when these bytes do not tell what the source is.
    """
    index = rec_index.index_rec(rec, known)
    about = rec.with_name("property")
    stated = insightface.read_property(about) if about.is_file() else None
    if known is not None and config.share and stated is not None and not (index.labels == 0).any():
        raise rec_index.PartialError  # whether the labels count from 1 takes all of them, and shares must agree on it
    keys, offsets, sizes, labels, repeated, begins = _with_missing(index)
    size = (stated.width, stated.height) if stated is not None and not config.any_size else None
    label_end = stated.identities if stated is not None else None
    warnings, facts = list(index.notes), dict[str, Any]()
    if stated is not None and index.labels_from_one(stated.identities):
        label_end, facts["labels_from"] = stated.identities + 1, 1
        warnings.append(f"the labels count from 1 to {stated.identities}, not from 0; all are kept as they are")
    chosen = np.ones(len(keys), np.bool_)
    if config.byte_range is not None:
        number, count = config.byte_range
        total = rec.stat().st_size
        chosen = (begins >= total * (number - 1) // count) & (begins < total * number // count)
        if not (offsets[chosen] >= 0).any():
            raise InputError(f"{rec}: no image record begins in part {number} of {count}")
    choice, passed_over = None, PassedOver()
    if lists_given(config) or limits_given(config):

        def usable(row: int) -> bool:
            one = slice(row, row + 1)
            task = RecTask(rec, keys[one], offsets[one], repeated[one], label_end, size)
            return is_usable(next(task.candidates()), Checks.of(config))

        choice = _choose_labels(rec, labels, config, usable)
        passed_over.add(Why.LEFT_OUT, count=int((chosen & choice.left_out).sum()))
        passed_over.add(Why.OVER_LIMIT, count=int((chosen & ~choice.kept & ~choice.left_out).sum()))
        chosen &= choice.kept
        if not chosen.any():
            raise InputError(f"{rec}: no image of the people that are taken begins in part {config.part}")
    keys, offsets, sizes, repeated = keys[chosen], offsets[chosen], sizes[chosen], repeated[chosen]
    python = mxnet_python() if config.reader == "mxnet" else None
    division = Division.of(sizes, config)
    tasks = [RecTask(rec, keys[cut], offsets[cut], repeated[cut], label_end, size, python) for cut in division.cuts]
    aligned = stated is not None and (stated.height, stated.width) == (112, 112)
    files = [path for path in (rec, rec.with_suffix(".idx"), about) if path.is_file()]
    also = [about] if about.is_file() else []
    plan = Plan(
        tasks, division, stamp_files(files), TEMPLATE_NAME if aligned else None, also=also, passed_over=passed_over
    )
    plan.facts, plan.warnings = facts, warnings
    if choice is not None:
        plan.facts |= choice.facts
        plan.warnings += choice.warnings
    return plan


def _with_missing(
    index: rec_index.ImageIndex,
) -> tuple[
    NDArray[np.int64],
    NDArray[np.int64],
    NDArray[np.int64],
    NDArray[np.int64],
    NDArray[np.bool_],
    NDArray[np.int64],
]:
    """The records of an index and those that are missing, in the order of the keys.

    Returns:
        Keys; byte offsets, -1 for a missing record; sizes in bytes; labels, -1 for a record without one; whether the key
        was given before; and the byte that decides to which part of the file the record belongs, for a missing one that
        of the record before it.
    """
    known = (index.labels >= 0) & (index.labels == np.rint(index.labels)) & np.isfinite(index.labels)
    labels = np.where(known, index.labels, -1).astype(np.int64)
    missing = len(index.missing)
    if not missing:
        return index.keys, index.offsets, index.sizes, labels, index.repeated, index.offsets
    nothing = np.full(missing, -1, np.int64)
    before = np.searchsorted(index.keys, index.missing) - 1
    keys = np.concatenate([index.keys, index.missing])
    order = np.argsort(keys, kind="stable")
    begins = np.concatenate([index.offsets, index.offsets[np.maximum(before, 0)]])
    return (
        keys[order],
        np.concatenate([index.offsets, nothing])[order],
        np.concatenate([index.sizes, np.zeros(missing, np.int64)])[order],
        np.concatenate([labels, nothing])[order],
        np.concatenate([index.repeated, np.zeros(missing, np.bool_)])[order],
        begins[order],
    )


def _choose_labels(
    rec: Path, labels: NDArray[np.int64], config: ExtractConfig, usable: Callable[[int], bool]
) -> Choice:
    """Apply lists of people and limits to the records of a whole `.rec`, by their labels."""
    known, codes = np.unique(labels, return_inverse=True)
    codes = codes.astype(np.int32)
    if len(known) and known[0] < 0:  # records of nobody, which are rejected
        known, codes = known[1:], codes - 1
    names = [f"{label:06}" for label in known.tolist()]
    choice = choose(rec, codes, names, config, usable, form=number_form)
    if not (choice.kept & (codes >= 0)).any():
        raise InputError(nobody_left(rec, len(names), int(choice.left_out.sum()), config))
    return choice


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
    division = Division.of(sizes, config)
    tasks = [BinTask(file.name, loaded, cut, size) for cut in division.cuts]
    pairs = _consecutive_pairs(loaded.same)
    aligned = TEMPLATE_NAME if size == (112, 112) else None
    return Plan(tasks, division, stamp_files([file]), aligned, False, pairs, portable=False)


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
    division = Division.of(guess, config)
    tasks = [CarrayTask(folder, cut.start, cut.stop) for cut in division.cuts]
    pairs = _consecutive_pairs(carray.same)
    files = [*sorted((folder / "data").iterdir()), *sorted((folder / "meta").iterdir()), carray.list_file]
    return Plan(tasks, division, stamp_files(files), TEMPLATE_NAME, False, pairs)

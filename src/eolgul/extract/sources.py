"""Plan the sources that are one container: RecordIO, `.bin`, carrays; one task per shard, which any worker can carry out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from eolgul.errors import InputError, Reason, Rejection
from eolgul.extract.config import ExtractConfig
from eolgul.extract.passed_over import PassedOver, Why
from eolgul.extract.people import Choice, choose, limits_given, lists_given, nobody_left, number_form
from eolgul.extract.plan import Candidate, Plan, shares, stamp_files
from eolgul.extract.worker import is_usable
from eolgul.formats import insightface
from eolgul.formats.mxnet_reader import mxnet_python, read_images_mxnet
from eolgul.model.package import TEMPLATE_NAME


@dataclass(frozen=True)
class RecTask:
    """Records of a `.rec`, by key and byte offset."""

    rec: Path
    keys: NDArray[np.int64]
    offsets: NDArray[np.int64]
    repeated: NDArray[np.bool_]
    identities: int | None
    size: tuple[int, int] | None
    python: Path | None = None

    def candidates(self) -> Iterator[Candidate]:
        """Yield the records."""
        if self.python is None:
            records = insightface.read_images(self.rec, self.keys, self.offsets)
        else:
            records = read_images_mxnet(self.rec, self.keys, self.offsets, self.python)
        file, parent = self.rec.name, f"{self.rec.parent}/"
        for record, repeated in zip(records, self.repeated.tolist(), strict=True):
            key, offset, label, image, rejection = record
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
            elif self.identities is not None and label >= self.identities:
                detail = f"label {label}, but property says {self.identities} identities"
                rejection = Rejection(Reason.UNKNOWN_IDENTITY, detail)
            name = b"%d %d" % (key, label)
            image_id = f"{identity}/{key:08}"
            yield Candidate(where, image_id, identity, image, name, rejection=rejection, size=self.size)


def plan_rec(rec: Path, config: ExtractConfig) -> Plan:
    """Plan a `.rec` by its index; `part` (i, n) takes the records that begin in the i-th of n equal byte ranges.

    Lists of people and limits go by the whole file, whose labels are read then, so that the parts together are the whole.

    Raises:
        InputError: when the file is not RecordIO, the part has no record, a list names nobody, or nobody is left.
    """
    index = insightface.index_rec(rec)
    about = rec.with_name("property")
    stated = insightface.read_property(about) if about.is_file() else None
    keys, offsets, sizes, repeated = index.keys, index.offsets, index.sizes, index.repeated
    size = (stated.width, stated.height) if stated is not None and not config.any_size else None
    identities = stated.identities if stated is not None else None
    chosen = np.ones(len(index), np.bool_)
    if config.byte_range is not None:
        number, count = config.byte_range
        total = rec.stat().st_size
        chosen = (offsets >= total * (number - 1) // count) & (offsets < total * number // count)
        if not chosen.any():
            raise InputError(f"{rec}: no image record begins in part {number} of {count}")
    choice, passed_over = None, PassedOver()
    if lists_given(config) or limits_given(config):

        def usable(row: int) -> bool:
            one = slice(row, row + 1)
            task = RecTask(rec, keys[one], offsets[one], repeated[one], identities, size)
            return is_usable(next(iter(task.candidates())), verify=config.verify)

        choice = _choose_labels(rec, offsets, config, usable)
        passed_over.add(Why.LEFT_OUT, count=int((chosen & choice.left_out).sum()))
        passed_over.add(Why.OVER_LIMIT, count=int((chosen & ~choice.kept & ~choice.left_out).sum()))
        chosen &= choice.kept
        if not chosen.any():
            raise InputError(f"{rec}: no image of the people that are taken begins in part {config.part}")
    keys, offsets, sizes, repeated = keys[chosen], offsets[chosen], sizes[chosen], repeated[chosen]
    python = mxnet_python() if config.reader == "mxnet" else None
    tasks = [
        RecTask(rec, keys[cut], offsets[cut], repeated[cut], identities, size, python)
        for cut in shares(sizes, config.shard_bytes)
    ]
    aligned = stated is not None and (stated.height, stated.width) == (112, 112)
    files = [path for path in (rec, rec.with_suffix(".idx"), about) if path.is_file()]
    also = [about] if about.is_file() else []
    plan = Plan(tasks, stamp_files(files), TEMPLATE_NAME if aligned else None, also=also, passed_over=passed_over)
    if choice is not None:
        plan.facts |= choice.facts
        plan.warnings += choice.warnings
    return plan


def _choose_labels(
    rec: Path, offsets: NDArray[np.int64], config: ExtractConfig, usable: Callable[[int], bool]
) -> Choice:
    """Apply lists of people and limits to the records of a whole `.rec`, by their labels."""
    labels = insightface.read_labels(rec, offsets)
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
    tasks = [BinTask(file.name, loaded, cut, size) for cut in shares(sizes, config.shard_bytes)]
    pairs = [(f"{i:06}/0", f"{i:06}/1", bool(same), 10 * i // len(loaded.same)) for i, same in enumerate(loaded.same)]
    aligned = TEMPLATE_NAME if size == (112, 112) else None
    return Plan(tasks, stamp_files([file]), aligned, False, pairs, portable=False)


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
    pairs = [(f"{i:06}/0", f"{i:06}/1", bool(same), 10 * i // len(carray.same)) for i, same in enumerate(carray.same)]
    files = [*sorted((folder / "data").iterdir()), *sorted((folder / "meta").iterdir()), carray.list_file]
    return Plan(tasks, stamp_files(files), TEMPLATE_NAME, False, pairs)

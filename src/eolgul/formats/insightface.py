"""InsightFace's use of RecordIO (`train.rec`, `train.idx`, `property`) and its `.bin` verification sets.

In the InsightFace layout record 0 holds `[N+1, N+1+identities]`, records 1…N are images and the records from N+1 on
are one per identity, without an image. Files of `im2rec` differ: keys start at 0, and each record has one scalar label.
"""

from __future__ import annotations

import io
import mmap
import pickle
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from eolgul.content import describe_file
from eolgul.errors import InputError, Reason, Rejection
from eolgul.formats import rec_index
from eolgul.formats.bin_pickle import Array, BinUnpickler, check_memo
from eolgul.formats.recordio import RecordReader, RecordWriter, pack_image

EXACT = rec_index.EXACT
_FORGET = 16 << 20  # bytes of images after which the pages that hold them are released


class RecImage(NamedTuple):
    """One image record: its key, byte offset, integer identity label and encoded image, or why it is not usable.

    `rejection` has the code `bad_record`, or `unknown_identity` for a label that is not an identity number.
    """

    key: int
    offset: int
    label: int | None
    image: bytes
    rejection: Rejection | None = None


@dataclass(frozen=True, slots=True)
class Property:
    """The `property` file: identities, height and width in pixels, and the image count of a second line if there."""

    identities: int
    height: int
    width: int
    images: int | None = None


def read_property(path: Path) -> Property:
    """Read `property`; InputError if its first line is not `identities,height,width`."""
    lines = path.read_text(encoding="ascii", errors="replace").split()
    try:
        identities, height, width = (int(value) for value in lines[0].split(","))
        return Property(identities, height, width, int(lines[1]) if len(lines) > 1 else None)
    except (ValueError, IndexError) as error:
        what = describe_file(path) if lines else None
        found = f"is {what}, expected" if what else "line 1: expected"
        raise InputError(f"{path} {found} 'identities,height,width' as whole numbers") from error


def iter_rec(rec: Path) -> Iterator[RecImage]:
    """Read every image record of a `.rec` file in key order, in either layout.

    The `.idx` beside it is used if it exists and fits; otherwise the file is scanned. A bad record has a `rejection`.

    Raises:
        InputError: The file is not RecordIO.
    """
    index = rec_index.index_rec(rec)
    return read_images(rec, index.keys, index.offsets)


def read_images(rec: Path, keys: NDArray[np.int64], offsets: NDArray[np.int64]) -> Iterator[RecImage]:
    """Read the image records at these offsets (int64), under these keys, in this order, so that N readers can share a file."""
    with RecordReader(rec) as reader:
        read = 0
        for key, offset in zip(keys.tolist(), offsets.tolist(), strict=True):
            try:
                label, image = reader.label_and_image(offset)
            except InputError as error:
                yield RecImage(key, offset, None, b"", Rejection(Reason.BAD_RECORD, str(error)))
                continue
            yield checked_image(rec, key, offset, label, image)
            read += len(image)
            if read > _FORGET:
                reader.forget()
                read = 0


def checked_image(rec: Path, key: int, offset: int, label: float, image: bytes) -> RecImage:
    """Check a record of any reader: it holds an image of an identity, or the result has a `rejection`."""
    if not (label >= 0 and label.is_integer()):  # NaN and infinity are neither
        detail = f"{rec} at byte {offset}: label {label} is not an identity number"
        return RecImage(key, offset, None, b"", Rejection(Reason.UNKNOWN_IDENTITY, detail))
    if len(image) == 0:
        detail = f"{rec} at byte {offset}: no image behind the header"
        return RecImage(key, offset, int(label), b"", Rejection(Reason.BAD_RECORD, detail))
    return RecImage(key, offset, int(label), image)


def write_rec(folder: Path, images: Iterable[tuple[int, bytes]], *, height: int = 112, width: int = 112) -> Property:
    """Write `train.rec`, `train.idx` and `property` in the InsightFace layout.

    Record 0 needs the image count, which a stream knows only at its end, so the images are spooled to a side file.

    Args:
        folder: Where the three files go.
        images: (label, encoded image), with labels 0, 1, 2… in ascending order and each identity's images together.
        height: The images' height in pixels, for `property`.
        width: Their width.

    Returns:
        What `property` says.

    Raises:
        ValueError: Labels skip a number or decrease.
        InputError: There are more images than record 0 can state.
    """
    folder.mkdir(parents=True, exist_ok=True)
    ranges: list[list[int]] = []
    sizes: list[int] = []
    spool = folder / ".spool"
    try:
        with spool.open("wb") as out:
            for count, (label, image) in enumerate(images):
                if label == len(ranges):
                    ranges.append([count, count])
                elif label != len(ranges) - 1:
                    raise ValueError(f"image {count}: label {label} after {len(ranges) - 1}; labels must be contiguous")
                ranges[label][1] = count + 1
                sizes.append(out.write(image))
        total = len(sizes)
        if total + 1 + len(ranges) > EXACT:
            raise InputError(
                f"{folder}: {total} images and {len(ranges)} identities; record 0 states their sum as a float32, which is "
                f"exact up to {EXACT} only, and readers would miss images"
            )
        with RecordWriter(folder / "train.rec") as writer, spool.open("rb") as back:
            writer.write(0, pack_image([float(total + 1), float(total + 1 + len(ranges))], b""))
            for label, (begin, end) in enumerate(ranges):
                for number in range(begin, end):
                    writer.write(number + 1, pack_image(float(label), back.read(sizes[number]), id=number + 1))
            for label, (begin, end) in enumerate(ranges):
                key = total + 1 + label
                writer.write(key, pack_image([float(begin + 1), float(end + 1)], b"", id=key))
    finally:
        spool.unlink(missing_ok=True)
    (folder / "property").write_text(f"{len(ranges)},{height},{width}\n", encoding="ascii")
    return Property(len(ranges), height, width)


@dataclass(frozen=True, slots=True)
class Bin:
    """A `.bin` set: 2N encoded images, pair i being images 2i and 2i+1, and whether each pair is the same person."""

    images: list[bytes]
    same: NDArray[np.bool_]


def read_bin(path: Path) -> Bin:
    """Read a `.bin` set written by Python 2 or 3: its images are bytes, bytearrays or uint8 arrays.

    The flags are a list of bool or whole numbers, or an array of these; both lists may be arrays of objects.

    Raises:
        InputError: The file is not such a pickle, names any other class, or its counts do not fit.
    """
    offset = 0
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                check_memo(data)
                data.seek(0)
                loaded = BinUnpickler(data, encoding="bytes").load()
            finally:
                offset = data.tell()
    except InputError as error:
        raise InputError(_not_a_bin(path) or f"{path} before byte {offset}: {error}") from error
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    except Exception as error:  # a malicious or cut-off pickle can raise nearly anything
        broken = f"{path} before byte {offset}: not a readable .bin set ({type(error).__name__})"
        raise InputError(_not_a_bin(path) or broken) from error
    if not isinstance(loaded, tuple | list) or len(loaded) != 2:
        raise InputError(f"{path}: expected a pair (images, is-same flags)")
    items = _listed(loaded[0], f"{path}: its first part, the images,")
    numbers = loaded[1].flags if isinstance(loaded[1], Array) else None
    flags = _listed(loaded[1], f"{path}: its second part, the is-same flags,") if numbers is None else numbers
    if len(items) != 2 * len(flags) or len(flags) == 0:
        raise InputError(f"{path}: {len(items)} images and {len(flags)} flags, expected two images per flag")
    images = [_image_bytes(item, f"{path} image {number}") for number, item in enumerate(items)]
    same = np.empty(len(flags), np.bool_)
    for number, flag in enumerate(flags):
        if not isinstance(flag, int) or flag not in (0, 1):  # never its repr: that of a nested list can be endless
            raise InputError(f"{path} flag {number}: a {_kind(flag)}, expected true or false")
        same[number] = bool(flag)
    return Bin(images, same)


def _not_a_bin(path: Path) -> str | None:
    what = describe_file(path)
    return None if what in (None, "a pickle") else f"{path}: is {what}, expected a .bin set, a pickle"


def _listed(value: Any, where: str) -> Sequence[Any]:
    """The items of a list, a tuple or an array of objects."""
    if isinstance(value, Array) and value.items is not None:
        return value.items
    if not isinstance(value, tuple | list):
        raise InputError(f"{where} is a {_kind(value)}, expected a list")
    return value


def _image_bytes(item: Any, where: str) -> bytes:
    if isinstance(item, bytes):
        return item
    if isinstance(item, bytearray):
        return bytes(item)
    if isinstance(item, Array) and item.data is not None:
        return item.data
    raise InputError(f"{where}: a {_kind(item)}, expected encoded bytes or a one-dimensional uint8 array")


def _kind(value: object) -> str:
    return "numpy array of another kind" if isinstance(value, Array) else type(value).__name__


def write_bin(path: Path, images: Sequence[bytes], same: Sequence[bool]) -> None:
    """Write a `.bin` set that InsightFace's own readers load; ValueError unless there are two images per flag."""
    if len(images) != 2 * len(same):
        raise ValueError(f"{len(images)} images for {len(same)} flags")
    buffer = io.BytesIO()
    pickle.dump((list(images), [bool(flag) for flag in same]), buffer, protocol=pickle.HIGHEST_PROTOCOL)
    path.write_bytes(buffer.getvalue())

"""InsightFace's use of RecordIO (`train.rec`, `train.idx`, `property`) and its `.bin` verification sets.

In the InsightFace layout record 0 holds `[N+1, N+1+identities]`, records 1…N are images and the records from N+1 on
are one per identity, without an image. Files of `im2rec` differ: keys start at 0, and each record has one scalar label.
"""

from __future__ import annotations

import io
import mmap
import pickle
import pickletools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from eolgul.errors import InputError, Reason, Rejection
from eolgul.formats.recordio import Heads, Index, RecordReader, RecordWriter, pack_image, read_index

EXACT = 1 << 24  # whole numbers up to here are exact in float32, the type of the counts in record 0
_IDENTITY_RECORD = 24 + 2 * 4  # bytes: the image header and two labels
_LABELS = 4096  # records after which those pages are released when only labels are read
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
class ImageIndex:
    """Where the image records of a `.rec` are: keys (ascending), byte offsets and sizes in bytes, all int64.

    `repeated` is true where the `.idx` names a key again, for another record.
    """

    keys: NDArray[np.int64]
    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]
    repeated: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.keys)


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
        raise InputError(f"{path} line 1: expected 'identities,height,width' as whole numbers") from error


def iter_rec(rec: Path) -> Iterator[RecImage]:
    """Read every image record of a `.rec` file in key order, in either layout.

    The `.idx` beside it is used if it exists and fits; otherwise the file is scanned. A bad record has a `rejection`.

    Raises:
        InputError: The file is not RecordIO.
    """
    index = index_rec(rec)
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


def read_labels(rec: Path, offsets: NDArray[np.int64]) -> NDArray[np.int64]:
    """Read the identity labels (int64 N) of the records at these offsets; -1 for a record without one."""
    labels = np.full(len(offsets), -1, np.int64)
    with RecordReader(rec) as reader:
        for row, offset in enumerate(offsets.tolist()):
            try:
                label, _ = reader.label_and_image(offset)
            except InputError:
                continue
            if label >= 0 and label.is_integer():
                labels[row] = int(label)
            if row % _LABELS == 0:
                reader.forget()
    return labels


def checked_image(rec: Path, key: int, offset: int, label: float, image: bytes) -> RecImage:
    """Check a record of any reader: it holds an image of an identity, or the result has a `rejection`."""
    if not (label >= 0 and label.is_integer()):  # NaN and infinity are neither
        detail = f"{rec} at byte {offset}: label {label} is not an identity number"
        return RecImage(key, offset, None, b"", Rejection(Reason.UNKNOWN_IDENTITY, detail))
    if len(image) == 0:
        detail = f"{rec} at byte {offset}: no image behind the header"
        return RecImage(key, offset, int(label), b"", Rejection(Reason.BAD_RECORD, detail))
    return RecImage(key, offset, int(label), image)


def index_rec(rec: Path) -> ImageIndex:
    """Find a `.rec` file's image records, in either layout, by its `.idx` or, where that does not fit, by scanning.

    Memory: a few numbers per record.

    Raises:
        InputError: The file is not RecordIO, or holds fewer images than its record 0 announces.
    """
    with RecordReader(rec) as reader:
        index, heads = _index(rec, reader)
        keys, offsets, sizes, flags = index.keys, index.offsets, heads.length, heads.flag
        if (keys[1:] < keys[:-1]).any():
            order = np.argsort(keys, kind="stable")
            keys, offsets, sizes, flags = keys[order], offsets[order], sizes[order], flags[order]
        end = _images_end(reader, keys, offsets)
    if end is not None:
        # Above EXACT record 0 cannot state its numbers; an identity's record is known by its size, a header and two labels.
        identities = (flags == 0) & (sizes == _IDENTITY_RECORD)
        images = (keys > 0) & ((keys < end) if end <= EXACT else ~identities)
        keys, offsets, sizes = keys[images], offsets[images], sizes[images]
        present = len(keys) - int((keys[1:] == keys[:-1]).sum())
        if np.float32(present + 1) != np.float32(end):
            raise InputError(f"{rec}: record 0 announces {end - 1} images, {present} are there; is it cut off?")
    repeated = np.zeros(len(keys), np.bool_)
    repeated[1:] = keys[1:] == keys[:-1]
    return ImageIndex(keys, offsets, sizes, repeated)


def _images_end(reader: RecordReader, keys: NDArray[np.int64], offsets: NDArray[np.int64]) -> int | None:
    """The key after the last image if record 0 is InsightFace's; None if it is an image like the others."""
    row = int(np.searchsorted(keys, 0))
    if row == len(keys) or keys[row] != 0:
        return None
    try:
        first = reader.image(int(offsets[row]))
    except InputError:  # a bad record is reported when it is read
        return None
    label = first.labels[0]
    return int(label) if first.flag == 2 and len(first.image) == 0 and label > 0 and label.is_integer() else None


def _index(rec: Path, reader: RecordReader) -> tuple[Index, Heads]:
    """Every record's key and offset, in file order, and the headers at the offsets."""
    path = rec.with_suffix(".idx")
    if path.is_file():
        listed = read_index(path)
        if (listed.offsets[1:] < listed.offsets[:-1]).any():
            order = np.argsort(listed.offsets, kind="stable")
            listed = Index(listed.keys[order], listed.offsets[order])
        heads = _heads_that_fit(reader, listed)
        if heads is not None:
            return listed, heads
    offsets = reader.offsets()
    if len(offsets) == 0:
        raise InputError(f"{rec}: no record found, expected RecordIO")
    return Index(np.arange(len(offsets), dtype=np.int64), offsets), reader.heads(offsets)


def _heads_that_fit(reader: RecordReader, index: Index) -> Heads | None:
    """The headers where the index (by offset) points; None if it is stale: it omits records or points elsewhere.

    If the index is right and the record there is broken, the record is reported when it is read.
    """
    offsets = index.offsets
    if len(index) == 0 or offsets[0] != 0 or offsets[-1] > reader.size - 8 or (offsets % 4).any():
        return None
    listed = np.append(offsets[1:], reader.size)
    if (offsets == listed).any():
        return None
    heads = reader.heads(offsets)
    short = heads.magic & (heads.flag == 0) & (heads.following(offsets) < listed)
    if any(reader.begins_at(int(after)) for after in heads.following(offsets)[short]):
        return None
    for offset, next_listed in zip(offsets[heads.flag != 0].tolist(), listed[heads.flag != 0].tolist(), strict=True):
        try:
            following = reader.read(offset)[1]
        except InputError:
            continue
        if following < next_listed and reader.begins_at(following):
            return None
    return heads


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


class _Dtype:
    """Stands in for `numpy.dtype` and keeps only its name; it ignores the state that the pickle gives it."""

    name = ""

    def __init__(self, name: str | bytes, *_: object) -> None:
        self.name = name.decode("ascii", "replace") if isinstance(name, bytes) else str(name)

    def __setstate__(self, state: object) -> None:
        pass


class _Array:
    """Stands in for a pickled numpy array and keeps only its bytes: no untrusted shape or pointer reaches numpy."""

    data = b""
    kind = ""  # "u1" or "b1" if it is a one-dimensional array of uint8 or bool

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, state: tuple[int, tuple[int, ...], _Dtype, bool, bytes]) -> None:
        _, shape, dtype, _, data = state
        flat = isinstance(data, bytes) and max(shape, default=1) == len(data)  # OpenCV's imencode gives (n, 1)
        if flat and isinstance(dtype, _Dtype) and dtype.name in ("u1", "b1"):
            self.data, self.kind = data, dtype.name


class _FromBuffer(_Array):
    """Stands in for `numpy.core.numeric._frombuffer`, with which pickle protocol 5 restores arrays."""

    def __init__(self, data: bytes | bytearray, dtype: _Dtype, shape: tuple[int, ...], *_: object) -> None:
        self.__setstate__((1, shape, dtype, False, bytes(data) if isinstance(data, bytearray) else data))


class _Scalar(int):
    """Stands in for `numpy.core.multiarray.scalar`: the only scalar a `.bin` holds is a flag."""

    def __new__(cls, dtype: _Dtype, data: bytes) -> Self:
        if dtype.name != "b1" or data not in (b"\0", b"\1"):
            raise InputError("holds a numpy scalar that is not a bool: refused")
        return super().__new__(cls, data[0])

    def __setstate__(self, state: object) -> None:
        raise InputError("gives a number a state: refused")


class _Encode:
    """Stands in for `_codecs.encode`, with which Python 3 writes bytes in protocols 0 to 2."""

    def __new__(cls, text: str, encoding: str | bytes) -> bytes:  # type: ignore[misc]
        if encoding not in ("latin1", b"latin1"):
            raise InputError("uses an encoding other than latin1: refused")
        return text.encode("latin1")

    def __setstate__(self, state: object) -> None:
        raise InputError("gives a function a state: refused")


class _NoBytes:
    """Stands in for `bytes`, which Python 3 calls only for empty bytes in protocols 0 to 2."""

    def __new__(cls) -> bytes:  # type: ignore[misc]
        return b""

    def __setstate__(self, state: object) -> None:
        raise InputError("gives a class a state: refused")


class _BinUnpickler(pickle.Unpickler):
    """Builds what a `.bin` needs (bytes, str, list, tuple, bool, uint8 and bool arrays) and nothing else.

    Numpy's own classes are unsafe with untrusted data (`ndarray(shape, "O", bytes)` takes the bytes for pointers), so a
    pickle that names them gets the stand-ins above. They are classes because a pickle can set a function's attributes.
    """

    _STAND_INS: ClassVar[dict[tuple[str, str], type]] = {
        ("numpy", "ndarray"): _Array,
        ("numpy", "dtype"): _Dtype,
        ("_codecs", "encode"): _Encode,
        ("__builtin__", "bytes"): _NoBytes,
        ("builtins", "bytes"): _NoBytes,
        **{(f"numpy.{core}.multiarray", "_reconstruct"): _Array for core in ("core", "_core")},
        **{(f"numpy.{core}.multiarray", "scalar"): _Scalar for core in ("core", "_core")},
        **{(f"numpy.{core}.numeric", "_frombuffer"): _FromBuffer for core in ("core", "_core")},
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._STAND_INS:
            asked = f"{module}.{name}"[:80]  # untrusted text: no line break or escape sequence reaches a terminal
            raise InputError(f"asks for {asked!a}, which a .bin set never needs: refused")
        return self._STAND_INS[module, name]


def _check_memo(file: BinaryIO | mmap.mmap) -> None:
    """Refuse a memo number larger than a real pickler gives: Python allocates that many entries at once."""
    puts = 0
    for opcode, argument, offset in pickletools.genops(file):  # type: ignore[arg-type]
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT"):
            puts += 1
            if int(argument or 0) > puts:
                raise InputError(f"byte {offset} asks for memo entry {argument}: refused")


def read_bin(path: Path) -> Bin:
    """Read a `.bin` set written by Python 2 or 3, its items bytes or uint8 arrays.

    Raises:
        InputError: The file is not such a pickle, names any other class, or its counts do not fit.
    """
    offset = 0
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                _check_memo(data)
                data.seek(0)
                loaded = _BinUnpickler(data, encoding="bytes").load()
            finally:
                offset = data.tell()
    except InputError as error:
        raise InputError(f"{path} before byte {offset}: {error}") from error
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    except Exception as error:  # a malicious or cut-off pickle can raise nearly anything
        raise InputError(f"{path} before byte {offset}: not a readable .bin set ({type(error).__name__})") from error
    if not isinstance(loaded, tuple | list) or len(loaded) != 2:
        raise InputError(f"{path}: expected a pair (images, is-same flags)")
    items, flags = loaded
    if isinstance(flags, _Array) and flags.kind == "b1":
        flags = [flag != 0 for flag in flags.data]
    if not isinstance(items, tuple | list) or not isinstance(flags, tuple | list):
        raise InputError(f"{path}: expected a list of images and a list of flags")
    if len(items) != 2 * len(flags) or len(flags) == 0:
        raise InputError(f"{path}: {len(items)} images and {len(flags)} flags, expected two images per flag")
    images = [_image_bytes(item, f"{path} image {number}") for number, item in enumerate(items)]
    same = np.empty(len(flags), np.bool_)
    for number, flag in enumerate(flags):
        if not isinstance(flag, int) or flag not in (0, 1):  # never its repr: that of a nested list can be endless
            raise InputError(f"{path} flag {number}: a {type(flag).__name__}, expected true or false")
        same[number] = bool(flag)
    return Bin(images, same)


def _image_bytes(item: Any, where: str) -> bytes:
    if isinstance(item, bytes):
        return item
    if isinstance(item, _Array) and item.kind == "u1":
        return item.data
    kind = "numpy array of another kind" if isinstance(item, _Array) else type(item).__name__
    raise InputError(f"{where}: a {kind}, expected encoded bytes or a one-dimensional uint8 array")


def write_bin(path: Path, images: Sequence[bytes], same: Sequence[bool]) -> None:
    """Write a `.bin` set that InsightFace's own readers load; ValueError unless there are two images per flag."""
    if len(images) != 2 * len(same):
        raise ValueError(f"{len(images)} images for {len(same)} flags")
    buffer = io.BytesIO()
    pickle.dump((list(images), [bool(flag) for flag in same]), buffer, protocol=pickle.HIGHEST_PROTOCOL)
    path.write_bytes(buffer.getvalue())

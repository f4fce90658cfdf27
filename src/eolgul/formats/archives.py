"""Read the members of zip and tar archives in place, at any depth of archives in archives.

An archive is listed once. A member is then read by its place alone, from any process: its offset and size in the archive,
which is a file or itself a member. What has no random access (a compressed tar, an archive that is a compressed member) is
decompressed into a temporary file without a name (in TMPDIR), two at most per process; nothing else is written to disk.

Formats: PKWARE's APPNOTE.TXT (zip) and POSIX pax (tar), as `zipfile` and `tarfile` read them.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import re
import stat as modes
import struct
import tarfile
import tempfile
import threading
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, NamedTuple, Protocol

from eolgul.content import LOOKED_AT, describe_content
from eolgul.errors import InputError, one_line

MAX_MEMBER = 256 << 20
"""The most bytes of a member that is read as a whole; the largest published image data set's images are below 30 MB."""
MAX_DEPTH = 5
"""Archives in archives: AI Hub's `download.tar` holds a zip of zips of one zip per person, which is four."""
_MAX_RATIO = 100  # by which an archive may grow when it is decompressed; photos hardly shrink
_FREE_BYTES = 64 << 20  # an archive may always grow to this size
_SUFFIX = re.compile(r"(.+)\.(zip|tar|tar\.gz|tgz|tar\.bz2|tbz2?|tar\.xz|txz)", re.IGNORECASE | re.DOTALL)
_FOREIGN = re.compile(
    r".+\.(?:7z|rar|alz|egg|gz|bz2|xz|zst|lz4|lzma|cab|iso|dmg|arj|lzh|ace|z\d\d|zip\.\d{3}|(?:zip|tar|tgz|gz)\.part\d*|part\d+)",
    re.IGNORECASE | re.DOTALL,
)
_NONE = (".jpg", ".png", ".jpeg", ".JPG", ".txt")  # what most files are, so that their names need no closer look
_PIECE = re.compile(r".*\.(?:z\d\d|\d{3}|part\d*)", re.IGNORECASE | re.DOTALL)
_OPENERS: dict[str, Callable[[IO[bytes]], io.BufferedIOBase]] = {
    "gz": lambda file: gzip.GzipFile(fileobj=file),
    "bz2": bz2.BZ2File,
    "xz": lzma.LZMAFile,
}
_METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA}
_NAMES_OF_METHODS = {1: "Shrink", 6: "Implode", 9: "Deflate64", 93: "Zstandard", 95: "XZ", 98: "PPMd", 99: "AES"}
_SPARSE, _ENCRYPTED = -1, -2  # stand for a method where a member cannot be read
_ERRORS = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, ValueError, NotImplementedError,
           struct.error, OSError, OverflowError, MemoryError)  # fmt: skip


class BrokenArchiveError(InputError):
    """An archive that cannot be read, in one sentence."""


def archive_stem(name: str) -> str | None:
    """The name of a zip or tar archive without its suffix; None when a file's name is not one's."""
    if name.endswith(_NONE):
        return None
    match = _SUFFIX.fullmatch(name)
    return match[1] if match else None


def is_foreign_archive(name: str) -> bool:
    """Whether a file's name is that of an archive, or a piece of one, that cannot be read in place."""
    return not name.endswith(_NONE) and _FOREIGN.fullmatch(name) is not None


def how_to_unpack(name: str) -> str:
    """What to do with an archive that cannot be read in place, as a clause."""
    if _PIECE.fullmatch(name):
        return "join the pieces (cat NAME.part* > NAME) or unpack them"
    return "unpack it into a folder of its name"


class _Bytes(Protocol):
    """Bytes with random access."""

    size: int

    def pread(self, offset: int, count: int) -> bytes: ...


class _FileBytes:
    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._descriptor = file, file.fileno()
        self.size = os.fstat(self._descriptor).st_size

    def pread(self, offset: int, count: int) -> bytes:
        return os.pread(self._descriptor, count, offset)


class _Window:
    def __init__(self, of: _Bytes, start: int, size: int) -> None:
        self._of, self._start, self.size = of, start, size

    def pread(self, offset: int, count: int) -> bytes:
        return self._of.pread(self._start + offset, max(0, min(count, self.size - offset)))


class _Stream(io.RawIOBase):
    """Bytes with random access as a file, for zipfile, tarfile and the decompressors."""

    def __init__(self, data: _Bytes) -> None:
        self._data, self._position = data, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._data.size}[whence]
        if base + offset < 0:
            raise OSError("a place before the beginning")
        self._position = base + offset
        return self._position

    def readinto(self, buffer: object) -> int:
        view = memoryview(buffer)  # type: ignore[arg-type]
        some = self._data.pread(self._position, len(view))
        view[: len(some)] = some
        self._position += len(some)
        return len(some)


def _file(data: _Bytes) -> IO[bytes]:
    return io.BufferedReader(_Stream(data), 1 << 16)


class FilePlace(NamedTuple):
    """A file on the disk that is an archive, with its size (bytes) and its time of modification (ns)."""

    path: str
    size: int
    modified: int

    @classmethod
    def at(cls, path: str | Path) -> FilePlace:
        """The place of a file. Raises OSError when it is not there."""
        facts = os.stat(path)  # noqa: PTH116 - a str in a walk
        return cls(str(path), facts.st_size, facts.st_mtime_ns)

    def open(self) -> _Bytes:
        """Its bytes with random access."""
        return _opened.get(self, lambda: _FileBytes(Path(self.path).open("rb", buffering=0)))


class Member(NamedTuple):
    """Where a member of an archive lies. `checksum` is its CRC-32, -1 if the archive has none.

    A negative `method` says why it cannot be read; other methods are those of zip.
    """

    archive: FilePlace | Member | Unpacked
    offset: int
    packed: int
    size: int
    method: int
    checksum: int

    def read_bytes(self) -> bytes:
        """Read it whole and check its CRC.

        Raises:
            OSError: It is damaged, encrypted, too large or compressed in a way that cannot be read.
        """
        if self.size > MAX_MEMBER:
            raise OSError(f"{self.size:,} bytes in an archive, more than {MAX_MEMBER:,}")
        return self.read_head(self.size)

    def read_head(self, count: int) -> bytes:
        """The first bytes, as `read_bytes`; the CRC is checked only when these are all."""
        self._check()
        data = self.archive.open()
        try:
            start = self._start(data)
            if self.checksum < 0:
                found = data.pread(start, min(count, self.size))
            else:
                window = _Window(data, start, self.packed)
                with zipfile.ZipExtFile(_file(window), "r", self._info()) as stream:
                    found = stream.read(count)
        except _ERRORS as error:
            raise OSError(f"damaged in its archive: {one_line(error)}") from error
        if len(found) < min(count, self.size):
            raise OSError("damaged in its archive: it ends too early")
        return found

    def open(self) -> _Bytes:
        """Its bytes with random access: a window when it is stored, a temporary file when it is compressed."""
        self._check()
        if self.method == zipfile.ZIP_STORED:
            data = self.archive.open()
            return _Window(data, self._start(data), self.size)

        def spool() -> _Bytes:
            data = self.archive.open()
            window = _Window(data, self._start(data), self.packed)
            with zipfile.ZipExtFile(_file(window), "r", self._info()) as stream:
                return _spool(stream, self.packed)

        return _spools.get(self, spool)

    def _check(self) -> None:
        if self.method == _ENCRYPTED:
            raise OSError("encrypted; unpack the archive with its password")
        if self.method == _SPARSE:
            raise OSError("a sparse member of a tar; unpack the archive")
        if self.method not in _METHODS:
            name = _NAMES_OF_METHODS.get(self.method, "unknown")
            raise OSError(f"compressed by zip's method {self.method} ({name}), which is not read; unpack the archive")

    def _start(self, data: _Bytes) -> int:
        if self.checksum < 0:  # of a tar
            return self.offset
        head = data.pread(self.offset, 30)
        if len(head) < 30 or head[:4] != b"PK\3\4":
            raise OSError("damaged in its archive: no local header where the directory says")
        return self.offset + 30 + int.from_bytes(head[26:28], "little") + int.from_bytes(head[28:30], "little")

    def _info(self) -> zipfile.ZipInfo:
        info = zipfile.ZipInfo()
        info.compress_type, info.compress_size, info.file_size, info.CRC = (
            self.method,
            self.packed,
            self.size,
            self.checksum,
        )
        return info


class Unpacked(NamedTuple):
    """A compressed tar, decompressed: `codec` is gz, bz2 or xz."""

    of: FilePlace | Member
    codec: str

    def open(self) -> _Bytes:
        """Its bytes with random access, in a temporary file."""

        def spool() -> _Bytes:
            data = self.of.open()
            with _OPENERS[self.codec](_file(data)) as stream:
                return _spool(stream, data.size)

        return _spools.get(self, spool)


Place = FilePlace | Member | Unpacked


def nesting(place: Place) -> int:
    """How many archives an archive at this place is in, itself counted."""
    depth = 1
    while not isinstance(place, FilePlace):
        place, depth = (place.archive, depth + 1) if isinstance(place, Member) else (place.of, depth)
    return depth


def _spool(stream: io.BufferedIOBase, packed: int) -> _Bytes:
    """Decompress into a temporary file.

    Raises:
        BrokenArchiveError: It grows beyond reason, or is damaged.
        InputError: The disk for temporary files is full.
    """
    limit = max(_FREE_BYTES, _MAX_RATIO * packed)
    file = tempfile.TemporaryFile(prefix="eolgul-", buffering=0)  # noqa: SIM115
    written = 0
    while True:
        try:
            some = stream.read(1 << 20)
        except _ERRORS as error:
            raise BrokenArchiveError(f"its compressed data is damaged: {one_line(error)}") from error
        if not some:
            return _FileBytes(file)
        written += len(some)
        if written > limit:
            raise BrokenArchiveError(f"it unpacks to more than {_MAX_RATIO} times its size, which no photos do")
        try:
            file.write(some)
        except OSError as error:
            where = tempfile.gettempdir()
            raise InputError(
                f"{where}: no room to decompress an archive ({error.strerror}); TMPDIR names another place"
            ) from error


class _Cache:
    """The last few opened places of this process. Closed when nothing reads from them any more."""

    def __init__(self, most: int) -> None:
        self._most, self._lock = most, threading.RLock()
        self._open: OrderedDict[Place, _Bytes] = OrderedDict()

    def get(self, place: Place, make: Callable[[], _Bytes]) -> _Bytes:
        with self._lock:
            found = self._open.get(place)
            if found is None:
                found = self._open[place] = make()
                while len(self._open) > self._most:
                    self._open.popitem(last=False)
            else:
                self._open.move_to_end(place)
            return found

    def clear(self) -> None:
        with self._lock:
            self._open.clear()


_opened, _spools = _Cache(8), _Cache(2)


def forget() -> None:
    """Close every archive and remove the temporary files that this process has open."""
    _opened.clear()
    _spools.clear()


@dataclass
class Node:
    """A folder of an archive: the folders and the files in it, by name."""

    folders: dict[str, Node] = field(default_factory=dict)
    files: dict[str, Member] = field(default_factory=dict)

    def put(self, parts: list[str], member: Member) -> bool:
        """Place a member; False when it replaces one of the same path, as unpacking would."""
        here = self
        for part in parts[:-1]:
            here = here.folders.setdefault(part, Node())
        new = parts[-1] not in here.files
        here.files[parts[-1]] = member
        return new

    def paths(self) -> Iterator[str]:
        """The names of all files in it and below."""
        yield from self.files
        for folder in self.folders.values():
            yield from folder.paths()


@dataclass
class Listing:
    """What an archive holds, as a tree.

    Attributes:
        root: Its folders and files.
        replaced: The paths of members that a later one of the same path replaces.
        links: The paths of links that are not followed.
        special: The paths of devices and pipes.
        refused: The paths that lead out of the archive.
        names: The encoding of its names if they are not ASCII.
        broken: What is wrong with its end, if something is.
    """

    root: Node = field(default_factory=Node)
    replaced: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    special: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    names: str | None = None
    broken: str | None = None

    @property
    def is_empty(self) -> bool:
        """Whether it has no member but folders."""
        root = self.root
        return not (root.folders or root.files or self.links or self.special or self.refused or self.broken)

    def put(self, name: str, member: Member) -> None:
        """Place a member by its path."""
        parts = [part for part in name.split("/") if part not in ("", ".")]
        if ".." in parts or not parts:
            self.refused.append(name)
        elif not self.root.put(parts, member):
            self.replaced.append("/".join(parts))


def list_archive(place: FilePlace | Member, name: str) -> Listing:
    """List a zip or tar archive, by the suffix of its name.

    Raises:
        BrokenArchiveError: It cannot be read; the sentence does not name it.
        InputError: The disk for temporary files is full.
    """
    match = _SUFFIX.fullmatch(name)
    assert match is not None
    kind = match[2].lower()
    try:
        if kind == "zip":
            return _list_zip(place)
        codec = {"tgz": "gz", "tbz": "bz2", "tbz2": "bz2", "txz": "xz"}.get(kind, kind.removeprefix("tar").strip("."))
        return _list_tar(Unpacked(place, codec) if codec else place)
    except _ERRORS as error:
        what = _instead(place)
        if what:
            raise BrokenArchiveError(f"is {what}, not a {kind} archive") from error
        raise BrokenArchiveError(f"cannot be read as a {kind} archive: {one_line(error)}") from error


def _instead(place: FilePlace | Member) -> str | None:
    """What is there instead of an archive, if that is known."""
    try:
        data = place.open().pread(0, LOOKED_AT)
    except OSError:
        return None
    what = describe_content(data)
    return None if what and what.startswith(("a zip", "a gzip", "a bzip2", "an xz", "a tar")) else what


def _list_zip(place: FilePlace | Member) -> Listing:
    listing = Listing()
    with zipfile.ZipFile(_file(place.open())) as archive:
        infos = archive.infolist()
    decoded = _decode_names(
        [None if info.flag_bits & 0x800 else info.filename.encode("cp437") for info in infos], listing
    )
    names = [name if name is not None else info.filename for name, info in zip(decoded, infos, strict=True)]
    backslashes = not any("/" in name for name in names)  # what some programs for Windows write
    for info, path in zip(infos, names, strict=True):
        name = path.replace("\\", "/") if backslashes else path
        if name.endswith("/"):
            continue
        method = _ENCRYPTED if info.flag_bits & 1 else info.compress_type
        member = Member(place, info.header_offset, info.compress_size, info.file_size, method, info.CRC)
        mode = info.external_attr >> 16 if info.create_system == 3 else 0
        if modes.S_ISLNK(mode):
            listing.links.append(name)
        else:
            listing.put(name, member)
    return listing


def _list_tar(place: Place) -> Listing:
    listing = Listing()
    data = place.open()
    found: list[tuple[tarfile.TarInfo, str]] = []
    with tarfile.TarFile(fileobj=_file(data)) as archive:
        try:
            found.extend((info, info.name) for info in archive)
        except tarfile.ReadError:  # it ends within a member, which is rejected when it is read
            if not found:
                raise
        end = archive.offset
    if data.pread(end, 512).strip(b"\0"):
        listing.broken = f"is damaged at byte {end}; what lies behind it is lost"
    elif end >= data.size:
        listing.broken = "has no end mark; it may be cut off"
    raw = [name.encode("utf-8", "surrogateescape") for _, name in found]
    names = [name or "" for name in _decode_names(list(raw), listing)]
    places: dict[str, Member] = {}
    links: list[tuple[str, str]] = []
    for (info, plain), name in zip(found, names, strict=True):
        if info.isdir():
            continue
        if info.isreg():
            method = _SPARSE if info.issparse() else zipfile.ZIP_STORED
            places[plain] = Member(place, info.offset_data, info.size, info.size, method, -1)
            listing.put(name, places[plain])
        elif info.islnk():
            links.append((name, info.linkname))
        elif info.issym():
            links.append((name, os.path.normpath(f"{os.path.dirname(plain)}/{info.linkname}").lstrip("/")))  # noqa: PTH120
        else:
            listing.special.append(name)
    for name, target in links:  # to a file of the same archive, as when it is unpacked
        member = places.get(target)
        if member is None:
            listing.links.append(name)
        else:
            listing.put(name, member)
    return listing


def _decode_names(raw: Iterable[bytes | None], listing: Listing) -> list[str | None]:
    """Names that are stated in no encoding: UTF-8 if all are, else CP949 (Korean Windows) if all are, else CP437 (zip's own)."""
    names = list(raw)
    foreign = [name for name in names if name is not None and not name.isascii()]
    encoding = "ascii"
    if foreign:
        encoding = next((one for one in ("utf-8", "cp949") if _decodes(foreign, one)), "cp437")
        listing.names = encoding
    return [None if name is None else name.decode(encoding) for name in names]


def _decodes(names: list[bytes], encoding: str) -> bool:
    try:
        for name in names:
            name.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True

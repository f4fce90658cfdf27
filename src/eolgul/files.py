"""Write a file or a folder whole or not at all, one process at a time, and clear what killed runs left.

What is unfinished has a fixed name beside its place: `.<name>.new` for a file, `.<name>.partial/` for a folder. A lock that
the kernel releases with the process tells what is being written from what a killed run left, which the next run removes
or, for a job that can be resumed, uses.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from eolgul.errors import InputError

_logger = logging.getLogger("eolgul.files")
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}
_FILE, _FOLDER = ".new", ".partial"
_LOCK, _JOB, _NEW, _OLD = "lock", "job", "new", "old"


def sha256_bytes(data: bytes) -> str:
    """The SHA-256 of `data` in hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """The SHA-256 of a file's bytes in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_unfinished(name: str) -> bool:
    """Whether a file's or folder's name is that of something unfinished."""
    return name.startswith(".") and name.endswith((_FILE, _FOLDER))


@contextmanager
def atomic_file(path: Path, *, mode: int = 0o666, durable: bool = False) -> Iterator[Path]:
    """Yield the place of a new, empty file, which replaces `path` in one step when the block ends well.

    Writers of one path wait for each other; readers see the old bytes or the new ones. The parent folder is created.

    Args:
        path: the file to write or replace.
        mode: the permissions of the new file, before the umask.
        durable: have the bytes on the disk before the file gets its name, so that a power cut loses neither.

    Raises:
        OSError: when the file system refuses.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}{_FILE}")
    descriptor = _create_locked(new, mode)
    try:
        yield new
        if durable:
            os.fsync(descriptor)
        new.replace(path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)


def _create_locked(new: Path, mode: int) -> int:
    """Create a file and lock it. One that is there already is waited for, then removed if its writer was killed.

    It is always created anew, never reused: another user could have prepared it with other permissions.
    """
    while True:
        try:
            descriptor = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
            mine = True
        except FileExistsError:
            try:
                descriptor = os.open(new, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
            except FileNotFoundError:  # its writer finished in this moment
                continue
            mine = False
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if _is_at(descriptor, new):
            if mine:
                return descriptor
            new.unlink()
        os.close(descriptor)


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether an open file still has this name: another process may have renamed or removed it."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except FileNotFoundError:
        return False


def write_atomic(path: Path, data: bytes, *, mode: int = 0o666, durable: bool = False) -> None:
    """Replace a file's bytes in one step; see `atomic_file`."""
    with atomic_file(path, mode=mode, durable=durable) as new:
        new.write_bytes(data)


@contextmanager
def work_folder(out: Path, job: str = "") -> Iterator[Path]:
    """Yield the folder for unfinished work on `out`, locked against other processes; it is removed when left empty.

    It contains what a killed run of the same `job` left there, and nothing of any other job.

    Args:
        out: the place that the work is for; its parent folder is created.
        job: a digest of everything that the result depends on; "" for work that cannot be resumed.

    Raises:
        InputError: when another process works on `out`, or no folder can be created there.
    """
    folder = out.parent / f".{out.name}{_FOLDER}"
    try:
        lock = _lock_folder(out, folder)
    except OSError as error:
        raise InputError(f"{out}: no directory can be made there ({error.strerror}: {error.filename})") from error
    try:
        if not os.path.lexists(out) and (folder / _OLD).exists():  # killed between the two steps of `replace_folder`
            (folder / _OLD).rename(out)
        about = folder / _JOB
        if not job or not about.is_file() or about.read_text() != job:
            empty_folder(folder)
            about.write_text(job)
        yield folder
    finally:
        with suppress(OSError):  # it was removed by hand, or another process begins in it
            if {path.name for path in folder.iterdir()} <= {_LOCK, _JOB}:
                (folder / _JOB).unlink(missing_ok=True)
                (folder / _LOCK).unlink()
                folder.rmdir()
        os.close(lock)


def _lock_folder(out: Path, folder: Path) -> int:
    """Create `folder` and hold the lock in it."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except FileNotFoundError:  # its owner removed the folder in this moment
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise InputError(
                f"{out}: another process is writing it at this moment; wait for it, or choose another place"
            ) from None
        if _is_at(lock, folder / _LOCK):
            return lock
        os.close(lock)


def empty_folder(folder: Path) -> None:
    """Remove everything in a work folder except its lock."""
    for path in folder.iterdir():
        if path.name != _LOCK:
            remove(path)


def remove(path: Path) -> None:
    """Remove a file, a link or a folder with all in it; nothing happens when it is not there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def atomic_folder(out: Path) -> Iterator[Path]:
    """Yield an empty folder that replaces `out`, whatever that is, when the block ends well, and goes otherwise.

    Raises:
        InputError: when another process writes `out`, no folder can be created there, or the disk refuses.
    """
    out = out.absolute()
    with work_folder(out) as work:
        try:
            (work / _NEW).mkdir()
            yield work / _NEW
            replace_folder(work, work / _NEW, out)
        except OSError as error:
            refuse_disk(out, error)
            raise
        finally:
            empty_folder(work)


def replace_folder(work: Path, new: Path, out: Path) -> None:
    """Give the folder `new` the name `out`; what had that name goes. `work` is the work folder of `out`.

    The file system cannot exchange two folders in one step, so there is a moment without `out`. `work_folder` undoes the
    first step when a run was killed in that moment.
    """
    warn_replaced(out)
    old = work / _OLD
    if not os.path.lexists(out):
        new.rename(out)
        return
    out.rename(old)
    try:
        new.rename(out)
    except BaseException:
        old.rename(out)
        raise
    remove(old)


def warn_replaced(out: Path) -> None:
    """Log a warning (to stderr unless logging is set up) when something finished at `out` is about to be replaced."""
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        _logger.warning("%s: replaced; what was there was made from other inputs or with other options", out)


def refuse_disk(out: Path, error: OSError) -> None:
    """Turn the error of a full, read-only or failing disk into one sentence; return for any other error.

    Raises:
        InputError: when the disk is the cause.
    """
    if error.errno in _DISK:
        place = f": {error.filename}" if error.filename else ""
        raise InputError(f"{out}: cannot be written ({error.strerror}{place})") from error

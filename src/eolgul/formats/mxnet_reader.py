"""Read records with mxnet in an environment of its own (`make mxnet-env`), as a second implementation beside ours.

mxnet 1.9.1 needs numpy < 1.24, and therefore its own interpreter. A script runs there and sends one frame per record: a
byte (0: a record, 1: a record that mxnet refuses, 2: the end), the key (int64) and the length (uint32) of the payload,
little-endian; then the payload, or mxnet's message.
"""

from __future__ import annotations

import os
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from eolgul.errors import InputError, Reason, Rejection
from eolgul.formats.insightface import RecImage, checked_image
from eolgul.formats.rec_index import index_rec
from eolgul.formats.recordio import unpack_image

_FRAME = struct.Struct("<BqI")
_RECORD, _REFUSED, _END = range(3)

# argv: the .rec, and a file of keys and byte offsets (int64 pairs). Needs mxnet and the standard library only.
_SCRIPT = r"""
import array, os, struct, sys
out = os.fdopen(os.dup(1), "wb", buffering=1 << 20)
os.dup2(2, 1)  # what mxnet prints must not get between the frames
import ctypes
from mxnet.base import _LIB, MXNetError, check_call
from mxnet.recordio import MXRecordIO
pairs = array.array("q")
with open(sys.argv[2], "rb") as listed:
    pairs.frombytes(listed.read())
frame = struct.Struct("<BqI").pack
reader = MXRecordIO(sys.argv[1], "r")
for key, offset in zip(pairs[0::2], pairs[1::2]):
    kind = 0
    try:
        check_call(_LIB.MXRecordIOReaderSeek(reader.handle, ctypes.c_size_t(offset)))
        payload = reader.read()
        if payload is None:
            kind, payload = 1, b"the file ends there"
    except MXNetError as error:
        lines = [line for line in str(error).splitlines() if "Check failed" in line] or ["refused"]
        kind, payload = 1, lines[0].partition("Check failed")[2].strip(" :").encode() or b"refused"
    out.write(frame(kind, key, len(payload)))
    out.write(payload)
out.write(frame(2, len(pairs) // 2, 0))
out.close()
"""


def mxnet_python() -> Path:
    """The interpreter that has mxnet: EOLGUL_MXNET_PYTHON, or `.venv-mxnet` of the checkout; InputError if missing."""
    named = os.environ.get("EOLGUL_MXNET_PYTHON")
    python = Path(named) if named else Path(__file__).resolve().parents[3] / ".venv-mxnet" / "bin" / "python"
    if not os.access(python, os.X_OK) or python.is_dir():
        hint = (
            "EOLGUL_MXNET_PYTHON names it" if named else "`make mxnet-env` builds it, EOLGUL_MXNET_PYTHON names another"
        )
        raise InputError(f"{python}: not a Python with mxnet; {hint}")
    return python


def iter_rec_mxnet(rec: Path, python: Path) -> Iterator[RecImage]:
    """Like `insightface.iter_rec`, with mxnet in the interpreter `python` reading every record."""
    index = index_rec(rec)
    return read_images_mxnet(rec, index.keys, index.offsets, python)


def read_images_mxnet(
    rec: Path, keys: NDArray[np.int64], offsets: NDArray[np.int64], python: Path
) -> Iterator[RecImage]:
    """Like `insightface.read_images`, with mxnet in the interpreter `python` reading every record.

    Raises:
        InputError: That interpreter cannot be started, has no mxnet, or ends before the last record.
    """
    with tempfile.TemporaryFile() as messages, tempfile.NamedTemporaryFile() as listed:
        listed.write(np.column_stack([keys, offsets]).astype("<i8").tobytes())
        listed.flush()
        command = [str(python), "-c", _SCRIPT, str(rec), listed.name]
        try:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=messages)
        except OSError as error:
            raise InputError(f"{python}: mxnet's Python cannot be started ({error.strerror})") from error
        assert process.stdout is not None
        with process:
            try:
                for offset in offsets.tolist():
                    frame = _frame(process.stdout)
                    if frame is None or frame[0] == _END:
                        break
                    yield _image(rec, offset, *frame)
                else:
                    if _frame(process.stdout) == (_END, len(keys), b""):
                        return
                process.kill()  # it has ended, or sends unexpected data
                process.wait()
                raise InputError(f"{python}: mxnet did not read {rec} to its end ({_last_line(messages)})")
            finally:  # the caller may stop early
                process.kill()


def _frame(stream: IO[bytes]) -> tuple[int, int, bytes] | None:
    head = stream.read(_FRAME.size)
    if len(head) < _FRAME.size:
        return None
    kind, key, length = _FRAME.unpack(head)
    payload = stream.read(length)
    return (kind, key, payload) if len(payload) == length else None


def _image(rec: Path, offset: int, kind: int, key: int, payload: bytes) -> RecImage:
    where = f"{rec} at byte {offset}"
    if kind == _REFUSED:
        detail = f"{where}: refused by mxnet: {payload.decode(errors='replace')}"
        return RecImage(key, offset, None, b"", Rejection(Reason.BAD_RECORD, detail))
    try:
        _, labels, _, _, image = unpack_image(payload, where)
    except InputError as error:
        return RecImage(key, offset, None, b"", Rejection(Reason.BAD_RECORD, str(error)))
    return checked_image(rec, key, offset, labels[0], bytes(image))


def _last_line(messages: IO[bytes]) -> str:
    messages.seek(0)
    lines = messages.read().decode(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "no message")

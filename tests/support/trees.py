"""Trees of image files on the disk and in archives, and an independent count of what is in them."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

Tree = Mapping[str, bytes]


def jpeg(seed: int, size: tuple[int, int] = (12, 12)) -> bytes:
    """A small JPEG of its own for each seed."""
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1] // 4 + 1, size[0] // 4 + 1, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize(size).save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


def write(folder: Path, files: Tree) -> Path:
    """Write files by their paths below a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def zipped(files: Tree, method: int = zipfile.ZIP_DEFLATED, encoding: str | None = None) -> bytes:
    """A zip archive; with an encoding, its names are in that, without the flag of UTF-8, as on Korean Windows."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in files.items():
            info = zipfile.ZipInfo(_Raw(name, encoding) if encoding else name)
            info.compress_type = method
            archive.writestr(info, data)
    return buffer.getvalue()


class _Raw(str):
    """A name that zipfile writes in another encoding: it tries ASCII first, and sets the flag only when that fails."""

    def __new__(cls, name: str, encoding: str) -> _Raw:
        made = super().__new__(cls, name)
        made.written = name.encode(encoding)
        return made

    written: bytes

    def encode(self, encoding: str = "utf-8", errors: str = "strict") -> bytes:
        return self.written


def tarred(files: Tree, compression: str = "") -> bytes:
    """A tar archive; `compression` is "", gz, bz2 or xz."""
    buffer = io.BytesIO()
    mode: Any = f"w:{compression}"
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()

"""Write an output whole or not at all, and continue after a kill with the people that are already drawn.

Each finished person has a record in a work folder beside the output. A drawing that was killed continues from these
records when it is called again, and ends with the same bytes as one that was not killed.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import time
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from eolgul.errors import InputError
from eolgul.files import atomic_file, empty_folder, remove, replace_folder, warn_replaced, work_folder, write_atomic
from eolgul.synth.mesh import Reals

# Raised whenever the same seed gives other pixels.
VERSION = 3
TRUTH = "truth.parquet"


@dataclass(frozen=True)
class Shot:
    """One image and the truth about it.

    Attributes:
        name: path below the output, `/` between parts.
        data: the encoded image; empty when it is already in a file.
        truth: (13,) float32: five landmarks x, y in pixels (the image's left eye, right eye, nose, left and right mouth
            corner), then yaw, pitch, roll in degrees of the direction from which the camera sees the head, signed like
            the rig's cameras.
    """

    name: str
    data: bytes
    truth: Reals


class WorkFolder:
    """The work folder of one unfinished output.

    Attributes:
        path: the folder.
        product: the output so far; it gets its final name when everything is drawn.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.product, self._records = path, path / "product", path / "people"
        self._records.mkdir(parents=True, exist_ok=True)

    def has_any(self) -> bool:
        """Whether any person is finished."""
        return self._records.is_dir() and any(self._records.iterdir())

    def has(self, number: int) -> bool:
        """Whether person `number` has a complete record."""
        path = self._path(number)
        return path.is_file() and zipfile.is_zipfile(path)

    def write(self, number: int, shots: Sequence[Shot]) -> None:
        """Write the record of a finished person; it appears when it is complete."""
        with atomic_file(self._path(number)) as new, new.open("wb") as file:
            np.savez(
                file,
                names=np.array([shot.name for shot in shots]),
                truth=np.array([shot.truth for shot in shots], np.float32),
                sizes=np.array([len(shot.data) for shot in shots], np.int64),
                data=np.frombuffer(b"".join(shot.data for shot in shots), np.uint8),
            )

    def read(self, number: int) -> list[Shot]:
        """Read the record of a person."""
        with np.load(self._path(number), allow_pickle=False) as record:
            names, truth, sizes, data = (record[key] for key in ("names", "truth", "sizes", "data"))
        ends = np.cumsum(sizes)
        pieces = [data[end - size : end].tobytes() for end, size in zip(ends, sizes, strict=True)]
        return [Shot(str(name), piece, row) for name, piece, row in zip(names, pieces, truth, strict=True)]

    def _path(self, number: int) -> Path:
        return self._records / f"{number:07d}.npz"


def produce_once(
    out: Path, card: Path, recipe: dict[str, Any], counts: dict[str, int], write: Callable[[WorkFolder], None]
) -> dict[str, Any]:
    """Have `write` make an output and put it at `out`, unless one of the same recipe is there already.

    Args:
        out: the folder or file to make.
        card: where the synthetic mark goes: inside `out`, or beside it.
        recipe: what the output depends on besides this package's code.
        counts: numbers of images and identities for the card.
        write: makes `product` in the work folder, and also `path / TRUTH` there when the output is a file.

    Returns:
        `counts`, `recipe` (digest), `seconds` and `cached` (nothing had to be drawn).

    Raises:
        InputError: `out` holds other data than drawn images, or another process is drawing it.
    """
    began = time.monotonic()
    facts = {"synthetic": True, "generator": "eolgul.synth", "version": VERSION, "recipe": recipe,
             "source": _source_digest(),
             "libraries": {name: importlib.metadata.version(name) for name in ("anny", "embreex")}}  # fmt: skip
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    answer = counts | {"recipe": digest}
    known = _read_card(card)
    if known.get("digest") == digest and out.exists():
        return answer | {"seconds": time.monotonic() - began, "cached": True}
    if out.exists() and not known.get("synthetic") and not (out.is_dir() and not any(out.iterdir())):
        raise InputError(f"{out} exists and was not drawn by `eolgul synth`; choose another place")
    inside = card.is_relative_to(out)
    text = json.dumps(facts | counts | {"digest": digest}, indent=2) + "\n"
    with work_folder(out.absolute(), digest) as path:
        folder = WorkFolder(path)
        try:
            write(folder)
            if inside:
                (folder.product / card.relative_to(out)).write_text(text, encoding="utf-8")
                replace_folder(path, folder.product, out)
            else:
                warn_replaced(out)
                remove(out)
                folder.product.rename(out)
                (path / TRUTH).replace(out.with_name(f"{out.name}.{TRUTH}"))
                write_atomic(card, text.encode())
            empty_folder(path)
        finally:
            if not folder.has_any():
                empty_folder(path)  # no person is finished: there is nothing to continue from
    return answer | {"seconds": time.monotonic() - began, "cached": False}


def write_truth(path: Path, shots: Sequence[tuple[str, Reals]]) -> None:
    """Write rows (name, `Shot.truth`) as Parquet, sorted by name: image, landmarks (10 float32), yaw, pitch, roll."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    shots = sorted(shots, key=lambda shot: shot[0])
    truth = np.array([row for _, row in shots], np.float32).reshape(-1, 13)
    points = pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(truth[:, :10]).ravel()), 10)
    columns = {"image": pa.array([name for name, _ in shots]), "landmarks": points}
    columns |= {
        name: pa.array(np.ascontiguousarray(truth[:, 10 + k])) for k, name in enumerate(("yaw", "pitch", "roll"))
    }
    pq.write_table(pa.table(columns), path, compression="zstd")


def _source_digest() -> str:
    """Digest of this package's code: another renderer may draw other pixels."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _read_card(card: Path) -> dict[str, Any]:
    try:
        facts = json.loads(card.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}

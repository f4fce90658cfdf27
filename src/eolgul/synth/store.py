"""Where drawings are kept: person by person while they are made, whole or not at all under the name that was asked for.

A finished person leaves a record in a work folder beside the output. A drawing that was killed, by whatever, goes on
from there when it is called again, and ends with the same bytes as one that was not.
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

# Another number where the same seed gives other pixels.
VERSION = 3
TRUTH = "truth.parquet"


@dataclass(frozen=True)
class Shot:
    """One picture and the truth about it.

    Attributes:
        name: its path below the output, `/` between parts. data: the encoded image; empty where it lies in a file already.
        truth: (13,) float32: five landmarks x, y in pixels (left eye as seen, right eye, nose, left and right mouth
            corner), then yaw, pitch, roll in degrees: from where the camera sees the head, signed as the rig's cameras.
    """

    name: str
    data: bytes
    truth: Reals


class Work:
    """The work folder of one unfinished output: `product` is what it will be, `write` and `read` keep persons' records."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.product, self._records = folder, folder / "product", folder / "people"
        self._records.mkdir(parents=True, exist_ok=True)

    def has_any(self) -> bool:
        """Whether any person is finished."""
        return self._records.is_dir() and any(self._records.iterdir())

    def has(self, number: int) -> bool:
        """Whether the record of person ``number`` is there and whole."""
        path = self._path(number)
        return path.is_file() and zipfile.is_zipfile(path)

    def write(self, number: int, shots: Sequence[Shot]) -> None:
        """Keeps a finished person; until the last byte is written there is no record of them."""
        with atomic_file(self._path(number)) as new, new.open("wb") as file:
            np.savez(
                file,
                names=np.array([shot.name for shot in shots]),
                truth=np.array([shot.truth for shot in shots], np.float32),
                sizes=np.array([len(shot.data) for shot in shots], np.int64),
                data=np.frombuffer(b"".join(shot.data for shot in shots), np.uint8),
            )

    def read(self, number: int) -> list[Shot]:
        with np.load(self._path(number), allow_pickle=False) as record:
            names, truth, sizes, data = (record[key] for key in ("names", "truth", "sizes", "data"))
        ends = np.cumsum(sizes)
        pieces = [data[end - size : end].tobytes() for end, size in zip(ends, sizes, strict=True)]
        return [Shot(str(name), piece, row) for name, piece, row in zip(names, pieces, truth, strict=True)]

    def _path(self, number: int) -> Path:
        return self._records / f"{number:07d}.npz"


def once(
    out: Path, card: Path, recipe: dict[str, Any], counts: dict[str, int], write: Callable[[Work], None]
) -> dict[str, Any]:
    """Has ``write`` make a product and puts it at ``out``, unless one of the same recipe is there already.

    Args:
        card: where the synthetic mark goes: inside ``out``, or beside it.
        write: makes ``work.product``, and beside products that are files ``work.folder / TRUTH``.

    Raises:
        InputError: ``out`` holds something else than drawings, or another process is drawing it.
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
        raise InputError(f"{out} exists and is not synthetic data of this generator: choose another place")
    inside = card.is_relative_to(out)
    text = json.dumps(facts | counts | {"digest": digest}, indent=2) + "\n"
    with work_folder(out.absolute(), digest) as folder:
        work = Work(folder)
        try:
            write(work)
            if inside:
                (work.product / card.relative_to(out)).write_text(text, encoding="utf-8")
                replace_folder(folder, work.product, out)
            else:
                warn_replaced(out)
                remove(out)
                work.product.rename(out)
                (work.folder / TRUTH).replace(out.with_name(f"{out.name}.{TRUTH}"))
                write_atomic(card, text.encode())
            empty_folder(folder)
        finally:
            if not work.has_any():
                empty_folder(folder)  # no person was finished: there is nothing to go on from
    return answer | {"seconds": time.monotonic() - began, "cached": False}


def write_truth(path: Path, shots: Sequence[tuple[str, Reals]]) -> None:
    """Writes truth rows (name, `Shot.truth`) as Parquet, sorted by name: image, landmarks (10 float32), yaw, pitch, roll."""
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
    """Digest of this package's code: a changed renderer draws other pixels."""
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

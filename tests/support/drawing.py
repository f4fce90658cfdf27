"""Shared by the tests of synth: a small selection, images of a scene, files and truth of an output."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from eolgul.formats.kface import Selection
from eolgul.synth import Scene
from eolgul.synth.render import render
from eolgul.synth.rig import camera, light

SMALL = Selection.parse("resolutions=Low accessories=S001 lights=L1,L16 expressions=E01 cameras=C7,C9")


def picture(scene: Scene, view: str = "C7", lamp: str = "L1") -> np.ndarray:
    return render(scene, camera(view, "Low"), light(lamp), np.random.default_rng(1), noise=0.0).astype(int)


def truth_of(path: Path) -> dict[str, np.ndarray]:
    """Image → its 13 numbers."""
    table = pq.read_table(path)
    assert table.column_names == ["image", "landmarks", "yaw", "pitch", "roll"]
    names = table["image"].to_pylist()
    assert names == sorted(names)
    numbers = np.concatenate([np.array(table["landmarks"].to_pylist(), np.float32),
                              np.stack([table[name].to_numpy() for name in ("yaw", "pitch", "roll")], 1)], 1)  # fmt: skip
    return dict(zip(names, numbers, strict=True))


def files_of(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}

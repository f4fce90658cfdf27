"""Write bcolz carrays as InsightFace_Pytorch does."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import blosc
import numpy as np
from numpy.typing import NDArray


def write_carray(
    folder: Path,
    images: NDArray[np.uint8],
    same: list[bool],
    chunk_length: int = 3,
    *,
    codec: str = "blosclz",
    full: bool = False,
) -> None:
    """What bcolz writes for N x 112 x 112 x 3 RGB; `full`: the last chunk padded, as some of its versions do."""
    values = ((images[..., ::-1].transpose(0, 3, 1, 2).astype(np.float32) - 127.5) / 127.5).astype("<f4")
    (folder / "data").mkdir(parents=True)
    (folder / "meta").mkdir()
    for number, begin in enumerate(range(0, len(values), chunk_length)):
        chunk = np.ascontiguousarray(values[begin : begin + chunk_length])
        if full:
            chunk = np.concatenate([chunk, np.zeros((chunk_length - len(chunk), 3, 112, 112), "<f4")])
        packed = blosc.compress(chunk.tobytes(), typesize=4, clevel=5, shuffle=blosc.SHUFFLE, cname=codec)
        (folder / "data" / f"__{number}.blp").write_bytes(b"blpk\x01\0\0\0" + struct.pack("<q", 1) + packed)
    sizes = {"shape": [len(values), 3, 112, 112], "nbytes": values.nbytes, "cbytes": 0}
    (folder / "meta" / "sizes").write_text(json.dumps(sizes) + "\n")
    storage = {"dtype": "float32", "cparams": {"clevel": 5, "shuffle": 1}, "chunklen": chunk_length, "dflt": 0.0}
    (folder / "meta" / "storage").write_text(json.dumps(storage) + "\n")
    np.save(folder.with_name(f"{folder.name}_list.npy"), np.array(same))

"""What it costs to store aligned faces as PNG or as JPEG: bytes, time to read them, and recognition.

Takes an aligned benchmark (`eolgul align --which center` of LFW, stored as PNG) and a recognizer as an ONNX file. Its faces are stored in
each way, read again and embedded. Printed per way: bytes per face, the faces that one core reads and decodes in a second as training
does (median of five passes over up to 2,000 faces, processor time), the accuracy of the benchmark's pairs, and the cosine similarity of
each face's embedding with that of its PNG (mean and least).

`recorded` is a JPEG of quality 95 with colours at half the size, as MS1M's `train.rec` has them.

Usage: crops.py BENCHMARK RECOGNIZER.onnx [--contract insightface]
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from eolgul.dataset import FaceDataset
from eolgul.evaluate.protocol import accuracy, squared_distance
from eolgul.evaluate.recognizers import open_model
from eolgul.faces.aligned import read_face
from eolgul.images.decode import encode_jpeg, encode_png

_BATCH = 32


def recorded(face: NDArray[np.uint8]) -> bytes:
    """JPEG of quality 95 with colours at half the size."""
    buffer = io.BytesIO()
    Image.fromarray(face).save(buffer, "JPEG", quality=95, subsampling=2)
    return buffer.getvalue()


WAYS: dict[str, Callable[[NDArray[np.uint8]], bytes]] = {"png": encode_png, "jpeg": encode_jpeg, "recorded": recorded}


class _Held(FaceDataset):
    """A dataset whose images are replaced."""

    def __init__(self, path: Path, images: list[bytes], rows: NDArray[np.int64]) -> None:
        super().__init__(path)
        self._images = dict(zip(rows.tolist(), images, strict=True))

    def read(self, row: int) -> bytes:
        return self._images[row]


def rate(dataset: FaceDataset, rows: NDArray[np.int64], passes: int = 5) -> float:
    """Faces per processor second that are decoded as training decodes them."""
    seconds = []
    for _ in range(passes):
        begun = time.process_time()
        for row in rows:
            read_face(dataset, int(row))
        seconds.append(time.process_time() - begun)
    return len(rows) / statistics.median(seconds)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("benchmark", type=Path)
    parser.add_argument("recognizer", type=Path)
    parser.add_argument("--contract", default="insightface")
    given = parser.parse_args()
    cv2.setNumThreads(1)
    dataset = FaceDataset(given.benchmark)
    recognizer = open_model(given.recognizer, given.contract).recognizer(threads=1)
    pairs = dataset.pairs()
    rows = np.unique(np.concatenate([pairs.left, pairs.right]))
    faces = [read_face(dataset, int(row)) for row in rows]
    first = None
    for way, encode in WAYS.items():
        images = [encode(face) for face in faces]
        held = _Held(given.benchmark, images, rows)
        read = [read_face(held, int(row)) for row in rows]
        vectors = np.concatenate(
            [recognizer.embed(np.stack(read[start : start + _BATCH])) for start in range(0, len(read), _BATCH)]
        )
        first = vectors if first is None else first
        left, right = (vectors[np.searchsorted(rows, side)] for side in (pairs.left, pairs.right))
        same = (vectors * first).sum(axis=1)
        line = {
            "stored_as": way,
            "faces": len(rows),
            "bytes": round(sum(map(len, images)) / len(images)),
            "faces_per_cpu_s": round(rate(held, rows[:2000])),
            "accuracy": round(float(accuracy(squared_distance(left, right), pairs.same, pairs.fold)[0].mean), 5),
            "similarity_mean": round(float(same.mean()), 5),
            "similarity_least": round(float(same.min()), 5),
        }
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()

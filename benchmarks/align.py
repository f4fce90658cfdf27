"""Face detection against facenet-pytorch, same pictures, same settings, one run: images/s and their ratio (medians).

Pictures: LFW's from EOLGUL_SHARED or ../shared/data where it is, else drawn people. One thread each.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

os.environ.setdefault("OMP_NUM_THREADS", "1")
import numpy as np
import torch
from facenet_pytorch import MTCNN

from eolgul.align.mtcnn import Detector
from eolgul.align.networks import export_onnx
from eolgul.images import decode
from eolgul.modelpackage import DetectorSettings

COUNT, ROUNDS = 64, 3


def pictures() -> list[np.ndarray]:
    shared = Path(os.environ.get("EOLGUL_SHARED", Path(__file__).resolve().parents[2] / "shared" / "data"))
    files = sorted((shared / "lfw-1-5" / "images").glob("*/*.jpg"))[: COUNT * 50 : 50]
    if files:
        return [decode(file.read_bytes())[0] for file in files]
    from eolgul.synth import contact_sheet

    sheet = np.asarray(contact_sheet(COUNT, columns=8).convert("RGB"))
    height, width = sheet.shape[0] // (COUNT // 8), sheet.shape[1] // 8
    return [
        sheet[y * height : (y + 1) * height, x * width : (x + 1) * width].copy()
        for y in range(COUNT // 8)
        for x in range(8)
    ]


def speed(work: Callable[[], object], count: int) -> float:
    seconds = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return count / statistics.median(seconds)


def main() -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    images = pictures()
    batches = [images[at : at + 16] for at in range(0, len(images), 16)]
    for smallest in (20, 40):
        settings = DetectorSettings(min_face_size=smallest)
        peer = MTCNN(min_face_size=smallest, thresholds=list(settings.thresholds), keep_all=True, device="cpu")
        with TemporaryDirectory() as folder:
            export_onnx(Path(folder))
            ours = Detector.from_onnx(Path(folder), settings)
            theirs = {
                "one by one": speed(lambda: [peer.detect(image, landmarks=True) for image in images], len(images)),  # noqa: B023
                "batches of 16": speed(lambda: [peer.detect(batch, landmarks=True) for batch in batches], len(images)),  # noqa: B023
            }
            mine = speed(lambda: [ours.detect([image]) for image in images], len(images))  # noqa: B023
        row = {
            "min_face_size": smallest,
            "size": f"{images[0].shape[1]}x{images[0].shape[0]}",
            "facenet-pytorch images/s": {name: round(value, 1) for name, value in theirs.items()},
            "eolgul images/s": round(mine, 1),
            "ratio to its best": round(mine / max(theirs.values()), 2),
        }
        print(json.dumps(row))
        sys.stdout.flush()


if __name__ == "__main__":
    main()

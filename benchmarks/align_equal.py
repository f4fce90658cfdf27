"""Compare the cascade with facenet-pytorch on every image of lfw-1-5 and orl, at the same settings.

A face matches if one of the other side overlaps it with an IoU of at least 0.99 and the five landmarks differ by at most
0.5 pixels; faces without a match are listed. facenet-pytorch gets batches of 16. If its result for a batch differs, its
result for the image alone decides: in a batch it sorts scores that tie at 1.0 unstably.
Usage: align_equal.py [least face] [images at most, evenly chosen]
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

os.environ.setdefault("OMP_NUM_THREADS", "1")
import numpy as np
import torch
from facenet_pytorch import MTCNN

from eolgul.faces.mtcnn import Detector, Faces
from eolgul.faces.networks import export_onnx
from eolgul.images.decode import decode
from eolgul.model.package import DetectorSettings

SHARED = Path(os.environ.get("EOLGUL_SHARED", Path(__file__).resolve().parents[2] / "shared" / "data"))
SETS = {"lfw-1-5": "images/*/*.jpg", "orl": "*/*.pgm"}
IOU, PIXELS, BATCH = 0.99, 0.5, 16


def overlaps(one: np.ndarray, others: np.ndarray) -> np.ndarray:
    sides = np.minimum(one[2:], others[:, 2:]) - np.maximum(one[:2], others[:, :2])
    shared = np.maximum(sides, 0).prod(axis=1)
    return shared / ((one[2:] - one[:2]).prod() + (others[:, 2:] - others[:, :2]).prod(axis=1) - shared)


def equal(theirs: Faces, ours: Faces) -> bool:
    """Whether each face of theirs has one of ours, and there are as many."""

    def has(row: int) -> bool:
        best = int(overlaps(theirs.boxes[row], ours.boxes).argmax())
        apart = np.linalg.norm(ours.landmarks[best] - theirs.landmarks[row], axis=1).max()
        return bool(overlaps(theirs.boxes[row], ours.boxes)[best] >= IOU and apart <= PIXELS)

    return len(theirs) == len(ours) and all(has(row) for row in range(len(theirs)))


class Tally:
    """Counts over one set."""

    def __init__(self) -> None:
        self.images = self.with_face = self.theirs = self.ours = self.matched = self.matched_ours = 0
        self.box = self.points = self.score = 0.0
        self.differences: list[str] = []
        self.itself: list[str] = []

    def add(self, name: str, theirs: Faces, ours: Faces, alone: Callable[[], Faces]) -> None:
        if not equal(theirs, ours):
            theirs = alone()
            if equal(theirs, ours):
                self.itself.append(name)
        self.images += 1
        self.with_face += len(ours) > 0
        self.theirs += len(theirs)
        self.ours += len(ours)
        taken = set()
        for box, score, points in zip(theirs.boxes, theirs.scores, theirs.landmarks, strict=True):
            near = overlaps(box, ours.boxes) if len(ours) else np.zeros(1)
            best = int(near.argmax())
            apart = float(np.linalg.norm(ours.landmarks[best] - points, axis=1).max()) if len(ours) else np.inf
            if near[best] >= IOU and apart <= PIXELS and best not in taken:
                taken.add(best)
                self.matched += 1
                self.box = max(self.box, float(np.abs(ours.boxes[best] - box).max()))
                self.points = max(self.points, apart)
                self.score = max(self.score, abs(float(ours.scores[best] - score)))
            else:
                self.differences.append(
                    f"{name}: theirs at {box.round(1)} score {score:.4f}, ours IoU {near[best]:.3f}"
                )
        for row in set(range(len(ours))) - taken:
            self.differences.append(f"{name}: ours alone at {ours.boxes[row].round(1)} score {ours.scores[row]:.4f}")
        self.matched_ours += len(taken)

    def row(self) -> dict[str, object]:
        return {
            "images": self.images,
            "with a face": self.with_face,
            "with a face %": round(100 * self.with_face / self.images, 3),
            "their faces": self.theirs,
            "our faces": self.ours,
            "matched %": round(100 * self.matched / max(1, self.theirs), 4),
            "of ours matched %": round(100 * self.matched_ours / max(1, self.ours), 4),
            "images where its batch differs from itself": len(self.itself),
            "greatest difference": {
                "box px": round(self.box, 5),
                "landmark px": round(self.points, 5),
                "score": round(self.score, 7),
            },
        }


def reference(peer: MTCNN, batch: list[np.ndarray]) -> list[Faces]:
    found = []
    for boxes, scores, points in zip(*peer.detect(batch, landmarks=True), strict=True):
        count = 0 if boxes is None else len(boxes)
        found.append(
            Faces(
                np.array(boxes if count else [], np.float32).reshape(count, 4),
                np.array(scores if count else [], np.float32),
                np.array(points if count else [], np.float32).reshape(count, 5, 2),
            )
        )
    return found


def main() -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    settings = DetectorSettings(min_face_size=int(sys.argv[1]) if len(sys.argv) > 1 else 20)
    most = int(sys.argv[2]) if len(sys.argv) > 2 else 10**9
    peer = MTCNN(min_face_size=settings.min_face_size, thresholds=list(settings.thresholds), keep_all=True)
    with TemporaryDirectory() as folder:
        export_onnx(Path(folder))
        detector = Detector.from_onnx(Path(folder), settings)

    def alone(image: np.ndarray) -> Faces:
        return reference(peer, [image])[0]

    for name, pattern in SETS.items():
        files = sorted((SHARED / name).glob(pattern))
        if not files:
            print(f"{name}: not in {SHARED}, skipped")
            continue
        files = [files[at] for at in np.linspace(0, len(files) - 1, min(most, len(files))).astype(int)]
        tally = Tally()
        for at in range(0, len(files), BATCH):
            some = files[at : at + BATCH]
            images = [decode(file.read_bytes())[0] for file in some]
            same = {image.shape for image in images}
            batches = [images] if len(same) == 1 else [[image] for image in images]
            theirs = [faces for batch in batches for faces in reference(peer, batch)]
            for file, image, one, other in zip(some, images, theirs, detector.detect(images), strict=True):
                place = file.relative_to(SHARED).as_posix()
                tally.add(place, one, other, partial(alone, image))
        print(json.dumps({"set": name, "min_face_size": settings.min_face_size, **tally.row()}))
        for line in (*(f"{place}: its batch differs from itself" for place in tally.itself), *tally.differences):
            print("  " + line)
        sys.stdout.flush()


if __name__ == "__main__":
    main()

"""Measure what `--anchor rig` gains on a drawn K-FACE tree with dark lights and sunglasses.

It gives the number of aligned images with and without it, the mean error of detected and of anchored landmarks relative to
the true distance between the eyes by camera, and how well the O-Net's score separates faces from other places. The truth
is the annotation of the same person and camera. Usage: align_rig.py [K-FACE tree]
"""

from __future__ import annotations

import json
import os
import sys
from collections import defaultdict
from pathlib import Path
from tempfile import TemporaryDirectory

os.environ.setdefault("OMP_NUM_THREADS", "1")
import numpy as np
from numpy.typing import NDArray

from eolgul.align.config import AlignConfig
from eolgul.align.rig_anchors import LIKENESS, likeness
from eolgul.align.step import align
from eolgul.dataset import FaceDataset
from eolgul.extract.config import ExtractConfig
from eolgul.extract.step import extract
from eolgul.faces.mtcnn import Detector
from eolgul.faces.networks import export_onnx
from eolgul.formats import kface
from eolgul.images.decode import decode
from eolgul.model.package import DetectorSettings

PEOPLE = 12
SELECTION = "resolutions=Middle accessories=S001,S004 lights=L1,L6,L7,L19 expressions=E01 cameras=C3-C11"


def truth(tree: Path) -> dict[tuple[str, str], NDArray[np.float32]]:
    """The annotated landmarks (5 x 2) of each person and camera."""
    known = {}
    for note in sorted(tree.rglob("S001/L1/E01/*.txt")):
        identity = note.parts[-5]
        known[identity, note.stem] = kface.read_annotation(note).landmarks
    return known


def without_annotations(tree: Path, to: Path) -> Path:
    """The same tree with links to its pictures only."""
    for picture in tree.rglob("*.jpg"):
        link = to / picture.relative_to(tree)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(picture.absolute())
    return to


def errors(
    dataset: FaceDataset, known: dict[tuple[str, str], NDArray[np.float32]]
) -> dict[tuple[str, str], list[float]]:
    """Mean landmark error over inter-eye distance, by camera and landmark source."""
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    for row in dataset.table(["identity", "camera", "landmarks", "landmark_source"]).to_pylist():
        true = known[row["identity"], row["camera"]]
        points = np.array(row["landmarks"]).reshape(5, 2)
        error = np.linalg.norm(points - true, axis=1).mean() / np.linalg.norm(true[1] - true[0])
        found[row["camera"], row["landmark_source"]].append(float(error))
    return found


def table(dataset: FaceDataset, known: dict[tuple[str, str], NDArray[np.float32]]) -> None:
    found = errors(dataset, known)
    for camera in sorted({key[0] for key in found}, key=lambda name: int(name[1:])):
        cells = []
        for origin in ("detected", "annotated", "anchored"):
            some = found.get((camera, origin), [])
            if some:
                cells.append(f"{origin} {len(some)}: mean {np.mean(some):.3f}, 95 % {np.percentile(some, 95):.3f}")
        print(f"  {camera:4} {'; '.join(cells)}")


def places(source: FaceDataset, known: dict[tuple[str, str], NDArray[np.float32]], detector: Detector) -> None:
    """Likeness where the face is, and moved by 0.7 of its extent in eight directions (a crop that would be useless)."""
    here, elsewhere = [], []
    rows = source.table(["identity", "camera", "light"]).to_pylist()
    for number in range(0, len(rows), 7):
        points = known[rows[number]["identity"], rows[number]["camera"]]
        image, _ = decode(source.read(number))
        here.append(likeness(detector, image, points))
        extent = float(np.ptp(points, axis=0).max())
        for turn in np.arange(8) * np.pi / 4:
            moved = points + 1.4 * extent * np.array([np.cos(turn), np.sin(turn)])
            elsewhere.append(likeness(detector, image, moved))
    print(
        json.dumps(
            {
                "likeness at least": LIKENESS,
                "passes at the face": round(float(np.mean(np.array(here) >= LIKENESS)), 4),
                "passes elsewhere": round(float(np.mean(np.array(elsewhere) >= LIKENESS)), 4),
                "pictures": len(here),
            }
        )
    )


def main() -> None:
    with TemporaryDirectory() as folder:
        work = Path(folder)
        if len(sys.argv) > 1:
            tree = Path(sys.argv[1])
        else:
            from eolgul.synth import draw_kface

            tree = work / "kface"
            draw_kface(tree, people=PEOPLE, selection=SELECTION, images_per_person=None)
        known = truth(tree)
        extract(tree, work / "extracted", ExtractConfig(name="kface"))
        extract(without_annotations(tree, work / "bare"), work / "bare-extracted", ExtractConfig(name="kface"))
        for title, dataset, anchor in (
            ("without anchors", "extracted", "none"),
            ("anchored, annotations known", "extracted", "rig"),
            ("anchored, no annotations", "bare-extracted", "rig"),
        ):
            out = work / f"{dataset}-{anchor}"
            contents = align(work / dataset, out, AlignConfig(anchor=anchor)).contents
            total = contents["images"] + contents["rejected"]
            lost = {"lost %": round(100 * contents["rejected"] / total, 2)}
            print(json.dumps({"run": title, "images": total, "kept": contents["images"], **lost}))
            table(FaceDataset(out), known)
            sys.stdout.flush()
        export_onnx(work / "detector")
        detector = Detector.from_onnx(work / "detector", DetectorSettings())
        places(FaceDataset(work / "extracted"), known, detector)


if __name__ == "__main__":
    main()

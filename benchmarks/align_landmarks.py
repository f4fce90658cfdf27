"""Measure MTCNN's landmarks by camera of K-FACE's rig, on drawn people, whose true landmarks are known.

For each camera: the share of images with a face at the right place, and the mean error of the five points relative to the
true distance between the eyes, both in the same image (short if the head is turned) and in the person's frontal image
(camera C7). Usage: align_landmarks.py [people]
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

from eolgul.faces.choose import choose
from eolgul.faces.mtcnn import Detector
from eolgul.faces.networks import export_onnx
from eolgul.formats import kface
from eolgul.images.decode import decode
from eolgul.model.package import DetectorSettings
from eolgul.synth import draw_kface

PEOPLE = 12
SELECTION = "resolutions=Middle accessories=S001 lights=L1,L3,L6 expressions=E01 cameras=C1-C20"
FRONT = "C7"


def main() -> None:
    people = int(sys.argv[1]) if len(sys.argv) > 1 else PEOPLE
    with TemporaryDirectory() as folder:
        tree = Path(folder) / "kface"
        draw_kface(tree, people=people, selection=SELECTION, images_per_person=None)
        export_onnx(Path(folder) / "detector")
        detector = Detector.from_onnx(Path(folder) / "detector", DetectorSettings(which="annotated"))
        true = {}
        for note in sorted(tree.rglob("S001/L1/E01/*.txt")):
            true[note.parts[-5], note.stem] = kface.read_annotation(note).landmarks
        errors: dict[str, list[tuple[float, float, float]]] = defaultdict(list)
        pictures: dict[str, int] = defaultdict(int)
        for picture in sorted(tree.rglob("*.jpg")):
            identity, camera = picture.parts[-5], picture.stem
            points = true[identity, camera]
            image, _ = decode(picture.read_bytes())
            (faces,) = detector.detect([image])
            best = choose(faces, "annotated", (image.shape[1], image.shape[0]), points)
            pictures[camera] += 1
            if best is not None:
                apart = float(np.linalg.norm(faces.landmarks[best] - points, axis=1).mean())
                here, front = (float(np.linalg.norm(eyes[1] - eyes[0])) for eyes in (points, true[identity, FRONT]))
                errors[camera].append((apart, apart / here, apart / front))
    for camera in sorted(pictures, key=lambda name: int(name[1:])):
        row = {"camera": camera, "pictures": pictures[camera]}
        row["found %"] = round(100 * len(errors[camera]) / pictures[camera], 1)
        if errors[camera]:
            pixels, here, front = np.array(errors[camera]).T
            row |= {
                "error px": round(float(pixels.mean()), 2),
                "over eyes": round(float(here.mean()), 3),
                "95 %": round(float(np.percentile(here, 95)), 3),
                "over frontal eyes": round(float(front.mean()), 3),
            }
        print(json.dumps(row))
    print(json.dumps({"people": people, "selection": SELECTION}))


if __name__ == "__main__":
    main()

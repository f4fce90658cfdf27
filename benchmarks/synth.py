"""Measure the drawn people: `python benchmarks/synth.py [speed | sheets | detection | separability]`.

`speed` is the default. `sheets` writes the contact sheets of docs/. `separability` needs a recognizer as ONNX, which is not
part of this project.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

os.environ.setdefault("OMP_NUM_THREADS", "1")
import cv2
import numpy as np
from PIL import Image

from eolgul.faces.template import TEMPLATE, similarity_transform
from eolgul.formats.kface import ACCESSORIES, CAMERAS, LIGHTS, Selection
from eolgul.synth import Sitter, balanced, camera, contact_sheet, light, people
from eolgul.synth.person import generator
from eolgul.synth.render import jpeg, render

LIMIT = 0.15  # seconds of one core per anti-aliased image of 346×230


def seconds(work: Callable[[], object]) -> float:
    """CPU seconds of this process, which other processes do not change."""
    started = time.process_time()
    work()
    return time.process_time() - started


def speed(count: int) -> None:
    """Print the median seconds per image by size, and separately those per person and per expression."""
    Sitter(next(people(0, 99, 1))).scene()  # reads the mesh and its targets once per process
    sitters: list[Sitter] = []
    once = [seconds(lambda: sitters.append(Sitter(person))) for person in people(0, 0, count)]  # noqa: B023
    scenes = []
    posed = [seconds(lambda: scenes.append(sitter.scene("E02", "S002"))) for sitter in sitters]  # noqa: B023
    facts = {"s per person": round(statistics.median(once), 3), "s per expression": round(statistics.median(posed), 3)}
    print(json.dumps(facts), flush=True)
    for size, limit in (("Low", None), ("Middle", LIMIT), ("High", None)):
        taken = []
        for scene in scenes:
            for view in ("C7", "C4", "C12", "C15"):
                for lamp in ("L1", "L6", "L19"):
                    eye, bulb = camera(view, size), light(lamp)
                    taken.append(seconds(lambda: jpeg(render(scene, eye, bulb, np.random.default_rng(0)))))  # noqa: B023
        middle = statistics.median(taken)
        row: dict[str, object] = {
            "size": f"{eye.width}x{eye.height}",
            "images": len(taken),
            "s per image": round(middle, 4),
        }
        print(
            json.dumps(row | ({"limit": limit, "share of the limit": round(middle / limit, 2)} if limit else {})),
            flush=True,
        )


def sheets(folder: Path) -> None:
    """Write contact sheets of people, cameras, lights and accessories, small enough for a page."""
    folder.mkdir(parents=True, exist_ok=True)
    front = ("S001", "L1", "E01", "C7")
    views = [("S001", "L1", "E01", name) for name in CAMERAS]
    lamps = [("S001", name, "E01", "C7") for name in LIGHTS]
    props = [
        (name, "L1", expression, view) for name in ACCESSORIES for expression, view in (("E01", "C7"), ("E02", "C9"))
    ]
    for name, count, first, columns, shots in (
        ("people", 40, 0, 10, [front]),
        ("synth-cameras", 2, 15, 10, views),
        ("synth-lights", 1, 9, 10, lamps),
        ("synth-accessories", 4, 4, 12, props),
    ):
        sheet = contact_sheet(count, first=first, columns=columns, conditions=shots)
        # 256 colours are enough for one light, not for thirty.
        dark = name == "synth-lights"
        width = columns * (120 if dark else 156)
        sheet = sheet.resize((width, sheet.height * width // sheet.width), Image.Resampling.LANCZOS)
        reduced = sheet if dark else sheet.quantize(256, kmeans=3, dither=Image.Dither.NONE)
        reduced.save(folder / f"{name}.png", optimize=True)


def detection(count: int) -> None:
    """Print the share of images in which MTCNN, as `eolgul align` runs it, finds the face: by camera, light and accessory."""
    from eolgul.faces.mtcnn import Detector
    from eolgul.faces.networks import export_onnx
    from eolgul.model.package import DetectorSettings

    found: dict[str, dict[str, list[bool]]] = {kind: defaultdict(list) for kind in ("camera", "light", "accessory")}
    errors: dict[str, list[float]] = defaultdict(list)
    with TemporaryDirectory() as folder:
        export_onnx(Path(folder))
        detector = Detector.from_onnx(Path(folder), DetectorSettings())
        for person in people(0, 0, count):
            sitter = Sitter(person)
            front = sitter.scene()
            shots = [("camera", name, "S001", "L1", name) for name in CAMERAS]
            shots += [("light", name, "S001", name, "C7") for name in LIGHTS]
            shots += [("accessory", name, name, "L1", view) for name in ACCESSORIES for view in ("C5", "C7", "C9")]
            for kind, name, accessory, lamp, view in shots:
                scene = front if accessory == "S001" else sitter.scene("E01", accessory)
                eye = camera(view, "Middle")
                data = jpeg(render(scene, eye, light(lamp), generator(0, person.index, 77)))
                truth = scene.five(eye)
                size = np.ptp(truth[:, 1]) + 1e-6
                (faces,) = detector.detect([np.asarray(Image.open(io.BytesIO(data)))])
                off = np.linalg.norm(faces.landmarks - truth, axis=2).mean(1) / size if len(faces) else np.array([9.0])
                found[kind][name].append(bool(off.min() < 0.4))
                if kind == "camera" and off.min() < 0.4:
                    errors[name].append(float(off.min()))
    for kind, rows in found.items():
        shares = {name: round(float(np.mean(seen)), 2) for name, seen in rows.items()}
        print(json.dumps({"found by": kind, "people": count} | shares), flush=True)
    off_by = {name: round(float(np.mean(values)), 3) for name, values in errors.items()}
    print(json.dumps({"landmarks off, share of eyes to mouth": off_by}), flush=True)


def separability(model: Path, count: int, images: int) -> None:
    """Print how well a recognizer (112×112 RGB, (x - 127.5) / 127.5) separates people, `original` selection."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model, options)
    conditions = balanced(list(Selection.parse("original").conditions()), images)
    embeddings, owners = [], []
    for person in people(0, 0, count):
        sitter, scenes = Sitter(person), {}
        for number, c in enumerate(conditions):
            key = (c.expression, c.accessory)
            if key not in scenes:
                scenes[key] = sitter.scene(*key)
            eye = camera(c.camera, c.resolution)
            data = jpeg(render(scenes[key], eye, light(c.light), generator(0, person.index, 78, number)))
            picture = np.asarray(Image.open(io.BytesIO(data)))
            face = cv2.warpAffine(picture, similarity_transform(scenes[key].five(eye), TEMPLATE), (112, 112))
            both = (np.stack([face, face[:, ::-1]]).astype(np.float32).transpose(0, 3, 1, 2) - 127.5) / 127.5
            parts = [session.run(None, {session.get_inputs()[0].name: one[None]})[0] for one in both]
            embedding = np.concatenate(parts).sum(0)
            embeddings.append(embedding / np.linalg.norm(embedding))
            owners.append(person.index)
    similar, who = np.array(embeddings) @ np.array(embeddings).T, np.array(owners)
    pairs = np.triu_indices(len(who), 1)
    same = who[pairs[0]] == who[pairs[1]]
    genuine, impostor = similar[pairs][same], similar[pairs][~same]
    ranks = np.argsort(np.argsort(np.concatenate([genuine, impostor])))[: len(genuine)]
    area = (ranks.sum() - len(genuine) * (len(genuine) - 1) / 2) / (len(genuine) * len(impostor))
    facts = {
        "people": count, "images per person": len(conditions), "AUC": round(float(area), 4),
        "TAR@FMR 1%": round(float((genuine > np.quantile(impostor, 0.99)).mean()), 3),
        "TAR@FMR 0.1%": round(float((genuine > np.quantile(impostor, 0.999)).mean()), 3),
        "mean impostor similarity": round(float(impostor.mean()), 3), "mean genuine similarity": round(float(genuine.mean()), 3),
    }  # fmt: skip
    print(json.dumps(facts), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="?", default="speed", choices=("speed", "sheets", "detection", "separability"))
    parser.add_argument("--people", type=int, default=12)
    parser.add_argument("--images", type=int, default=24)
    parser.add_argument("--model", type=Path, help="separability: the recognizer")
    parser.add_argument("--out", type=Path, default=Path("docs"), help="sheets: where they go")
    chosen = parser.parse_args()
    if chosen.what == "speed":
        speed(chosen.people)
    elif chosen.what == "sheets":
        sheets(chosen.out)
    elif chosen.what == "detection":
        detection(chosen.people)
    elif chosen.model is None:
        parser.error("separability needs --model")
    else:
        separability(chosen.model, chosen.people, chosen.images)


if __name__ == "__main__":
    main()

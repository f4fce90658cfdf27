"""Measure what `eolgul audit` finds: copies and people that are planted in training data, and how long the search takes.

Usage:
    audit.py plants ALIGNED OUT [--model PACKAGE | --onnx FILE | --dlib DAT] [--seed 0]
    audit.py search [EMBEDDINGS]

`plants` takes an aligned FaceDataset with named people (LFW). Half of the people become the benchmark, the others training
data. Planted in training, under names that are numbers: copies of 200 benchmark images (re-encoded, resized, cropped by 6
to 12 pixels on each side, mirrored, brightened), each under a name of its own, and 50 people of the benchmark with half of
their images, which the benchmark then lacks. Recall and precision are printed for each kind.
`search` times the exact search of 12,000 faces among drawn embeddings (500,000 x 512) and extrapolates to 5.87 million.
`--dlib`: dlib_face_recognition_resnet_model_v1.dat (CC0, in face_recognition_models on PyPI), with dlib installed; it
stands in for a public recognizer where no ONNX file is at hand.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from eolgul.artifact import open_artifact
from eolgul.audit.config import AuditConfig
from eolgul.audit.nearest import BLOCK, nearest, set_threads
from eolgul.audit.schema import AuditResult
from eolgul.audit.step import audit
from eolgul.dataset import FaceDataset, build_dataset
from eolgul.evaluate.recognizers import ModelUnderTest, open_model
from eolgul.model.package import EmbeddingContract

KINDS = ("re-encoded", "resized", "cropped", "mirrored", "brightened")
COPIES, PEOPLE = 200, 50


def copy_of(data: bytes, how: str, random: np.random.Generator) -> bytes:
    """A copy of an aligned face, changed as it may be elsewhere, as JPEG."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    if how == "resized":
        side = int(random.integers(64, 100))
        image = image.resize((side, side), Image.Resampling.BICUBIC).resize((112, 112), Image.Resampling.BICUBIC)
    elif how == "cropped":
        cut = int(random.integers(6, 13))
        image = image.crop((cut, cut, 112 - cut, 112 - cut)).resize((112, 112), Image.Resampling.BICUBIC)
    elif how == "mirrored":
        image = ImageOps.mirror(image)
    elif how == "brightened":
        image = ImageEnhance.Brightness(image).enhance(float(random.uniform(1.15, 1.4)))
    out = io.BytesIO()
    image.save(out, "JPEG", quality=int(random.integers(60, 90)))
    return out.getvalue()


def write(out: Path, name: str, images: list[tuple[str, str, bytes]]) -> Path:
    """An aligned FaceDataset of (identity, image id, encoded image)."""
    shutil.rmtree(out, ignore_errors=True)
    with build_dataset(out, {"benchmark": str(out)}) as build:
        with build.shard(0, "") as shard:
            for identity, image_id, data in images:
                extension = "png" if data[:4] == b"\x89PNG" else "jpg"
                shard.add(image_id, identity, data, extension=extension, size=(112, 112), source=name)
        build.finish(range(1))
        build.seal(step="align", version=1, recipe={}, inputs=[], synthetic=False,
                   facts={"name": name, "identities_known": True, "aligned": "arcface-112-v1"})  # fmt: skip
    return out


def plant(aligned: Path, out: Path, seed: int) -> tuple[Path, Path, dict[str, tuple[str, str]]]:
    """Write both sides; returns them and, for each planted identity, the kind and the benchmark's person."""
    data, random = FaceDataset(aligned), np.random.default_rng(seed)
    rows = defaultdict(list)
    for row, identity in enumerate(data.column("identity")):
        rows[identity].append(row)
    names = sorted(rows)
    several = [name for name in names if len(rows[name]) >= 4]
    moved = set(random.permutation(several)[:PEOPLE].tolist())
    others = [name for name in random.permutation(names).tolist() if name not in moved]
    compared = {*moved, *others[: len(others) // 2]}
    benchmark: list[tuple[str, str, bytes]] = []
    training: list[tuple[str, str, bytes]] = []
    planted: dict[str, tuple[str, str]] = {}
    for name in names:
        own = rows[name]
        kept = own if name not in moved else own[: len(own) // 2]
        side = benchmark if name in compared else training
        side += [(name, f"{name}/{row}", data.read(row)) for row in kept]
        if name in moved:
            number = str(900_000 + len(planted))
            planted[number] = ("person", name)
            training += [(number, f"{number}/{row}", data.read(row)) for row in own[len(own) // 2 :]]
    for place in random.choice(len(benchmark), COPIES, replace=False):
        name, _, image = benchmark[place]
        how, number = KINDS[len(planted) % len(KINDS)], str(900_000 + len(planted))
        planted[number] = (how, name)
        training.append((number, f"{number}/0", copy_of(image, how, random)))
    return write(out / "training", "training", training), write(out / "benchmark", "benchmark", benchmark), planted


class _Dlib:
    """dlib's residual network on aligned faces, as the audit's recognizer: 128 numbers, mirror image not added."""

    contract = EmbeddingContract(flip="none")

    def __init__(self, file: Path) -> None:
        import dlib  # type: ignore[import-not-found]

        self._network = dlib.face_recognition_model_v1(str(file))

    def embed(self, faces: np.ndarray) -> np.ndarray:
        """uint8 N x 112 x 112 x 3 → float32 N x 128 of length 1."""
        import cv2

        # From the eyes of this alignment to those of dlib's chip of 150 pixels with a padding of a quarter.
        scale = (100.3 - 47.7) / (73.5 - 38.3)
        matrix = np.asarray([[scale, 0, 47.7 - 38.3 * scale], [0, scale, 47.1 - 51.6 * scale]], dtype=np.float32)
        chips = [cv2.warpAffine(face, matrix, (150, 150), borderMode=cv2.BORDER_REPLICATE) for face in faces]
        vectors = np.asarray(self._network.compute_face_descriptor(np.stack(chips)), dtype=np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


class DlibModel(ModelUnderTest):
    """dlib's network in the place of an ONNX file."""

    def recognizer(self, *, threads: int, device: str = "cpu") -> Any:
        """The network; it has one thread."""
        return _Dlib(self.onnx)


def measure(options: argparse.Namespace) -> None:
    """Plant, audit, and count."""
    out: Path = options.out
    training, benchmark, planted = plant(options.aligned, out, options.seed)
    model: Any = None
    if options.dlib:
        model = DlibModel(
            str(options.dlib.stat().st_size), "dlib", "OnnxRecognizer", False, options.dlib, _Dlib.contract
        )
    elif options.model or options.onnx:
        model = open_model(options.model or options.onnx, "insightface" if options.onnx else None)
    config = AuditConfig(threads=1, fmr=options.fmr, similarity=options.similarity, cache=str(out / "embeddings"))
    shutil.rmtree(out / "audit", ignore_errors=True)
    started = time.monotonic()
    made = audit([training], [benchmark], out / "audit", config, model=model, progress=print)
    found = AuditResult.model_validate_json((made.path / "audit.json").read_bytes())
    truth = {f"training.{number}": (how, f"benchmark.{name}") for number, (how, name) in planted.items()}
    right, wrong = Counter[str](), []
    for identity, (how, name) in truth.items():
        right[how] += any(item.train_identity == identity and item.against_identity == name for item in found.people)
    for item in found.people:
        if truth.get(item.train_identity, ("", ""))[1] != item.against_identity:
            wrong.append(item)
    total = Counter(how for how, _ in planted.values())
    sides = {"training": training, "benchmark": benchmark}
    print(json.dumps({name: open_artifact(place).contents["images"] for name, place in sides.items()}))
    print(f"threshold {found.threshold}")
    for how in (*KINDS, "person"):
        print(f"{how:11} found {right[how]:4} of {total[how]:4}  recall {right[how] / total[how]:.3f}")
    copies = sum(right[how] for how in KINDS)
    print(f"copies recall {copies / COPIES:.3f}; people recall {right['person'] / total['person']:.3f}; precision "
          f"{1 - len(wrong) / max(1, len(found.people)):.3f} of {len(found.people)} findings; "
          f"{time.monotonic() - started:.0f} s")  # fmt: skip
    for item in wrong[:20]:
        print(f"  not planted: {item.against_identity} in {item.train_identity} {item.kinds} {item.similarity}")


def search(count: int) -> None:
    """Time the search of the nearest images on one core."""
    set_threads(1)
    random = np.random.default_rng(0)
    queries = random.normal(size=(12_000, 512)).astype(np.float32)
    started, block = 0.0, random.normal(size=(BLOCK, 512)).astype(np.float32)

    def blocks() -> Any:
        for begin in range(0, count, BLOCK):
            yield begin, block[: min(BLOCK, count - begin)]

    started = time.process_time()
    nearest(queries, blocks())
    took = time.process_time() - started
    print(
        f"12,000 faces among {count:,} embeddings of 512: {took:.0f} s of one core; 5.87 million: {took * 5.87e6 / count / 60:.0f} min"
    )


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    plants = commands.add_parser("plants")
    plants.add_argument("aligned", type=Path)
    plants.add_argument("out", type=Path)
    for name in ("model", "onnx", "dlib"):
        plants.add_argument(f"--{name}", type=Path)
    plants.add_argument("--fmr", type=float, default=1e-6)
    plants.add_argument("--similarity", type=float)
    plants.add_argument("--seed", type=int, default=0)
    plants.set_defaults(run=measure)
    speed = commands.add_parser("search")
    speed.add_argument("embeddings", type=int, nargs="?", default=500_000)
    speed.set_defaults(run=lambda options: search(options.embeddings))
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()

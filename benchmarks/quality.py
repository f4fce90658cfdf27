"""Measure how many degraded strangers the service takes for one person, with and without the region of picture quality.

The calibration people of an aligned dataset (LFW) give threshold and region, as `eolgul evaluate` finds them; its test people
are shown: the first photo of 40 of them, every photo degraded in one way (the photo, not the crop), and all 780 pairs of
strangers judged by the service's own code (`eolgul.serving.inference.model`), on ordinary JPEG bytes. `shown` says how many
are said to be one person without the region (before) and with it, and how many pairs are undecided for quality. Two photos
as they are of other test people give the cost: genuine pairs that become undecided for quality. Some degradations are none
of the calibration's: shaken at 45 degrees, fog, blur with noise over it.

Usage:
    quality.py calibrate ALIGNED WORK --onnx FILE [--contract insightface] [--images 120] [--fmr 1e-4]
    quality.py shown WORK PHOTOS [--people 40] [--genuine 200]

PHOTOS holds a folder of photos per person, with the names of the dataset. `calibrate` keeps every embedding in WORK, so that
it goes on where it was stopped. Tables are Markdown.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
import cv2
import numpy as np
from numpy.typing import NDArray

from eolgul.artifact import canonical_json, seal, writing
from eolgul.assemble.config import AssembleConfig
from eolgul.assemble.step import assemble
from eolgul.dataset import FaceDataset
from eolgul.errors import InputError
from eolgul.evaluate.calibrate import calibrate
from eolgul.evaluate.embed import embed_rows
from eolgul.evaluate.pairs import score_all_pairs
from eolgul.evaluate.quality import measure_region, sample
from eolgul.images.decode import decode
from eolgul.model.package import ModelPackage
from eolgul.model.recognizer import Recognizer
from eolgul.serving.inference.model import Analysis, ServedModel
from eolgul.serving.settings import Settings
from eolgul.train.import_onnx import import_onnx

Photo = NDArray[np.uint8]


class Remembering(Recognizer):
    """A recognizer that keeps what it embedded in a folder, by the faces' bytes."""

    folder: Path

    def embed_with_norms(self, faces: Photo) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        file = self.folder / f"{hashlib.sha256(faces.tobytes()).hexdigest()[:32]}.npz"
        if file.is_file():
            with np.load(file) as kept:
                return kept["embeddings"], kept["norms"]
        embeddings, norms = super().embed_with_norms(faces)
        np.savez(file.with_suffix(".part.npz"), embeddings=embeddings, norms=norms)
        file.with_suffix(".part.npz").rename(file)
        return embeddings, norms


def calibrated(aligned: Path, work: Path, onnx: Path, contract: str, images: int, fmr: float) -> None:
    """Write WORK/before and WORK/after: the model with its calibration, without and with the region."""
    people = work / "people"
    assemble([aligned], people, AssembleConfig(validation=0.0, calibration=0.12, test=0.12))
    dataset = FaceDataset(people)
    import_onnx(onnx, work / "imported", contract=contract, which="center")  # as in LFW: others stand at the edges
    package = ModelPackage.open(work / "imported")
    recognizer = Remembering.from_package(package)
    recognizer.folder = work / "embedded"
    recognizer.folder.mkdir(exist_ok=True)
    labels = dataset.numpy("label")
    rows = dataset.rows("calibration")
    rows = sample(rows, labels[rows], 2 * len(set(labels[rows])), 0)  # two photos of each are enough for a threshold
    found = calibrate(score_all_pairs(embed_rows(dataset, rows, recognizer, progress=print), labels[rows]), fmr)
    print(
        f"threshold {found.threshold:.4f} for a false match rate of {found.fmr_target:.2e}, interval {found.threshold_interval}"
    )
    region = measure_region(
        dataset, rows, recognizer, found, images=images, progress=lambda said: print(said, flush=True)
    )
    print(json.dumps(None if region is None else region.to_json()))
    for name, calibration in (("before", found), ("after", replace(found, region=region))):
        shutil.rmtree(work / name, ignore_errors=True)
        with writing(work / name) as folder:
            shutil.copytree(package.path, folder, dirs_exist_ok=True)
            (folder / "manifest.json").unlink()
            (folder / "calibration.json").write_bytes(canonical_json(calibration.to_json()))
            seal(
                folder, "ModelPackage", step="benchmark", version=1, recipe={}, inputs=[], contents={}, synthetic=False
            )


def blurred(sigma: float) -> Callable[[Photo], Photo]:
    return lambda photo: np.asarray(cv2.GaussianBlur(photo, (0, 0), sigma), np.uint8)


def shaken(length: int, slanted: bool = False) -> Callable[[Photo], Photo]:
    kernel = np.eye(length, dtype=np.float32) if slanted else np.ones((1, length), np.float32)
    return lambda photo: np.asarray(cv2.filter2D(photo, -1, kernel / kernel.sum()), np.uint8)


def shrunk(factor: float) -> Callable[[Photo], Photo]:
    def apply(photo: Photo) -> Photo:
        height, width = photo.shape[:2]
        small = cv2.resize(photo, (round(width * factor), round(height * factor)), interpolation=cv2.INTER_AREA)
        return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)

    return apply


def scaled(factor: float) -> Callable[[Photo], Photo]:
    return lambda photo: np.clip(np.rint(photo.astype(np.float32) * factor), 0, 255).astype(np.uint8)


def foggy(contrast: float) -> Callable[[Photo], Photo]:
    return lambda photo: np.rint(200 + (photo.astype(np.float32) - 200) * contrast).astype(np.uint8)


def noisy(deviation: float) -> Callable[[Photo], Photo]:
    random = np.random.default_rng(0)
    return lambda photo: np.clip(np.rint(photo + random.normal(0, deviation, photo.shape)), 0, 255).astype(np.uint8)


def recoded(quality: int) -> Callable[[Photo], Photo]:
    return lambda photo: decode(encoded(photo, quality))[0]


def both(*steps: Callable[[Photo], Photo]) -> Callable[[Photo], Photo]:
    def apply(photo: Photo) -> Photo:
        for step in steps:
            photo = step(photo)
        return photo

    return apply


WAYS: dict[str, Callable[[Photo], Photo]] = {
    "as it is": lambda photo: photo,
    **{f"blur, sigma {sigma}": blurred(sigma) for sigma in (1.5, 3, 5, 7)},
    **{f"shaken by {length} px": shaken(length) for length in (7, 13, 25)},
    **{f"shaken by {length} px at 45°": shaken(length, True) for length in (9, 17)},
    **{f"shrunk to {factor:.0%} and enlarged": shrunk(factor) for factor in (0.4, 0.25, 0.15, 0.1)},
    **{f"light × {factor}": scaled(factor) for factor in (0.3, 0.1, 0.05, 0.02, 2, 3, 6)},
    **{f"noise, deviation {deviation}": noisy(deviation) for deviation in (15, 30, 60, 100)},
    **{f"JPEG quality {quality}": recoded(quality) for quality in (30, 15, 8, 3)},
    **{f"fog, contrast × {contrast}": foggy(contrast) for contrast in (0.3, 0.1)},
    "blur 5, then noise 15": both(blurred(5), noisy(15)),
    "blur 3, then JPEG 15": both(blurred(3), recoded(15)),
}
CUTS = {
    f"cut at the {edge}, {share:.0%} of the box": (edge, share)
    for edge in ("side", "bottom", "top")
    for share in (0.1, 0.25, 0.4)
}
HEAD = ("the photos", "faces found", "strangers ≥ threshold", "said `same` before", "now", "undecided for quality")


def encoded(photo: Photo, quality: int = 92) -> bytes:
    return bytes(cv2.imencode(".jpg", photo[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1])


def cropped(photo: Photo, box: tuple[float, float, float, float], edge: str, share: float) -> Photo:
    """The photo without what lies beyond a share of the face's box."""
    height, width = photo.shape[:2]
    x1, y1, x2, y2 = box
    left = round(max(0, x1 + share * (x2 - x1))) if edge == "side" else 0
    top = round(max(0, y1 + share * (y2 - y1))) if edge == "top" else 0
    bottom = round(min(height, y2 - share * (y2 - y1))) if edge == "bottom" else height
    return np.ascontiguousarray(photo[top:bottom, left:width])


def analyses(model: ServedModel, images: list[bytes]) -> list[Analysis]:
    """Of the images in which a face is found."""
    results = [
        result for start in range(0, len(images), 8) for result, _ in model.analyse_many(images[start : start + 8])
    ]
    return [result for result in results if not isinstance(result, InputError)]


def shown(work: Path, photos: Path, people: int, genuine: int) -> None:
    """Print the tables."""
    model = ServedModel(ModelPackage.open(work / "after"), Settings(model=work / "after"))
    calibration = model.calibration
    assert calibration.region is not None
    dataset = FaceDataset(work / "people")
    names, codes = dataset.codes("identity")
    test = sorted({names[code].partition(".")[2] for code in codes[dataset.rows("test")]})  # without the source's name
    random = np.random.default_rng(3)
    chosen = [str(name) for name in random.permutation(test)]
    strangers = [decode(sorted((photos / name).iterdir())[0].read_bytes())[0] for name in chosen[:people]]
    print(f"threshold {calibration.threshold:.4f}, stated rate {calibration.fmr_target:.2e}; limits:")
    print(json.dumps({name: list(ends) for name, ends in calibration.region.limits.items()}))
    print("| " + " | ".join(HEAD) + " |\n" + "|---" * len(HEAD) + "|")
    as_is = [model.analyse(encoded(photo))[0] for photo in strangers]
    for name, images in degraded_photos(strangers, as_is):
        found = analyses(model, images)
        pairs = list(combinations(found, 2))
        before = [model.compare(left.embedding, right.embedding) for left, right in pairs]
        now = [model.verify(left, right) for left, right in pairs]
        row = (
            name, f"{len(found)} of {len(images)}", sum(one.same_at_threshold for one in before),
            sum(one.word == "same" for one in before), sum(one.word == "same" for one in now),
            f"{sum(bool(one.reasons) for one in now)} of {len(pairs)}",
        )  # fmt: skip
        print("| " + " | ".join(map(str, row)) + " |", flush=True)
    lost = compared = 0
    reasons: dict[str, int] = {}
    for name in [one for one in chosen if len(list((photos / one).iterdir())) > 1][:genuine]:
        found = analyses(model, [file.read_bytes() for file in sorted((photos / name).iterdir())[:2]])
        if len(found) == 2:
            compared += 1
            of_pair = {reason for one in found for reason in one.face.reasons}
            lost += bool(of_pair)
            for reason in of_pair:
                reasons[reason] = reasons.get(reason, 0) + 1
    print(f"\ngenuine pairs as they are: {compared}, undecided for quality: {lost} ({lost / compared:.2%}) {reasons}")


def degraded_photos(photos: list[Photo], as_is: list[Analysis]) -> Iterator[tuple[str, list[bytes]]]:
    """Every way with its encoded photos; those cut off are cut at the box of the face in the photo as it is."""
    for name, way in WAYS.items():
        yield name, [encoded(way(photo)) for photo in photos]
    for name, (edge, share) in CUTS.items():
        cut = (cropped(photo, seen.face.box, edge, share) for photo, seen in zip(photos, as_is, strict=True))
        yield name, [encoded(photo) for photo in cut]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    first = commands.add_parser("calibrate")
    first.add_argument("aligned", type=Path)
    first.add_argument("work", type=Path)
    first.add_argument("--onnx", type=Path, required=True)
    first.add_argument("--contract", default="insightface")
    first.add_argument("--images", type=int, default=120)
    first.add_argument("--fmr", type=float, default=1e-4)
    second = commands.add_parser("shown")
    second.add_argument("work", type=Path)
    second.add_argument("photos", type=Path)
    second.add_argument("--people", type=int, default=40)
    second.add_argument("--genuine", type=int, default=200)
    given: dict[str, Any] = vars(parser.parse_args())
    if given.pop("command") == "calibrate":
        calibrated(**given)
    else:
        shown(**given)


if __name__ == "__main__":
    main()

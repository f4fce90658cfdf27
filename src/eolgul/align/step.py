"""Step 2 as a whole: FaceDataset of pictures → FaceDataset of 112x112 faces."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2

from eolgul.align.aligner import Aligner, Found, Options, Result
from eolgul.artifact import Artifact, open_artifact, reuse
from eolgul.dataset import FACTS, DatasetBuild, FaceDataset, ShardWriter, build_dataset
from eolgul.errors import InputError
from eolgul.faces.choose import POLICIES
from eolgul.faces.mtcnn import Detector
from eolgul.faces.networks import export_onnx
from eolgul.faces.template import BOX_NAME, SIZE, TEMPLATE_NAME
from eolgul.model.package import DetectorSettings

VERSION = 1  # of the results: raise it when the same inputs and recipe give others
BACKENDS = ("onnx", "torch")
CROPS = {"similarity": TEMPLATE_NAME, "box": BOX_NAME}
ANCHORS = ("none", "rig")
_PART_ROWS = 2048  # what a kill costs at most, and a shard of about 40 MB
DEFAULT_SETTINGS = DetectorSettings()

Progress = Callable[[int, int], None]


def align(
    dataset: Path,
    out: Path,
    *,
    settings: DetectorSettings = DEFAULT_SETTINGS,
    crop: str = "similarity",
    anchor: str = "none",
    min_eyes: float = 0.0,
    backend: str = "onnx",
    device: str = "cpu",
    workers: int = 2,
    part_rows: int = _PART_ROWS,
    part: str = "",
    merge: Sequence[Path] = (),
    progress: Progress | None = None,
) -> Artifact:
    """Find, choose and cut out one face an image; return the new FaceDataset at `out` (an equal one there is kept).

    Faces are stored as PNG, so that training and evaluation see the very pixels that serving will compute. What was
    found in the source picture goes into the manifest: box, score, landmarks, eye distance, policy, quality. An image
    without a usable face is rejected (`no_face`, `several_faces`, `too_small`, or why it cannot be decoded), and a
    Benchmark's pairs that need it are counted as lost. Rejections of the step before are carried on.

    A run that was killed goes on from its last whole part when it is asked for again; the result is the same, byte for
    byte, whatever the number of `workers` and kills.

    Args:
        crop: "similarity" (five landmarks to the template) or "box" (the detector's box, as the original project cut).
        anchor: "rig" serves pictures of a K-FACE rig in which no face was found with landmarks of the same person and
            camera (and the same source order: an identity's images at one resolution lie together); they are marked
            `annotated` or `anchored` in `landmark_source`. "none" leaves them rejected.
        min_eyes: reject faces with fewer pixels between the eyes.
        backend, device: "onnx" (CPU), or "torch" on "cpu" or "cuda".
        workers: threads.
        part_rows: images a shard, which is the unit that survives a kill.
        part: "i/n" does the i-th of n shares of the shards only, into a FaceDataset for `merge`; it may have no image.
        merge: the FaceDatasets of all n parts, made with the same options: they become one, and nothing is detected.
        progress: called with (images done, images in all).

    Raises:
        InputError: when the dataset is aligned already, a setting is unknown, or a part is missing or not of this run.
    """
    _check(settings, crop, anchor, backend)
    if part and merge:
        raise InputError("part and merge: expected one of them at most")
    source = FaceDataset(dataset)
    if is_aligned(source.artifact):
        raise InputError(f"{dataset}: aligned already ({source.artifact.contents['aligned']})")
    recipe = {
        "min_face_size": settings.min_face_size,
        "thresholds": list(settings.thresholds),
        "factor": settings.factor,
        "which": settings.which,
        "template": CROPS[crop],
        "anchor": anchor,
        "min_eyes": min_eyes,
        "backend": backend,
        "part_rows": part_rows,
    }
    inputs = [source.artifact.reference]
    shards = _shards(source, part_rows, together=anchor == "rig")
    mine = range(len(shards))
    places: dict[str, Path] = {}
    if part:
        mine = _share(part, len(shards))
        recipe |= {"part": part}
    if merge:
        places = _in_order(merge, recipe, inputs)
    done = reuse(out, "FaceDataset", step="align", version=VERSION, recipe=recipe, inputs=inputs)
    if done is not None:
        return done
    job = {
        "step": "align",
        "recipe": recipe,
        "inputs": inputs,
        "device": device,
        "merge": list(places),
        "version": VERSION,
    }
    with build_dataset(out, job) as build:
        for name, place in places.items():
            share = _share(name, len(shards))
            build.take_in(place, share)
        missing = [] if places else [number for number in mine if not build.is_finished(number)]
        if missing:
            with _detector(settings, backend, device) as detector:
                options = Options(crop, min_eyes, anchor == "rig")
                _write(build, source, Aligner(source, detector, options), shards, mine, missing, workers, progress)
        contents = source.artifact.contents
        facts = {
            "name": contents["name"],
            "identities_known": contents["identities_known"],
            "aligned": CROPS[crop],
            "detector": asdict(settings),
        }
        if part:  # what concerns the whole, the merged one gets
            build.finish(mine, may_be_empty=True)
            facts |= {"part": part}
        else:
            _carry_rejected(build, source, len(shards))
            if contents["benchmark"]:
                facts |= _carry_pairs(build, source, len(shards) + 1)
            else:
                build.finish(range(len(shards) + 1))
        build.seal(
            step="align",
            version=VERSION,
            recipe=recipe,
            inputs=inputs,
            synthetic=source.artifact.synthetic,
            facts=facts,
        )
    return open_artifact(out)


def is_aligned(artifact: Artifact) -> bool:
    """Whether a FaceDataset's images are faces on the template already, so that this step has nothing to do."""
    return artifact.contents.get("aligned") in CROPS.values()


def _check(settings: DetectorSettings, crop: str, anchor: str, backend: str) -> None:
    known = {"which": POLICIES, "crop": tuple(CROPS), "anchor": ANCHORS, "backend": BACKENDS}
    for name, value in {"which": settings.which, "crop": crop, "anchor": anchor, "backend": backend}.items():
        if value not in known[name]:
            raise InputError(f"{name} {value!r}: expected one of {', '.join(known[name])}")


@contextmanager
def _detector(settings: DetectorSettings, backend: str, device: str) -> Iterator[Detector]:
    """A detector for several threads, each of which computes by itself: libraries' own threads would contend."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        if backend == "torch":
            with _one_torch_thread():
                yield Detector.from_torch(settings, device)
            return
        with TemporaryDirectory() as folder:
            export_onnx(Path(folder))
            yield Detector.from_onnx(Path(folder), settings)
    finally:
        cv2.setNumThreads(before)


@contextmanager
def _one_torch_thread() -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _shards(source: FaceDataset, rows: int, *, together: bool) -> list[range]:
    """Stretches of about so many rows; with `together`, none divides an identity's images at one resolution."""
    if not together:
        return [range(at, min(at + rows, len(source))) for at in range(0, len(source), rows)]
    keys = list(zip(source.column("identity"), source.column("resolution"), strict=True))
    shards, begin = [], 0
    for at in range(1, len(keys) + 1):
        if at == len(keys) or (at - begin >= rows and keys[at] != keys[at - 1]):
            shards.append(range(begin, at))
            begin = at
    return shards


def _share(part: str, shards: int) -> range:
    """Which of so many shards the part "i/n" stands for; InputError where it is no such word."""
    words = re.fullmatch(r"([1-9]\d{0,5})/([1-9]\d{0,5})", part)
    if not words or int(words[1]) > int(words[2]):
        raise InputError(f"part {part!r}: expected i/n with i from 1 to n, such as 2/4")
    at, count = int(words[1]), int(words[2])
    return range(shards * (at - 1) // count, shards * at // count)


def _in_order(merge: Sequence[Path], recipe: dict[str, Any], inputs: list[dict[str, str]]) -> dict[str, Path]:
    """The places of all parts by their names, 1/n to n/n; InputError where one is missing, double, or of another run."""
    places: dict[str, Path] = {}
    for place in merge:
        card = open_artifact(place, "FaceDataset").card
        part = str(card["recipe"].get("part"))
        wanted = {"step": "align", "version": VERSION, "recipe": recipe | {"part": part}, "inputs": inputs}
        if {key: card[key] for key in wanted} != wanted:
            raise InputError(f"{place}: is no part of this alignment, but of another dataset or with other options")
        if places.setdefault(part, place) != place:
            raise InputError(f"{place}: part {part} is {places[part]} already")
    count = int(next(iter(places)).partition("/")[2])
    names = [f"{at}/{count}" for at in range(1, count + 1)]
    wrong = sorted({*names} ^ places.keys())
    if wrong:
        raise InputError(f"merge: part {wrong[0]} is {'missing' if wrong[0] in names else 'of another division'}")
    return {name: places[name] for name in names}


def _write(
    build: DatasetBuild,
    source: FaceDataset,
    aligner: Aligner,
    shards: Sequence[range],
    mine: range,
    missing: Sequence[int],
    workers: int,
    progress: Progress | None,
) -> None:
    """Write the shards that are missing, one after another, each with all the threads."""
    total = sum(len(shards[number]) for number in mine)
    done = total - sum(len(shards[number]) for number in missing)

    def tell(count: int) -> None:
        nonlocal done
        done += count
        if progress:
            progress(done, total)

    name = source.column("source")[0]
    pool = ThreadPoolExecutor(workers)
    try:
        tell(0)
        for number in missing:
            rows = shards[number]
            results = aligner.align(rows, pool, tell)
            with build.shard(number, name) as shard:
                _write_shard(shard, source, rows, results)
    finally:
        pool.shutdown(cancel_futures=True)


def _write_shard(shard: ShardWriter, source: FaceDataset, rows: range, results: Sequence[Result]) -> None:
    table = source.manifest.slice(rows.start, len(rows))
    ids, identities = table["image_id"].to_pylist(), table["identity"].to_pylist()
    facts = {name: table[name].to_pylist() for name in FACTS}
    for at, result in enumerate(results):
        if isinstance(result, Found):
            known = {name: values[at] for name, values in facts.items()} | result.facts
            shard.add(ids[at], identities[at], result.png, extension="png", size=(SIZE, SIZE), facts=known)
        else:
            shard.reject(ids[at], result, identity=identities[at])


def _carry_rejected(build: DatasetBuild, source: FaceDataset, number: int) -> None:
    """Write the rejections of the step before as a shard without images behind the others."""
    with build.shard(number, source.column("source")[0]) as shard:
        for row in source.rejected():
            shard.carry_rejected(row)


def _carry_pairs(build: DatasetBuild, source: FaceDataset, parts: int) -> dict[str, Any]:
    """A Benchmark's pairs whose two images were kept; the others are counted as lost."""
    pairs = source.pairs()
    ids = source.column("image_id")
    left, right = [ids[row] for row in pairs.left], [ids[row] for row in pairs.right]
    rows, _ = build.finish(range(parts), {*left, *right})
    both = [at for at in range(len(pairs)) if left[at] in rows and right[at] in rows]
    build.write_pairs(
        [rows[left[at]] for at in both],
        [rows[right[at]] for at in both],
        [bool(pairs.same[at]) for at in both],
        [int(pairs.fold[at]) for at in both],
    )
    lost = source.artifact.contents["pairs_lost"] + len(pairs) - len(both)
    return {"pairs": len(both), "pairs_lost": lost}

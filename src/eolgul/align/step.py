"""Step 2 as a whole: FaceDataset of pictures → FaceDataset of 112x112 faces."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from eolgul.align.aligner import Aligner, Found, Result
from eolgul.align.config import AlignConfig
from eolgul.artifact import Artifact, open_artifact, reuse
from eolgul.config import Progress
from eolgul.dataset import FACTS, SHARDS, DatasetBuild, FaceDataset, ShardWriter, build_dataset
from eolgul.dataset.far import FarShards
from eolgul.errors import InputError
from eolgul.faces.mtcnn import Detector
from eolgul.faces.networks import onnx_folder
from eolgul.faces.template import BOX_NAME, SIZE
from eolgul.model.package import TEMPLATE_NAME

VERSION = 2  # of the results: raise it when the same inputs and recipe give others
_SHARES, _LEAST_ROWS = 32, 64  # shards at least, unless they had so few images


def align(
    dataset: Path,
    out: Path,
    config: AlignConfig = AlignConfig(),
    *,
    shards: FarShards | None = None,
    merge: Sequence[Path] = (),
    elsewhere: Collection[Path] = (),
    may_be_unused: bool = False,
    progress: Progress | None = None,
) -> Artifact:
    """Find, choose and cut out one face an image; return the new FaceDataset at `out` (an equal one there is kept).

    Faces are stored as PNG, so that training and evaluation see the very pixels that serving will compute, or as JPEG
    (`stored_as`). What was found in the source picture goes into the manifest: box, score, landmarks, eye distance, policy,
    quality. An image without a usable face is rejected (`no_face`, `several_faces`, `too_small`, or why it cannot be decoded),
    and a Benchmark's pairs that need it are counted as lost. Rejections of the step before are carried on.

    A run that was killed goes on from its last whole part when it is asked for again; the result is the same, byte for
    byte, whatever the number of `workers` and kills.

    Memory: the rows of one shard, a few images per thread, and 8 bytes per row for where shards end.

    Args:
        dataset: A FaceDataset of pictures.
        out: Where the FaceDataset of faces goes.
        shards: The shards of `dataset` in S3, where it has only the tables: images are read from there one by one.
        config: The options. With `anchor` "rig", an identity's images at one resolution must lie together, and faces
            say in `landmark_source` whether their landmarks were `annotated` or `anchored`. With `part`, only these
            shards are done, into a FaceDataset for `merge`; it may have no image.
        merge: The FaceDatasets of all n parts, made with the same options: they become one, and nothing is detected.
        elsewhere: Those of `merge` whose shards lie in another place, as in S3: the result lists them without having them.
        may_be_unused: Accept options that this dataset gives nothing for (`unused`), as one of several datasets.
        progress: Called with (images done, images in all).

    Raises:
        InputError: When the dataset is aligned already, an option is not for it, or a part is missing or belongs to another
            run.
    """
    if config.part and merge:
        raise InputError("part and merge: expected one of them at most")
    source = FaceDataset(dataset, shards=shards)
    if is_aligned(source.artifact):
        raise InputError(f"{dataset}: aligned already ({source.artifact.contents['aligned']})")
    wrong = "" if may_be_unused else unused(source, config)
    if wrong:
        raise InputError(wrong)
    recipe = config.to_recipe()
    inputs = [source.artifact.reference]
    stretches = _shards(source, rows_of_shard(len(source), config.part_rows), together=config.anchor == "rig")
    mine = range(len(stretches))
    places: dict[str, Path] = {}
    if config.part:
        mine = config.share(len(stretches))
    if merge:
        places = _in_order(merge, recipe, inputs)
    without = (SHARDS,) if elsewhere else ()
    done = reuse(out, "FaceDataset", step="align", version=VERSION, recipe=recipe, inputs=inputs, without=without)
    if done is not None:
        return done
    job = {
        "step": "align",
        "recipe": recipe,
        "inputs": inputs,
        "device": config.device,
        "merge": list(places),
        "version": VERSION,
    }
    with build_dataset(out, job) as build:
        for name, place in places.items():
            build.take_in(place, config.share(len(stretches), name), elsewhere=place in elsewhere)
        missing = [] if places else [number for number in mine if not build.is_finished(number)]
        if missing:
            with _detector(config) as detector:
                aligner = Aligner(source, detector, config)
                _write(build, source, aligner, stretches, mine, missing, config.workers, progress)
        contents = source.artifact.contents
        facts = {
            "name": contents["name"],
            "identities_known": contents["identities_known"],
            "aligned": config.template,
            "detector": asdict(config.detector),
        }
        if config.part:  # what concerns the whole, the merged one gets
            build.finish(mine, may_be_empty=True)
            facts |= {"part": config.part}
        else:
            _carry_rejected(build, source, len(stretches))
            if contents["benchmark"]:
                facts |= _carry_pairs(build, source, len(stretches) + 1)
            else:
                build.finish(range(len(stretches) + 1))
        build.seal(
            step="align",
            version=VERSION,
            recipe=recipe,
            inputs=inputs,
            synthetic=source.artifact.synthetic,
            facts=facts,
        )
    return open_artifact(out, without=without)


def unused(source: FaceDataset, config: AlignConfig) -> str:
    """A sentence about the first option that does nothing for a dataset, since its images lack what it goes by; or ""."""
    without = {name: not source.knows(name) for name in ("landmarks", "camera")}
    if config.which == "annotated" and without["landmarks"]:
        return f"which annotated: is only for images with annotated landmarks, but {source.path} has none"
    if config.anchor == "rig" and without["camera"]:
        return f"anchor rig: is only for K-FACE, whose cameras are known, but {source.path} has no image of it"
    return ""


def is_aligned(artifact: Artifact) -> bool:
    """Whether a FaceDataset's images are faces on the template already, so that this step has nothing to do."""
    return artifact.contents.get("aligned") in (TEMPLATE_NAME, BOX_NAME)


@contextmanager
def _detector(config: AlignConfig) -> Iterator[Detector]:
    """A detector for several threads, each of which computes by itself: libraries' own threads would contend."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        if config.backend == "torch":
            with _one_torch_thread():
                yield Detector.from_torch(config.detector, config.device)
            return
        with onnx_folder() as folder:
            yield Detector.from_onnx(folder, config.detector)
    finally:
        cv2.setNumThreads(before)


@contextmanager
def _one_torch_thread() -> Iterator[None]:
    try:
        import torch
    except ImportError as error:
        raise InputError("backend torch: torch is not installed here; expected the backend onnx") from error

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def rows_of_shard(images: int, most: int) -> int:
    """How many images a shard has: `most`, or fewer, so that the parts of a small dataset have about as many images each."""
    return min(most, max(_LEAST_ROWS, -(-images // _SHARES)))


def _shards(source: FaceDataset, rows: int, *, together: bool) -> list[range]:
    """Stretches of about so many rows; with `together`, none divides an identity's images at one resolution."""
    if not together:
        return [range(at, min(at + rows, len(source))) for at in range(0, len(source), rows)]
    changes = [np.diff(source.codes(name)[1]) != 0 for name in ("identity", "resolution")]
    shards, begin = [], 0
    for at in [*(np.flatnonzero(changes[0] | changes[1]) + 1).tolist(), len(source)]:
        if at - begin >= rows or at == len(source) > begin:
            shards.append(range(begin, at))
            begin = at
    return shards


def _in_order(merge: Sequence[Path], recipe: dict[str, Any], inputs: list[dict[str, str]]) -> dict[str, Path]:
    """The places of all parts by their names, 1/n to n/n; InputError where one is missing, double, or of another run."""
    places: dict[str, Path] = {}
    for place in merge:
        card = open_artifact(place, "FaceDataset", without=(SHARDS,)).card
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

    name = source.values("source", [0])[0]
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
    table = source.table(rows=rows)
    ids, identities = table["image_id"].to_pylist(), table["identity"].to_pylist()
    facts = {name: table[name].to_pylist() for name in FACTS}
    for at, result in enumerate(results):
        if isinstance(result, Found):
            known = {name: values[at] for name, values in facts.items()} | result.facts
            shard.add(ids[at], identities[at], result.image, extension=result.extension, size=(SIZE, SIZE), facts=known)
        else:
            shard.reject(ids[at], result, identity=identities[at])


def _carry_rejected(build: DatasetBuild, source: FaceDataset, number: int) -> None:
    """Write the rejections of the step before as a shard without images behind the others."""
    with build.shard(number, source.values("source", [0])[0]) as shard:
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

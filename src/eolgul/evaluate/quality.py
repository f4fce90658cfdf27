"""Measure the region of picture quality of a model on the calibration people of a dataset."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from eolgul.dataset import FaceDataset
from eolgul.evaluate.degrade import NONE
from eolgul.evaluate.pairs import by_person
from eolgul.evaluate.region import LOST, YAW_SLACK, degraded, find_region
from eolgul.faces.aligned import read_face
from eolgul.model.calibration import Calibration
from eolgul.model.recognizer import Recognizer
from eolgul.model.region import Ends, Region

_BATCH = 64
_LEAST_FACES = 8  # fewer have too few pairs to find a limit
_SCORE_SLACK = 2.0  # a score may lie this many times as far from 1 as the least of the calibration photos
_MOST_JUDGED = 1000  # faces as they are of which it is looked up how many the limits lose


def measure_region(
    dataset: FaceDataset,
    rows: NDArray[np.int64],
    recognizer: Recognizer,
    calibration: Calibration,
    *,
    images: int,
    seed: int = 0,
    progress: Callable[[str], None],
) -> Region | None:
    """Degrade a sample of the calibration faces and find from where the stated rate does not hold.

    Args:
        dataset: An aligned dataset.
        rows: Its manifest rows of the calibration people (ascending).
        recognizer: The model.
        calibration: Its threshold.
        images: The most faces to degrade; each is embedded some forty times.
        seed: Decides the sample and the noise.
        progress: Called with a sentence now and then.

    Returns:
        The region; None with too few faces, or of one person only.

    Raises:
        InputError: An image is broken or cannot be embedded.
    """
    labels = dataset.numpy("label")
    chosen = sample(rows, labels[rows], images, seed)
    if len(chosen) < _LEAST_FACES or len(set(labels[chosen])) < 2:
        return None

    def embed(faces: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        parts = [recognizer.embed_with_norms(faces[start : start + _BATCH]) for start in range(0, len(faces), _BATCH)]
        return np.concatenate([part for part, _ in parts]), np.concatenate([norms for _, norms in parts])

    faces = _read(dataset, chosen, recognizer.contract.size)
    variants = degraded(faces, labels[chosen], embed, seed=seed, progress=progress)
    region = find_region(variants, calibration, _seen(dataset, rows), len(set(labels[chosen])))
    judged = sample(rows, labels[rows], _MOST_JUDGED, seed)
    lost = _lost(dataset, judged, labels[judged], region, recognizer.contract.size)
    if lost > LOST:
        progress(f"warning: {lost:.2%} of the genuine pairs as they are lie outside the region: safety comes first")
    return replace(region, lost=lost)


def sample(rows: NDArray[np.int64], labels: NDArray[np.integer], count: int, seed: int) -> NDArray[np.int64]:
    """Choose about `count` rows: two of as many people as possible, more of each where the people are few (ascending)."""
    random = np.random.default_rng(seed)
    people = [random.permutation(own) for own in by_person(rows, labels)]
    people = [people[number] for number in random.permutation(len(people))]
    people.sort(key=lambda own: len(own) < 2)  # stable: those with one image come last
    chosen: list[int] = []
    for first in range(0, max(map(len, people), default=0), 2):
        for own in people:
            if len(chosen) < count:
                chosen += own[first : first + 2].tolist()
    return np.sort(np.asarray(chosen, np.int64))


def _read(dataset: FaceDataset, rows: NDArray[np.int64], size: int) -> NDArray[np.uint8]:
    dataset.read_ahead(rows.tolist())
    return np.stack([read_face(dataset, int(row), size) for row in rows])


def _seen(dataset: FaceDataset, rows: NDArray[np.int64]) -> dict[str, Ends]:
    """The limits of measures that only photos have: what the calibration photos reach, since of others nothing is known.

    Heads as far turned as these are part of the stated rate.
    """
    facts = dataset.take(["yaw", "detection_score"], rows)
    yaw, score = (
        np.asarray([value for value in facts[name].to_pylist() if value is not None], np.float64)
        for name in ("yaw", "detection_score")
    )
    seen: dict[str, Ends] = {}
    if len(yaw):
        seen["yaw"] = (None, float(np.abs(yaw).max()) + YAW_SLACK)
    if len(score):
        seen["detection_score"] = (1 - _SCORE_SLACK * (1 - float(score.min())), None)
    return seen


def _lost(
    dataset: FaceDataset, rows: NDArray[np.int64], labels: NDArray[np.integer], region: Region, size: int
) -> float:
    """The share of the genuine pairs among `rows`, as they are, with a face outside the region; their norm is not judged."""
    facts = dataset.take(["yaw", "detection_score", "eye_distance"], rows).to_pylist()
    random, outside = np.random.default_rng(0), []
    for row, known in zip(rows, facts, strict=True):
        _, measures = NONE.degrade(read_face(dataset, int(row), size), 0.0, random)
        measures |= {name: value for name, value in known.items() if value is not None}
        outside.append(bool(region.reasons(measures)))
    pairs = lost = 0
    for own in by_person(np.asarray(outside, np.int64), labels):  # per person: whether each face lies outside
        good = int(np.count_nonzero(own == 0))
        pairs += len(own) * (len(own) - 1) // 2
        lost += len(own) * (len(own) - 1) // 2 - good * (good - 1) // 2
    return lost / pairs if pairs else 0.0

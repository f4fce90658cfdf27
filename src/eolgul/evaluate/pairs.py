"""Which comparisons are made: held-out pairs in identity-disjoint folds, and all pairs of the calibration people."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from eolgul.dataset import FaceDataset, Pairs
from eolgul.errors import InputError
from eolgul.evaluate.calibrate import AllPairs
from eolgul.evaluate.protocol import FOLDS

CAP_PER_IDENTITY = 500  # genuine pairs of one person: more of them say little more about people in general
MAX_PAIRS = 200_000
MAX_IMAGES = 4096  # all pairs of these are 8.4 million comparisons, about 100 MB
MAX_COUNTED = 32768  # images whose comparisons are only counted: half a billion of them (benchmarks/evaluate.py)


def split_rows(dataset: FaceDataset, split: str, without_anchored: bool = False) -> NDArray[np.int64]:
    """A split's manifest rows (int64, ascending), without those whose landmarks came from another picture if so wished."""
    rows = dataset.rows(split)
    if not without_anchored:
        return rows
    sources = dataset.column("landmark_source")
    return np.asarray([row for row in rows if sources[row] != "anchored"], dtype=np.int64)


def held_out_pairs(
    dataset: FaceDataset,
    split: str = "test",
    *,
    seed: int = 0,
    cap: int = CAP_PER_IDENTITY,
    folds: int = FOLDS,
    without_anchored: bool = False,
) -> Pairs:
    """Genuine and impostor pairs of a split's people, each person's in one fold only; rows are the manifest's.

    All genuine pairs of a person (a random `cap` of them where there are more), and in each fold as many impostor
    pairs between its people, as far as there are. `folds` is lowered so that each has at least two people, one of them
    with two images. Deterministic for a seed. Raises InputError for fewer than four people or no genuine pairs.
    """
    rows = split_rows(dataset, split, without_anchored)
    identities = np.asarray(dataset.column("identity"), dtype=object)[rows]
    people: dict[str, NDArray[np.int64]] = {}
    for name in sorted(set(identities)):
        people[name] = rows[identities == name]
    repeated = [name for name, own in people.items() if len(own) > 1]
    count = min(folds, len(people) // 2, len(repeated))
    if count < 2:
        raise InputError(
            f"{dataset.path}: its {split} split has {len(people)} people, {len(repeated)} of them with two images or "
            "more; two identity-disjoint folds need at least 4 and 2"
        )
    random = np.random.default_rng(seed)
    single = sorted(set(people) - set(repeated))
    dealt = [*random.permutation(repeated).tolist(), *random.permutation(single).tolist()]
    cap = max(1, min(cap, MAX_PAIRS // (2 * len(repeated))))
    parts: list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_], int]] = []
    for fold in range(count):
        members = [people[name] for name in dealt[fold::count]]
        left, right = _genuine(members, cap, random)
        parts.append((left, right, np.ones(len(left), dtype=bool), fold))
        other_left, other_right = _impostor(members, len(left), random)
        parts.append((other_left, other_right, np.zeros(len(other_left), dtype=bool), fold))
    return Pairs(
        np.concatenate([part[0] for part in parts]),
        np.concatenate([part[1] for part in parts]),
        np.concatenate([part[2] for part in parts]),
        np.concatenate([np.full(len(part[0]), part[3], dtype=np.int32) for part in parts]),
    )


def _genuine(
    members: Sequence[NDArray[np.int64]], cap: int, random: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    lefts, rights = [], []
    for rows in members:
        one, two = np.triu_indices(len(rows), 1)
        if len(one) > cap:
            chosen = np.sort(random.choice(len(one), cap, replace=False))
            one, two = one[chosen], two[chosen]
        lefts.append(rows[one])
        rights.append(rows[two])
    return np.concatenate(lefts), np.concatenate(rights)


def _impostor(
    members: Sequence[NDArray[np.int64]], wanted: int, random: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """`wanted` different pairs of rows of two people, or all there are; drawn, not listed, when there are many."""
    rows = np.concatenate(members)
    person = np.repeat(np.arange(len(members)), [len(own) for own in members])
    total = (len(rows) ** 2 - sum(len(own) ** 2 for own in members)) // 2
    if wanted * 2 >= total:  # a good part of all: list them, then choose
        one, two = np.triu_indices(len(rows), 1)
        codes = (one * len(rows) + two)[person[one] != person[two]]
    else:
        codes = np.empty(0, dtype=np.int64)
        while len(codes) < wanted:
            drawn = random.integers(0, len(rows) ** 2, size=4 * wanted)
            one, two = drawn // len(rows), drawn % len(rows)
            codes = np.union1d(codes, drawn[(one < two) & (person[one] != person[two])])
    if len(codes) > wanted:
        codes = np.sort(random.choice(codes, wanted, replace=False))
    return rows[codes // len(rows)], rows[codes % len(rows)]


def calibration_rows(
    dataset: FaceDataset,
    split: str = "calibration",
    *,
    seed: int = 0,
    without_anchored: bool = False,
    most: int | None = None,
) -> NDArray[np.int64]:
    """The rows whose comparisons are all made: the split's, or an even share of each person's when there are too many.

    Too many are more than `most`, by default as many as calibration can hold the scores of.

    Raises InputError when the split is empty.
    """
    rows = split_rows(dataset, split, without_anchored)
    if len(rows) == 0:
        raise InputError(f"{dataset.path}: has no people in its {split} split; run `eolgul assemble`")
    most = MAX_IMAGES if most is None else most
    if len(rows) <= most:
        return rows
    random = np.random.default_rng(seed)
    labels = dataset.numpy("label")[rows]
    people = np.unique(labels)
    if len(people) > most // 2:
        people = np.sort(random.choice(people, most // 2, replace=False))
    share = max(2, most // len(people))
    kept = [
        own if len(own) <= share else random.choice(own, share, replace=False)
        for own in (rows[labels == label] for label in people)
    ]
    return np.sort(np.concatenate(kept))


def all_pairs(embeddings: NDArray[np.float32], labels: NDArray[np.integer], block: int = 512) -> AllPairs:
    """Cosine similarity of every two images (unit embeddings, N x D; labels, N), genuine apart from impostor.

    Blocks of matrix products keep the N x N matrix from ever being whole in memory.
    """
    _, subject, images = np.unique(labels, return_inverse=True, return_counts=True)
    subject = subject.astype(np.int32)
    genuine: list[NDArray[np.float32]] = []
    genuine_subject: list[NDArray[np.int32]] = []
    impostor: list[NDArray[np.float32]] = []
    impostor_left: list[NDArray[np.int32]] = []
    impostor_right: list[NDArray[np.int32]] = []
    for start in range(0, len(embeddings), block):
        own = embeddings[start : start + block]
        similarity = own @ embeddings[start:].T
        one, two = np.triu_indices(len(own), 1, similarity.shape[1])
        left, right = subject[start + one], subject[start + two]
        scores, same = similarity[one, two], left == right
        genuine.append(scores[same])
        genuine_subject.append(left[same])
        impostor.append(scores[~same])
        impostor_left.append(left[~same])
        impostor_right.append(right[~same])
    return AllPairs(
        np.concatenate(genuine),
        np.concatenate(genuine_subject),
        np.concatenate(impostor),
        np.concatenate(impostor_left),
        np.concatenate(impostor_right),
        images.astype(np.int64),
    )

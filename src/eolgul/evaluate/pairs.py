"""Choose the comparisons: held-out pairs in identity-disjoint folds, and all pairs of the calibration people."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from eolgul.dataset import FaceDataset, Pairs
from eolgul.errors import InputError
from eolgul.evaluate.calibrate import AllPairScores
from eolgul.evaluate.protocol import FOLDS

CAP_PER_IDENTITY = 500  # genuine pairs per person: more add little information about people in general
MAX_PAIRS = 200_000
MAX_IMAGES = 4096  # all their pairs are 8.4 million comparisons, about 100 MB
MAX_COUNTED = 32768  # images whose comparisons are only counted: half a billion comparisons (benchmarks/evaluate.py)


def split_rows(dataset: FaceDataset, split: str, without_anchored: bool = False) -> NDArray[np.int64]:
    """Return a split's manifest rows (int64, ascending).

    `without_anchored` leaves out the rows whose landmarks come from another image.
    """
    rows = dataset.rows(split)
    if not without_anchored:
        return rows
    names, codes = dataset.codes("landmark_source")
    return rows[codes[rows] != names.index("anchored")] if "anchored" in names else rows


def by_person(rows: NDArray[np.int64], people: NDArray[np.integer]) -> list[NDArray[np.int64]]:
    """Divide rows by the person that each shows, in the order of the people's numbers; rows keep their order.

    Sorted once: a search for each person among all rows takes minutes for a million rows.
    """
    order = np.argsort(people, kind="stable")
    borders = np.flatnonzero(np.diff(people[order])) + 1
    return np.split(rows[order], borders) if len(rows) else []


def held_out_pairs(
    dataset: FaceDataset,
    split: str = "test",
    *,
    seed: int = 0,
    cap: int = CAP_PER_IDENTITY,
    folds: int = FOLDS,
    without_anchored: bool = False,
) -> Pairs:
    """Choose genuine and impostor pairs of a split's people, each person in one fold only.

    A fold has all genuine pairs of its people and as many impostor pairs between them, or as many as there are.
    Deterministic for a seed.

    Args:
        dataset: Its manifest rows are those of the pairs.
        split: The split.
        seed: Decides folds and pairs.
        cap: The most genuine pairs per person; a random choice where there are more.
        folds: Lowered so that each fold has at least two people, one of them with two images.
        without_anchored: Leave out images whose landmarks come from another image.

    Raises:
        InputError: Fewer than four people, or fewer than two with two images.
    """
    rows = split_rows(dataset, split, without_anchored)
    names, codes = dataset.codes("identity")
    found = [(names[codes[own[0]]], own) for own in by_person(rows, codes[rows])]
    people = dict(sorted(found, key=lambda item: item[0]))
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
        left, right = np.triu_indices(len(rows), 1)
        if len(left) > cap:
            chosen = np.sort(random.choice(len(left), cap, replace=False))
            left, right = left[chosen], right[chosen]
        lefts.append(rows[left])
        rights.append(rows[right])
    return np.concatenate(lefts), np.concatenate(rights)


def _impostor(
    members: Sequence[NDArray[np.int64]], wanted: int, random: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Choose `wanted` different pairs of rows of two people, or all of them; drawn, not listed, when there are many."""
    rows = np.concatenate(members)
    person = np.repeat(np.arange(len(members)), [len(own) for own in members])
    total = (len(rows) ** 2 - sum(len(own) ** 2 for own in members)) // 2
    if wanted * 2 >= total:  # a large share of all pairs: list them, then choose
        left, right = np.triu_indices(len(rows), 1)
        codes = (left * len(rows) + right)[person[left] != person[right]]
    else:
        codes = np.empty(0, dtype=np.int64)
        while len(codes) < wanted:
            drawn = random.integers(0, len(rows) ** 2, size=4 * wanted)
            left, right = drawn // len(rows), drawn % len(rows)
            codes = np.union1d(codes, drawn[(left < right) & (person[left] != person[right])])
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
    """Return the rows of a split whose comparisons are all made (int64, ascending).

    With more than `most` rows (None: as many as calibration can keep the scores of) it is an even share of each person's.

    Raises:
        InputError: The split is empty.
    """
    rows = split_rows(dataset, split, without_anchored)
    if len(rows) == 0:
        raise InputError(f"{dataset.path}: has no people in its {split} split; run `eolgul assemble`")
    most = MAX_IMAGES if most is None else most
    if len(rows) <= most:
        return rows
    random = np.random.default_rng(seed)
    labels = dataset.numpy("label")[rows]
    people = by_person(rows, labels)
    if len(people) > most // 2:
        people = [people[number] for number in np.sort(random.choice(len(people), most // 2, replace=False))]
    share = max(2, most // len(people))
    kept = [own if len(own) <= share else random.choice(own, share, replace=False) for own in people]
    return np.sort(np.concatenate(kept))


def score_all_pairs(embeddings: NDArray[np.float32], labels: NDArray[np.integer], block: int = 512) -> AllPairScores:
    """Compute the cosine similarity of every two images, genuine apart from impostor.

    Blocks of matrix products keep the whole N x N matrix out of memory.

    Args:
        embeddings: Unit embeddings, N x D.
        labels: The person of each image, N.
        block: Rows per matrix product.
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
        row, column = np.triu_indices(len(own), 1, similarity.shape[1])
        left, right = subject[start + row], subject[start + column]
        scores, same = similarity[row, column], left == right
        genuine.append(scores[same])
        genuine_subject.append(left[same])
        impostor.append(scores[~same])
        impostor_left.append(left[~same])
        impostor_right.append(right[~same])
    return AllPairScores(
        np.concatenate(genuine),
        np.concatenate(genuine_subject),
        np.concatenate(impostor),
        np.concatenate(impostor_left),
        np.concatenate(impostor_right),
        images.astype(np.int64),
    )

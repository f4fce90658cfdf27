"""Label noise: training images far from the rest of their identity, and identities that are one person. Report only."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from eolgul.audit.faces import Faces
from eolgul.audit.nearest import BLOCK, nearest
from eolgul.audit.schema import Coinciding, FarImage, LabelNoise

_FEWEST = 3  # images of an identity: with two, nobody knows which one is wrong
_PARTNERS = 4


def centres_of(
    person: NDArray[np.int64], embeddings: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The sum of every person's embeddings (float32, P x D) and the number of their images (int64, P), in blocks."""
    people = int(person.max()) + 1 if len(person) else 0
    sums = np.zeros((people, embeddings.shape[1]), dtype=np.float32)
    for begin in range(0, len(person), BLOCK):
        np.add.at(sums, person[begin : begin + BLOCK], embeddings[begin : begin + BLOCK])
    return sums, np.bincount(person, minlength=people)


def unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """The vectors (N x D) with length 1."""
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12), dtype=np.float32)


def label_noise(
    faces: Faces,
    embeddings: NDArray[np.float32],
    sums: NDArray[np.float32],
    images: NDArray[np.int64],
    threshold: float,
    shown: int,
) -> LabelNoise:
    """Find images that are unlike the others of their identity, and pairs of identities that are alike.

    Args:
        faces: The training faces.
        embeddings: Their embeddings, N x D.
        sums: What `centres_of` gives.
        images: The same.
        threshold: The similarity from which two faces count as one person.
        shown: Most of either that are named.
    """
    similarity = np.full(len(faces), np.inf, dtype=np.float32)
    for begin in range(0, len(faces), BLOCK):
        own = np.asarray(embeddings[begin : begin + BLOCK])
        person = faces.person[begin : begin + BLOCK]
        others = unit(sums[person] - own)
        enough = images[person] >= _FEWEST
        similarity[begin : begin + BLOCK][enough] = np.einsum("nd,nd->n", own, others)[enough]
    measured = np.isfinite(similarity)
    order = np.argsort(similarity, kind="stable")[: min(shown, int(measured.sum()))]
    centres = unit(sums)
    values, partners = nearest(centres, ((0, centres),), _PARTNERS)
    first = np.unique(faces.person, return_index=True)[1]
    pairs = {
        (min(one, int(other)), max(one, int(other))): float(value)
        for one, (row, near) in enumerate(zip(values, partners, strict=True))
        for value, other in zip(row, near, strict=True)
        if other >= 0 and other != one and value >= threshold
    }
    worst = sorted(pairs.items(), key=lambda item: (-item[1], item[0]))[:shown]
    return LabelNoise(
        measured=int(measured.sum()),
        below=int(np.count_nonzero(similarity < threshold)),
        far=[
            FarImage(
                set=faces.part_of(int(face))[0].name,
                image=faces.image_id(int(face)),
                identity=str(faces.names[face]),
                similarity=float(similarity[face]),
            )
            for face in order
        ],
        coinciding_pairs=len(pairs),
        coinciding=[
            Coinciding(first=str(faces.names[first[one]]), second=str(faces.names[first[other]]), similarity=value)
            for (one, other), value in worst
        ],
    )

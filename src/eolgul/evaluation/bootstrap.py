"""Bootstrap over people: 95 % intervals of figures whose comparisons share people and so are not independent."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 1000
LEVEL = 0.95

Interval = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Subjects:
    """The people that N pairs compare.

    `left`, `right` (int64, N): the subject number of either image, 0…count-1. `count`: the number of subjects.
    """

    left: NDArray[np.int64]
    right: NDArray[np.int64]
    count: int

    @classmethod
    def from_identities(cls, left: list[str], right: list[str]) -> Subjects:
        """Number the identities of paired images (N each)."""
        names, codes = np.unique(np.asarray([*left, *right], dtype=object), return_inverse=True)
        return cls(codes[: len(left)], codes[len(left) :], len(names))

    def distinct_pairs(self, chosen: NDArray[np.bool_]) -> int:
        """Count the different pairs of subjects that the chosen pairs (bool, N) compare."""
        low, high = np.minimum(self.left, self.right)[chosen], np.maximum(self.left, self.right)[chosen]
        return len(np.unique(low * self.count + high))


def draw(
    random: np.random.Generator,
    size: int,
    subjects: Subjects | None,
    genuine: NDArray[np.int64],
    impostor: NDArray[np.int64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Draw the weights that pairs have in bootstrap resamples of the subjects, or of the pairs without `subjects`.

    Args:
        random: The source of the draws.
        size: The number of resamples.
        subjects: The people that the pairs compare; None draws each pair by itself (Poisson weights).
        genuine: Positions of the genuine pairs.
        impostor: Positions of the impostor pairs.

    Returns:
        Weights of the genuine and of the impostor pairs (float64, size x pairs of that kind).
    """
    if subjects is None:
        return (
            random.poisson(1.0, (size, len(genuine))).astype(np.float64),
            random.poisson(1.0, (size, len(impostor))).astype(np.float64),
        )
    chance = np.full(subjects.count, 1 / subjects.count)
    weight = random.multinomial(subjects.count, chance, size=size).astype(np.float64)
    return weight[:, subjects.left[genuine]], weight[:, subjects.left[impostor]] * weight[:, subjects.right[impostor]]


def percentiles(values: NDArray[np.float64]) -> Interval | None:
    """Return the 95 % percentile interval of resampled values; None when no value is finite."""
    finite = values[np.isfinite(values)]
    if len(finite) == 0:
        return None
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(finite, [tail, 1 - tail])
    return float(low), float(high)

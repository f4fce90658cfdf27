"""The reference verification protocol, by which the field's published numbers are computed; here by counting.

Defined by facenet's and InsightFace's verification scripts: squared Euclidean distance of two unit embeddings (0…4),
ten folds over the pair order, the threshold of each fold chosen on the others. Every pair falls into the first
threshold that accepts it; cumulative counts of those bins then answer all thresholds and folds at once.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from eolgul.errors import InputError
from eolgul.evaluation.schema import Accuracy, TarAtFar

FOLDS = 10
FAR_TARGET = 1e-3
ACCURACY_THRESHOLDS: NDArray[np.float64] = np.asarray(np.arange(400) * 0.01, dtype=np.float64)
TAR_THRESHOLDS: NDArray[np.float64] = np.asarray(np.arange(4000) * 0.001, dtype=np.float64)


def squared_distance(left: NDArray[Any], right: NDArray[Any]) -> NDArray[np.float64]:
    """Squared Euclidean distance of paired rows: two N x D arrays → float64 N, 0…4 for unit rows."""
    difference = left.astype(np.float64) - right.astype(np.float64)
    return np.asarray(np.einsum("nd,nd->n", difference, difference))


def consecutive_folds(pairs: int, folds: int = FOLDS) -> NDArray[np.int32]:
    """Number the fold of every pair: consecutive blocks, the first `pairs % folds` of them one longer.

    Raises:
        InputError: Fewer than 2 folds, or fewer pairs than folds.
    """
    if folds < 2:
        raise InputError(f"{folds} folds: the protocol chooses on the other folds, so it needs at least 2")
    if pairs < folds:
        raise InputError(f"{pairs} pairs are fewer than {folds} folds")
    sizes = np.full(folds, pairs // folds)
    sizes[: pairs % folds] += 1
    return np.repeat(np.arange(folds, dtype=np.int32), sizes)


def accuracy(
    distance: ArrayLike, same: ArrayLike, fold: ArrayLike | None = None, folds: int = FOLDS
) -> tuple[Accuracy, NDArray[np.bool_]]:
    """Measure accuracy by folds.

    Per fold the first threshold of {0, 0.01, …, 3.99} with the highest accuracy on the other folds; `distance <
    threshold` means same.

    Args:
        distance: Squared distance of N pairs.
        same: Whether each pair shows one person.
        fold: The fold of each pair (int, N); None for `folds` consecutive ones.
        folds: The number of folds where `fold` is None.

    Returns:
        The figures, without an interval, and whether each pair was judged correctly at its fold's threshold (bool, N).

    Raises:
        InputError: NaN or negative distances, unequal lengths, or fewer pairs than folds.
    """
    distances, genuine, folds_of, count = _checked(distance, same, fold, folds)
    accepted_genuine = _accepted(distances[genuine], folds_of[genuine], count, ACCURACY_THRESHOLDS)
    accepted_impostor = _accepted(distances[~genuine], folds_of[~genuine], count, ACCURACY_THRESHOLDS)
    # Correct answers up to a constant: accepted genuine less accepted impostor pairs, on all folds but one.
    right = (accepted_genuine - accepted_impostor).astype(np.int64)
    best = np.argmax(right.sum(axis=0) - right, axis=1)  # argmax takes the first of equals
    thresholds = ACCURACY_THRESHOLDS[best]
    correct = (distances < thresholds[folds_of]) == genuine
    sizes = np.bincount(folds_of, minlength=count)
    by_fold = np.bincount(folds_of, weights=correct, minlength=count) / sizes
    figures = Accuracy(
        mean=float(np.mean(by_fold)),
        std=float(np.std(by_fold)),
        interval=None,
        folds=by_fold.tolist(),
        distance_thresholds=thresholds.tolist(),
    )
    return figures, correct


def tar_at_far(
    distance: ArrayLike,
    same: ArrayLike,
    fold: ArrayLike | None = None,
    folds: int = FOLDS,
    target: float = FAR_TARGET,
) -> TarAtFar:
    """Measure TAR at a FAR: per fold the threshold where the other folds' FAR, interpolated linearly, is `target`.

    FAR is a step function of the threshold {0, 0.001, …, 3.999}. Between two of its values the threshold is
    interpolated from the last one of the lower step to the first of the higher; on a value exactly, it is the last
    threshold of that step. The threshold is 0 (nothing accepted) when the FAR never reaches the target. The rates are
    None when a fold lacks genuine or impostor pairs: they are then undefined.

    Args:
        distance: Squared distance of N pairs.
        same: Whether each pair shows one person.
        fold: The fold of each pair (int, N); None for `folds` consecutive ones.
        folds: The number of folds where `fold` is None.
        target: The false accept rate.

    Raises:
        InputError: As for `accuracy`.
    """
    distances, genuine, folds_of, count = _checked(distance, same, fold, folds)
    genuine_by_fold = np.bincount(folds_of[genuine], minlength=count)
    impostor_by_fold = np.bincount(folds_of[~genuine], minlength=count)
    if np.any(genuine_by_fold == 0) or np.any(impostor_by_fold == 0):
        reason = "a fold lacks genuine or impostor pairs"
        return TarAtFar(target=target, tar=None, std=None, far=None, reason=reason)
    accepted = _accepted(distances[~genuine], folds_of[~genuine], count, TAR_THRESHOLDS)
    rates = (accepted.sum(axis=0) - accepted) / (impostor_by_fold.sum() - impostor_by_fold)[:, None]
    thresholds = np.asarray([np.interp(target, far, TAR_THRESHOLDS) if far.max() >= target else 0.0 for far in rates])
    below = distances < thresholds[folds_of]
    tar = np.bincount(folds_of, weights=below & genuine, minlength=count) / genuine_by_fold
    far = np.bincount(folds_of, weights=below & ~genuine, minlength=count) / impostor_by_fold
    return TarAtFar(
        target=target, tar=float(np.mean(tar)), std=float(np.std(tar)), far=float(np.mean(far)), reason=None
    )


def auc(similarity: ArrayLike, same: ArrayLike) -> float | None:
    """Compute the area under the ROC curve (ties count half); None when one of the two kinds of pair is missing."""
    from sklearn.metrics import roc_auc_score

    scores, genuine = _scores(similarity, same)
    return float(roc_auc_score(genuine, scores)) if genuine.any() and not genuine.all() else None


def eer(similarity: ArrayLike, same: ArrayLike) -> float | None:
    """Compute the equal error rate: where FMR equals FNMR on the ROC curve, interpolated linearly; None as for `auc`."""
    from sklearn.metrics import roc_curve

    scores, genuine = _scores(similarity, same)
    if not genuine.any() or genuine.all():
        return None
    fmr, tmr, _ = roc_curve(genuine, scores, drop_intermediate=False)
    gap = (1 - tmr) - fmr  # from 1 (nothing accepted) down to -1 (everything is)
    after = int(np.argmax(gap <= 0))
    share = gap[after - 1] / (gap[after - 1] - gap[after])
    return float(fmr[after - 1] + share * (fmr[after] - fmr[after - 1]))


def _accepted(
    distance: NDArray[np.float64], fold: NDArray[np.int64], folds: int, thresholds: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Count the pairs of each fold with `distance < threshold`: int, folds x thresholds."""
    first = np.searchsorted(thresholds, distance, side="right")  # the first threshold above the distance, or one past
    width = len(thresholds) + 1
    counts = np.bincount(fold * width + first, minlength=folds * width).reshape(folds, width)
    return np.asarray(np.cumsum(counts[:, :-1], axis=1))


def _scores(score: ArrayLike, same: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    scores, genuine = np.asarray(score, dtype=np.float64), np.asarray(same, dtype=bool)
    if scores.ndim != 1 or scores.shape != genuine.shape:
        raise InputError(f"scores {scores.shape} and same flags {genuine.shape}: expected two lists of one length")
    if not np.all(np.isfinite(scores)):
        raise InputError(f"pair {int(np.argmin(np.isfinite(scores)))}: its score is not a finite number")
    return scores, genuine


def _checked(
    distance: ArrayLike, same: ArrayLike, fold: ArrayLike | None, folds: int
) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.int64], int]:
    """Return the inputs as arrays, the folds numbered from 0, and the number of folds."""
    distances, genuine = _scores(distance, same)
    if np.any(distances < 0):
        raise InputError(f"pair {int(np.argmax(distances < 0))}: its squared distance is negative")
    if fold is None:
        return distances, genuine, consecutive_folds(len(distances), folds).astype(np.int64), folds
    given = np.asarray(fold)
    if given.shape != distances.shape:
        raise InputError(f"{given.shape} folds for {distances.shape} pairs: expected one fold per pair")
    names, folds_of = np.unique(given, return_inverse=True)
    if len(names) < 2:
        raise InputError(f"{len(names)} folds: the protocol chooses on the other folds, so it needs at least 2")
    return distances, genuine, folds_of.astype(np.int64), len(names)

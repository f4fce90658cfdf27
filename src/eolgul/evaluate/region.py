"""Find the region of picture quality in which the calibrated false match rate holds (`eolgul.model.region`).

Faces of the calibration people are degraded in every way of `eolgul.evaluate.degrade`, both faces of each pair. A network
that sees too little makes strangers alike, so that more of their pairs reach the threshold. Along each measure the rate is
fitted as one that never rises with quality (isotonic regression), and the limit is where it exceeds twice the stated rate.
The same must hold at the threshold of a higher rate, which the sample shows more surely than the stated one.

Where the limits cost more genuine pairs of faces as they are than `LOST`, safety wins: the limits stay, and `lost` says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eolgul.evaluate.degrade import KINDS, NONE, Kind
from eolgul.model.calibration import Calibration
from eolgul.model.region import MEASURES, DegradedRate, Ends, Region

LOST = 0.005  # share of genuine pairs of faces as they are that the limits should cost at most
_TIMES = 2.0  # the stated rate may be exceeded so many times
_LEAST_ERRORS = 30  # false matches that a rate is told by
_SURE_RATE = 1e-2
_NORM_SLACK = 0.9  # the least of a hundred faces is not the least of all
YAW_SLACK = 5.0  # degrees; the yaw of one head is estimated to a few

Floats = NDArray[np.float64]
EmbedFaces = Callable[[NDArray[np.uint8]], tuple[NDArray[np.float32], NDArray[np.float32]]]


@dataclass(frozen=True, slots=True)
class Variant:
    """The faces in one degradation: their measures (name → one value per face), and the scores of all pairs.

    `left` and `right` are the faces of each pair, `same` whether they show one person.
    """

    kind: Kind
    strength: float
    measures: Mapping[str, Floats]
    score: NDArray[np.float32]
    left: NDArray[np.int64]
    right: NDArray[np.int64]
    same: NDArray[np.bool_]


def degraded(
    faces: NDArray[np.uint8],
    labels: NDArray[np.integer],
    embed: EmbedFaces,
    *,
    kinds: Sequence[Kind] = KINDS,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> list[Variant]:
    """Degrade and embed faces in every kind and strength, the faces as they are first.

    Args:
        faces: uint8 RGB, N x 112 x 112 x 3.
        labels: The person of each face, N.
        embed: Gives unit embeddings and their lengths before normalisation (NaN: unknown).
        kinds: The kinds of degradation.
        seed: Decides the noise.
        progress: Called with a sentence now and then.
    """
    left, right = np.triu_indices(len(faces), 1)
    same = labels[left] == labels[right]
    wanted = [(kind, strength) for kind in (NONE, *kinds) for strength in kind.strengths]
    variants = []
    for number, (kind, strength) in enumerate(wanted):
        random = np.random.default_rng((seed, number))
        made = [kind.degrade(face, strength, random) for face in faces]
        embeddings, norms = embed(np.stack([face for face, _ in made]))
        measures = {name: np.asarray([measured[name] for _, measured in made]) for name in made[0][1]}
        if np.all(np.isfinite(norms)):
            measures["norm"] = norms.astype(np.float64)
        scores = (embeddings @ embeddings.T)[left, right]
        variants.append(Variant(kind, strength, measures, scores, left, right, same))
        if progress is not None and (number % 10 == 9 or number == len(wanted) - 1):
            progress(f"degraded and embedded {len(faces)} faces in {number + 1} of {len(wanted)} ways")
    return variants


def find_region(variants: Sequence[Variant], calibration: Calibration, seen: Mapping[str, Ends], people: int) -> Region:
    """Find the limits.

    Args:
        variants: Of `degraded`; the first is the faces as they are.
        calibration: The threshold and its rate.
        seen: Limits of measures that degraded faces do not have (`yaw`, `detection_score`).
        people: Number of people whom the faces show.
    """
    levels = _levels(variants[0], calibration)
    limits: dict[str, Ends] = dict(seen)
    for measure, (below, _) in MEASURES.items():
        shown = [item for item in variants if item.kind is NONE or measure in item.kind.measures]
        if len(shown) > 1:
            sign = -1 if below is None else 1
            worst = sign * _limit(shown, measure, sign, levels)
            limits[measure] = (worst, None) if sign > 0 else (None, worst)
    if "norm" in variants[0].measures:
        limits["norm"] = (_least_norm(variants, limits), None)
    region = Region(limits, levels[0][1], 0.0, len(next(iter(variants[0].measures.values()))), people)
    rates = tuple(_rate(item, region, calibration.threshold) for item in variants)
    return Region(limits, region.fmr_allowed, 0.0, region.images, people, rates)


def _levels(clean: Variant, calibration: Calibration) -> list[tuple[float, float]]:
    """The thresholds at which the rate is looked at, and what it may be there; the calibrated one first."""
    impostor = np.sort(clean.score[~clean.same].astype(np.float64))[::-1]
    observed = np.count_nonzero(impostor >= calibration.threshold) / len(impostor)
    levels = [(calibration.threshold, _TIMES * max(calibration.fmr_target, observed))]
    rate = max(_SURE_RATE, _LEAST_ERRORS / len(impostor))
    if calibration.fmr_target < rate < 1 / _TIMES:
        levels.append((float(impostor[int(rate * len(impostor))]), _TIMES * rate))
    return levels


def _limit(variants: Sequence[Variant], measure: str, sign: int, levels: Sequence[tuple[float, float]]) -> float:
    """The least `sign` * measure from which on the rate holds at every level.

    Where it holds for all that was tried, it is the worst value tried: of others nothing is known.
    """
    quality, scores = [], []
    for item in variants:
        value = sign * item.measures[measure]
        quality.append(np.minimum(value[item.left], value[item.right])[~item.same])
        scores.append(item.score[~item.same].astype(np.float64))
    values, place, pairs = np.unique(np.concatenate(quality), return_inverse=True, return_counts=True)
    score = np.concatenate(scores)
    first = 0
    for threshold, allowed in levels:
        hits = np.bincount(place, weights=score >= threshold, minlength=len(values))
        bad = int(np.count_nonzero(never_rising(hits / pairs, pairs) > allowed))  # the first, as the rates never rise
        if _beyond_chance(hits[:bad].sum(), allowed * pairs[:bad].sum()):
            first = max(first, bad)
    return float(values[min(first, len(values) - 1)])


def _beyond_chance(hits: float, expected: float) -> bool:
    """Whether more hits than expected are unlikely (5 %) to be chance, as the last few pairs of a fit may have them."""
    from scipy.special import pdtrc  # type: ignore[import-untyped]

    return hits > 0 and float(pdtrc(hits - 1, expected)) < 0.05


def _least_norm(variants: Sequence[Variant], limits: Mapping[str, Ends]) -> float:
    """A little less than the least norm among faces inside the other limits: less of one is unlike all that was tried."""
    return _NORM_SLACK * min(
        float(item.measures["norm"][inside].min()) for item in variants if (inside := _inside(item, limits)).any()
    )


def never_rising(rate: Floats, weight: NDArray[np.integer]) -> Floats:
    """The nearest rates (weighted least squares) that never rise: pool adjacent violators."""
    from scipy.optimize import isotonic_regression  # type: ignore[import-untyped]

    return np.asarray(isotonic_regression(rate, weights=weight.astype(np.float64), increasing=False).x)


def _inside(item: Variant, limits: Mapping[str, Ends]) -> NDArray[np.bool_]:
    """Which faces lie inside the limits (bool, N)."""
    region = Region(limits, 1.0, 0.0, 0, 0)
    count = len(item.measures["cut"])
    return np.asarray(
        [
            not region.reasons({name: float(values[face]) for name, values in item.measures.items()})
            for face in range(count)
        ]
    )


def _rate(item: Variant, region: Region, threshold: float) -> DegradedRate:
    inside = _inside(item, region.limits)
    passed = item.score.astype(np.float64) >= threshold
    both = inside[item.left] & inside[item.right]
    impostor, genuine = int(np.count_nonzero(~item.same)), int(np.count_nonzero(item.same))
    measure = item.kind.measures[0] if item.kind.measures else "detail"
    value = item.measures.get(measure)
    return DegradedRate(
        kind=item.kind.name,
        strength=item.strength,
        measure=measure,
        value=None if value is None else float(np.median(value)),
        images_inside=float(inside.mean()),
        impostor_pairs=impostor,
        fmr=float(np.count_nonzero(passed & ~item.same) / impostor),
        fmr_inside=float(np.count_nonzero(passed & ~item.same & both) / impostor),
        genuine_pairs=genuine,
        fnmr=float(np.count_nonzero(~passed & item.same) / genuine) if genuine else None,
    )

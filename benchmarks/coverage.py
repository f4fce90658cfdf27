"""Measure whether the 95 % intervals of evaluation cover, by simulation of people whose true rates are known.

People differ much, as those of a weak model or of a mixed population do. "Wolves": a person's centre lies towards a
centre common to all, by a gamma-distributed amount, so that some people resemble many others. "Goats": the noise of a
person's images has a gamma-distributed size. An embedding has 24 numbers. The truth is that of 800,000 people.

Each repetition draws calibration people and as many test people, calibrates a threshold (`eolgul.evaluate.calibrate`) and
counts the errors of the test people there (`eolgul.evaluate.all_pairs`). The table shows how often

- `threshold`: the threshold's interval contains the true threshold of the rate,
- `upper`: the true false match rate of the chosen threshold is at most `fmr_upper`,
- `test_fmr`, `test_fnmr`: the test people's intervals contain the true rates of the chosen threshold,

the mean true false match rate of the chosen threshold (`true`), and the medians of `fmr_upper` (`median_upper`) and of the
upper end of the test people's FMR (`median_fmr_high`), all as multiples of the wanted rate, which is the requested one or
the finest that the people support. The standard error of a coverage of 0.95 from 400 repetitions is
0.011. One thread; 400 repetitions of one population take 3 to 5 minutes, and its truth half a minute.

Usage: coverage.py [--repetitions N] [--people N ...] [--fmr RATE ...] [--population NAME ...] [--seed N]
"""

from __future__ import annotations

import argparse
import json
import os
import time
from dataclasses import dataclass
from unittest.mock import patch

os.environ.setdefault("OMP_NUM_THREADS", "1")
import numpy as np

from eolgul.evaluate import calibrate as calibration
from eolgul.evaluate.all_pairs import count_all_pairs
from eolgul.evaluate.metrics import all_pairs_figures
from eolgul.evaluate.pairs import score_all_pairs

SIZE = 24  # of an embedding
IMAGES = {20: 8}  # of each person, by the number of people; 5 for others
_BINS = 65536  # of similarity, for the truth


@dataclass(frozen=True)
class Population:
    """How people differ: shape and scale of the gamma distribution of their closeness to the common centre."""

    shape: float
    scale: float

    def draw(self, random: np.random.Generator, people: int, images: int) -> np.ndarray:
        """Unit embeddings: people x images x SIZE, float32."""
        centre = random.normal(size=(people, 1, SIZE))
        centre[:, 0, 0] += random.gamma(self.shape, self.scale, people)
        centre /= np.linalg.norm(centre, axis=2, keepdims=True)
        noise = random.gamma(4.0, 0.2, (people, 1, 1)) / np.sqrt(SIZE)
        vectors = centre + noise * random.normal(size=(people, images, SIZE))
        return (vectors / np.linalg.norm(vectors, axis=2, keepdims=True)).astype(np.float32)


# Scales are those of the first number of a centre, whose other numbers have the standard deviation 1.
POPULATIONS = {
    "many wolves": Population(1.0, 2.25),
    "few wolves": Population(0.5, 3.0),
    "rare wolves": Population(0.3, 4.5),
}


class Truth:
    """The error rates of every threshold in a population."""

    def __init__(self, population: Population, blocks: int = 800, people: int = 1000, seed: int = 4242) -> None:
        """Compare all people of each block of `people`; a block is forgotten before the next."""
        random = np.random.default_rng(seed)
        impostor = np.zeros(_BINS, dtype=np.int64)
        genuine = []
        for _ in range(blocks):
            vectors = population.draw(random, people, 2)
            scores = vectors[:, 0] @ vectors[:, 1].T
            genuine.append(np.diagonal(scores).copy())
            bins = np.clip((scores + 1) * (_BINS / 2), 0, _BINS - 1).astype(np.int32)
            impostor += np.bincount(bins.ravel(), minlength=_BINS) - np.bincount(np.diagonal(bins), minlength=_BINS)
        self._genuine = np.sort(np.concatenate(genuine))
        self._edges = np.arange(_BINS) * (2 / _BINS) - 1
        self._rate = np.cumsum(impostor[::-1])[::-1] / impostor.sum()

    def fmr(self, threshold: float) -> float:
        return float(np.interp(threshold, self._edges, self._rate))

    def fnmr(self, threshold: float) -> float:
        return float(np.searchsorted(self._genuine, threshold) / len(self._genuine))


def measure(
    population: Population, truth: Truth, people: int, fmr: float, repetitions: int, seed: int = 0
) -> dict[str, float]:
    """Measure one row of the table."""
    random = np.random.default_rng(seed)
    images = IMAGES.get(people, 5)
    labels = np.repeat(np.arange(people), images)
    held: dict[str, list[float]] = {}
    with patch.object(calibration, "fit", lambda *_: None):  # the likelihood ratios, which take most of the time
        for _ in range(repetitions):
            ours, others = (population.draw(random, people, images).reshape(-1, SIZE) for _ in range(2))
            found = calibration.calibrate(score_all_pairs(ours, labels), fmr)
            figures = all_pairs_figures(count_all_pairs(others, labels, found.threshold).errors)
            rate, missed, wanted = truth.fmr(found.threshold), truth.fnmr(found.threshold), found.fmr_target
            low, high = found.threshold_interval
            assert figures.fmr_interval is not None and figures.fnmr_interval is not None
            for name, value in {
                "threshold": truth.fmr(high) <= wanted <= truth.fmr(low),
                "upper": rate <= found.fmr_upper,
                "test_fmr": figures.fmr_interval[0] <= rate <= figures.fmr_interval[1],
                "test_fnmr": figures.fnmr_interval[0] <= missed <= figures.fnmr_interval[1],
                "true": rate / wanted,
                "median_upper": found.fmr_upper / wanted,
                "median_fmr_high": figures.fmr_interval[1] / wanted,
            }.items():
                held.setdefault(name, []).append(float(value))
    middle = {"median_upper": np.median, "median_fmr_high": np.median}
    return {name: float(middle.get(name, np.mean)(values)) for name, values in held.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure how often the 95 % intervals of evaluation cover.")
    parser.add_argument("--repetitions", type=int, default=400)
    parser.add_argument("--people", type=int, nargs="+", default=[20, 60, 200])
    parser.add_argument("--fmr", type=float, nargs="+", default=[1e-2, 1e-3])
    parser.add_argument("--population", nargs="+", choices=POPULATIONS, default=list(POPULATIONS))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    for name in options.population:
        truth = Truth(POPULATIONS[name])
        for people in options.people:
            for fmr in options.fmr:
                start = time.process_time()
                row = measure(POPULATIONS[name], truth, people, fmr, options.repetitions, options.seed)
                facts = {"population": name, "people": people, "images": IMAGES.get(people, 5), "fmr": fmr}
                seconds = round(time.process_time() - start, 1)
                figures = {key: round(value, 3) for key, value in row.items()}
                print(
                    json.dumps(facts | {"repetitions": options.repetitions, **figures, "seconds": seconds}), flush=True
                )


if __name__ == "__main__":
    main()

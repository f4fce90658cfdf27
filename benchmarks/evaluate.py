"""Measure the speed of evaluation: the reference protocol against its 400 x 10 loop, intervals, and all comparisons.

The loop is that of the field's verification scripts (facenet, InsightFace): numpy over all pairs, one threshold after
another, for accuracy on each fold's training and test part. Both give the same figures, which is checked. The times are
CPU time of one thread, the minimum of several runs, so that other load on the machine has little influence.
Usage: evaluate.py [pairs]
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
import numpy as np

from eolgul.evaluate.all_pairs import count_all_pairs
from eolgul.evaluate.calibrate import calibrate
from eolgul.evaluate.intervals import Outcome, intervals
from eolgul.evaluate.pairs import score_all_pairs
from eolgul.evaluate.protocol import accuracy
from eolgul.evaluation.bootstrap import Subjects


def loop(distance: np.ndarray, same: np.ndarray, folds: int = 10) -> np.ndarray:
    """Compute as the published scripts do: each fold tries every threshold on the other folds, then judges its own."""
    thresholds = np.arange(0, 4, 0.01)
    parts = np.array_split(np.arange(len(same)), folds)
    accuracies = np.zeros(folds)
    for number, test in enumerate(parts):
        train = np.concatenate([part for other, part in enumerate(parts) if other != number])
        right = np.zeros(len(thresholds))
        for index, threshold in enumerate(thresholds):
            accepted = distance[train] < threshold
            positives = np.sum(np.logical_and(accepted, same[train]))
            negatives = np.sum(np.logical_and(np.logical_not(accepted), np.logical_not(same[train])))
            right[index] = float(positives + negatives) / len(train)
        best = thresholds[np.argmax(right)]
        accuracies[number] = np.mean((distance[test] < best) == same[test])
    return accuracies


def least(work: Callable[[], Any], runs: int) -> tuple[float, Any]:
    seconds, result = [], None
    for _ in range(runs):
        start = time.process_time()
        result = work()
        seconds.append(time.process_time() - start)
    return min(seconds), result


def vectors_of(images: int, each: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Random unit embeddings of 512 numbers, `each` images per person."""
    vectors = random.normal(size=(images, 512)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.arange(images) // each


def main(pairs: int) -> None:
    random = np.random.default_rng(0)
    same = random.random(pairs) < 0.5
    distance = np.clip(random.normal(np.where(same, 0.9, 1.8), 0.3), 0, 4)
    slow, theirs = least(lambda: loop(distance, same), 3)
    fast, (ours, _) = least(lambda: accuracy(distance, same), 50)
    assert np.abs(ours.folds - theirs).max() < 1e-12
    people = Subjects(random.integers(0, 1000, pairs), random.integers(0, 1000, pairs), 1000)
    outcome = Outcome(same, 1 - distance / 2, distance < 1.3, (distance < 1.3) == same)
    resampled, _ = least(lambda: intervals(outcome, people, seed=0), 1)
    vectors, labels = vectors_of(3000, 30, random)
    crossed, scores = least(lambda: score_all_pairs(vectors, labels), 1)
    calibrated, _ = least(lambda: calibrate(scores), 1)
    many, of = vectors_of(16384, 64, random)
    counted, every_pair = least(lambda: count_all_pairs(many, of, 0.3, (1e-2, 1e-4)), 1)
    facts = {
        "pairs": pairs,
        "loop_s": round(slow, 4),
        "ours_s": round(fast, 6),
        "times_faster": round(slow / fast),
        "bootstrap_1000_s": round(resampled, 2),
        "comparisons": len(scores.genuine) + len(scores.impostor),
        "all_pairs_s": round(crossed, 2),
        "calibrate_s": round(calibrated, 2),
        "counted_comparisons": every_pair.errors.genuine + every_pair.errors.impostor,
        "count_s": round(counted, 2),
        "count_peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "load": os.getloadavg()[0],
    }
    print(json.dumps(facts))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 6000)

"""The false match rates of two models over all comparisons of the same people: the file, the difference, the decision."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from eolgul.errors import InputError
from eolgul.evaluate.all_pairs import ErrorCounts, count_all_pairs
from eolgul.evaluation.compare import better
from eolgul.evaluation.jackknife import fmr_difference, fmr_interval
from eolgul.evaluation.paired import differences
from eolgul.evaluation.people_file import PeopleErrors, read_people, write_people
from eolgul.evaluation.reader import read_metrics

PEOPLE, IMAGES, SIZE = 60, 5, 24
COMPARED = np.full(PEOPLE, (PEOPLE - 1) * IMAGES**2)


def two_models(random: np.random.Generator, people: int = PEOPLE) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings of the same images by two models that are as good: they agree for the most part on who resembles whom.

    People differ as in benchmarks/coverage.py ("many wolves").
    """
    wolf = random.gamma(1.0, 2.25, people)
    noise = random.gamma(4.0, 0.2, (people, 1, 1)) / np.sqrt(SIZE)
    common = random.normal(size=(people, SIZE)), random.normal(size=(people, IMAGES, SIZE))
    embedded = []
    for _ in range(2):
        centre, image = (np.sqrt(0.7) * part + np.sqrt(0.3) * random.normal(size=part.shape) for part in common)
        centre[:, 0] += wolf
        vectors = centre[:, None] / np.linalg.norm(centre, axis=1)[:, None, None] + noise * image
        embedded.append((vectors / np.linalg.norm(vectors, axis=2, keepdims=True)).reshape(-1, SIZE).astype(np.float32))
    return embedded[0], embedded[1]


def counted(embeddings: np.ndarray, threshold: float) -> ErrorCounts:
    return count_all_pairs(embeddings, np.repeat(np.arange(len(embeddings) // IMAGES), IMAGES), threshold).errors


def surely_higher(ours: ErrorCounts, theirs: ErrorCounts) -> bool:
    both = (np.concatenate([getattr(ours, side), getattr(theirs, side)]) for side in ("left", "right"))
    left, right = both
    code = left * PEOPLE + right
    pairs, place = np.unique(code, return_inverse=True)
    gap = np.bincount(place, weights=np.concatenate([ours.count, -theirs.count])).astype(np.int64)
    _, interval = fmr_difference(pairs // PEOPLE, pairs % PEOPLE, gap, COMPARED)
    assert interval is not None
    return interval[0] > 0


def test_twice_the_false_matches_are_seen_among_60_people_and_chance_is_not() -> None:
    """At FMR 1e-2; the interval of one model alone contains twice its rate in most cases, so that it stops nobody."""
    random = np.random.default_rng(0)
    impostor = ~np.eye(1000, dtype=bool).repeat(IMAGES, axis=1)
    first = two_models(random, 1000)[0]
    scores = (first[::IMAGES] @ first.T)[impostor]
    wanted, doubled = (float(np.quantile(scores, 1 - rate)) for rate in (1e-2, 2e-2))
    found = {"equal": 0, "doubled": 0, "doubled, by the interval of one": 0}
    repetitions = 120
    for _ in range(repetitions):
        ours, theirs = two_models(random)
        current = counted(theirs, wanted)
        found["equal"] += surely_higher(counted(ours, wanted), current)
        found["doubled"] += surely_higher(counted(ours, doubled), current)
        passed = sum(
            np.bincount(side, weights=current.count, minlength=PEOPLE) for side in (current.left, current.right)
        )
        alone = fmr_interval(float(current.count.sum()), current.impostor, np.asarray(passed), COMPARED, 1770)
        assert alone is not None
        found["doubled, by the interval of one"] += counted(ours, doubled).count.sum() / current.impostor > alone[1]
    assert found["equal"] <= 0.06 * repetitions, found  # nominal 0.025
    assert found["doubled"] >= 0.8 * repetitions, found
    assert found["doubled, by the interval of one"] <= 0.4 * repetitions, found


def test_the_difference_is_that_of_the_rates() -> None:
    left, right = np.array([0, 0, 1]), np.array([1, 2, 2])
    compared = np.array([8, 8, 8])
    difference, interval = fmr_difference(left, right, np.array([3, 0, -1]), compared)
    assert difference == pytest.approx(2 / 12)
    assert interval is not None and interval[0] < difference < interval[1]
    assert fmr_difference(left, right, np.array([0, 0, 0]), compared) == (0, (0, 0))
    assert fmr_difference(np.array([0]), np.array([1]), np.array([1]), np.array([4, 4])) == (0.25, None)
    assert fmr_difference(np.array([], int), np.array([], int), np.array([], int), np.array([0])) == (0, None)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    errors = counted(two_models(np.random.default_rng(1), 6)[0], 0.3)
    names = [f"얼굴.{number}" for number in range(6)]
    seen = np.array([True, *[False] * 5])
    for known in (True, False):
        told = PeopleErrors(names, errors.images, errors.misses, seen, errors.left, errors.right, errors.count)
        write_people(tmp_path / "people.parquet", told, known=known)
        read = read_people(tmp_path)
        assert list(read.names) == names
        for field in ("images", "misses", "seen", "left", "right", "count"):
            assert np.array_equal(getattr(read, field), getattr(told, field)), field
    assert len(errors.count) > 3
    (tmp_path / "people.parquet").write_bytes(b"none")
    with pytest.raises(InputError, match=r"people\.parquet: not the people"):
        read_people(tmp_path)


def test_an_evaluation_counts_its_people(evaluation: Path) -> None:
    people, figures = read_people(evaluation), read_metrics(evaluation).sets["held-out"].all_pairs
    assert figures is not None
    assert (people.count.sum(), people.misses.sum()) == (figures.false_matches, figures.false_non_matches)
    assert people.images.sum() == figures.images and set(people.names) == {f"p{number}" for number in range(14, 28)}


def test_a_candidate_that_takes_more_people_for_others_is_refused(evaluation: Path, tmp_path: Path) -> None:
    """Its own figure lies within the current model's interval; people by people it is higher beyond doubt."""
    people, folders = read_people(evaluation), [tmp_path / "new", tmp_path / "old"]
    pairs = np.array([(one, other) for one in range(14) for other in range(one + 1, 14)])
    for place, times in zip(folders, (2, 1), strict=True):
        shutil.copytree(evaluation, place)
        told = PeopleErrors(
            people.names,
            people.images,
            people.misses,
            people.seen,
            pairs[:, 0],
            pairs[:, 1],
            np.full(len(pairs), times),
        )
        write_people(place / "people.parquet", told, known=True)
    found = differences(folders[0], folders[1], (0.5, 0.5))["held-out"]["all_pairs_fmr"]
    assert (found.candidate, found.current) == (2 / 36, 1 / 36) and found.surely_higher
    reasons = better(*folders).reasons
    assert any("held-out FMR" in reason and reason.endswith(": higher") for reason in reasons)
    assert not any("held-out FMR" in reason for reason in better(*reversed(folders)).reasons)
    none = np.array([], int)
    write_people(
        folders[0] / "people.parquet", PeopleErrors([], none, none, none.astype(bool), none, none, none), known=True
    )
    assert "all_pairs_fmr" not in differences(folders[0], folders[1], (0.5, 0.5))["held-out"]


def test_only_people_that_neither_model_learned_from_are_compared(evaluation: Path, tmp_path: Path) -> None:
    people = read_people(evaluation)
    place = tmp_path / "new"
    shutil.copytree(evaluation, place)
    seen = np.arange(len(people.names)) < 4
    told = PeopleErrors(people.names, people.images, people.misses, seen, people.left, people.right, people.count)
    write_people(place / "people.parquet", told, known=True)
    found = differences(place, evaluation, (0.5, 0.5))["held-out"]["all_pairs_fmr"]
    kept = ~seen[people.left] & ~seen[people.right]
    images = people.images[~seen]
    assert found.candidate == pytest.approx(people.count[kept].sum() / ((images.sum() ** 2 - (images**2).sum()) / 2))
    assert found.difference == 0

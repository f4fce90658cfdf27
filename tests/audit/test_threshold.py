"""The threshold is that of people who differ, though some of the benchmark's people have two names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from eolgul.audit.threshold import choose_threshold, limit_of_strangers

PEOPLE, IMAGES = 300, 4


@dataclass
class Named:
    """What the threshold needs of the faces of a benchmark."""

    person: np.ndarray
    names: list[str]
    parts: tuple[Any, ...] = ()
    offsets: tuple[int, ...] = ()

    def people(self) -> np.ndarray:
        """The numbers of the people."""
        return np.unique(self.person)


def benchmark(seed: int, twice: int, *, spread: float = 0.8) -> tuple[Named, np.ndarray]:
    """Faces and embeddings of people, of whom the first `twice` have their second half of images under another name."""
    random = np.random.default_rng(seed)
    centres = random.normal(size=(PEOPLE, 256))
    person = np.repeat(np.arange(PEOPLE), IMAGES)
    vectors = centres[person] + spread * random.normal(size=(len(person), 256))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    half = np.arange(len(person)) % IMAGES >= IMAGES // 2
    person = np.where(half & (person < twice), PEOPLE + person, person)
    return Named(person, [f"p{number:03}" for number in person]), vectors.astype(np.float32)


@pytest.mark.parametrize("seed", range(5))
def test_people_with_two_names_do_not_raise_the_threshold(seed: int) -> None:
    clean, vectors = benchmark(seed, 0)
    noisy, same = benchmark(seed, 6)
    assert np.array_equal(vectors, same)
    for fmr in (1e-3, 1e-5):
        wanted = choose_threshold(clean, vectors, fmr=fmr, similarity=None, comparisons=1)  # type: ignore[arg-type]
        found = choose_threshold(noisy, vectors, fmr=fmr, similarity=None, comparisons=1)  # type: ignore[arg-type]
        assert found.similarity == pytest.approx(wanted.similarity, abs=0.03)
        assert wanted.alike == []
        assert {(item.first, item.second) for item in found.alike} == {(f"p{n:03}", f"p{300 + n}") for n in range(6)}
        assert found.person_pairs == (PEOPLE + 6) * (PEOPLE + 5) // 2 - 6


def test_few_people_are_taken_as_they_are_named() -> None:
    faces, vectors = benchmark(0, 6)
    few = faces.person < 40
    chosen = Named(faces.person[few], [name for name, kept in zip(faces.names, few, strict=True) if kept])
    assert choose_threshold(chosen, vectors[few], fmr=1e-3, similarity=None, comparisons=1).alike == []  # type: ignore[arg-type]


def test_the_limit_is_rarely_reached_by_strangers_of_a_long_tail() -> None:
    """Exponential tails are the longest that is assumed: at most about one drawn benchmark in a hundred reaches the limit."""
    random = np.random.default_rng(0)
    reached, count = 0, 20_000
    for _ in range(300):
        scores = np.sort(random.exponential(size=count).astype(np.float32))[::-1]
        limit = limit_of_strangers(scores, count)
        assert limit is not None
        reached += bool(scores[0] >= limit)
    assert reached <= 12
    assert limit_of_strangers(scores[:150], 150) is None

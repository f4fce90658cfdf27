"""The threshold is that of people who differ, though some of the benchmark's people have two names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pytest

from eolgul.audit.faces import Faces
from eolgul.audit.schema import Threshold
from eolgul.audit.threshold import _Comparisons, choose_threshold

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


def chosen(faces: Named, vectors: np.ndarray, **options: Any) -> Threshold:
    """`choose_threshold` with what these tests do not vary."""
    given: dict[str, Any] = {"false_findings": 1.0, "similarity": None, "comparisons": 1} | options
    return choose_threshold(cast(Faces, faces), vectors, **given)


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
        wanted = chosen(clean, vectors, fmr=fmr)
        found = chosen(noisy, vectors, fmr=fmr)
        assert found.similarity == pytest.approx(wanted.similarity, abs=0.03)
        assert wanted.alike == []
        assert {(item.first, item.second) for item in found.alike} == {(f"p{n:03}", f"p{300 + n}") for n in range(6)}
        assert found.person_pairs == (PEOPLE + 6) * (PEOPLE + 5) // 2 - 6


def test_few_people_are_taken_as_they_are_named() -> None:
    faces, vectors = benchmark(0, 6)
    few = faces.person < 40
    fewer = Named(faces.person[few], [name for name, kept in zip(faces.names, few, strict=True) if kept])
    assert chosen(fewer, vectors[few], fmr=1e-3).alike == []


def test_strangers_of_a_long_tail_rarely_reach_what_one_in_a_hundred_should() -> None:
    """Exponential tails are the longest that is assumed."""
    random = np.random.default_rng(0)
    reached, count = 0, 20_000
    for _ in range(300):
        scores = np.sort(random.exponential(size=count).astype(np.float32))[::-1]
        limit = _Comparisons(scores, count, count).reached_by(0.01)
        assert limit is not None
        reached += bool(scores[0] >= limit)
    assert reached <= 12
    assert _Comparisons(scores, count, 1999).reached_by(0.01) is None
    assert _Comparisons(scores[:1500], 1500, 2000).reached_by(0.01) is None


@pytest.mark.parametrize("allowed", [1.0, 10.0])
def test_many_comparisons_ask_for_a_finer_rate(allowed: float) -> None:
    faces, vectors = benchmark(3, 6)
    comparisons = 500_000_000
    found = chosen(
        faces, vectors, fmr=1e-4, false_findings=allowed, comparisons=comparisons
    )  # fmt: skip
    coarse = chosen(faces, vectors, fmr=1e-4, false_findings=1e9, comparisons=comparisons)
    assert found.extrapolated and not coarse.extrapolated and coarse.fmr == 1e-4
    assert found.fmr == found.fmr_requested == pytest.approx(allowed / comparisons)
    assert found.false_findings == pytest.approx(allowed) and found.similarity > coarse.similarity
    # Strangers that were never compared before: about as many as were allowed reach it, and rather fewer.
    random = np.random.default_rng(9)
    others = random.normal(size=(20_000, 256)).astype(np.float32)
    others /= np.linalg.norm(others, axis=1, keepdims=True)
    reaching = sum(int(np.count_nonzero(others[a : a + 2000] @ others[a + 2000 :].T >= found.similarity))
                   for a in range(0, 18_000, 2000))  # fmt: skip
    assert reaching <= 3 * allowed


def test_a_rate_that_few_people_cannot_show_is_the_finest_that_they_can() -> None:
    faces, vectors = benchmark(0, 0)
    few = faces.person < 40
    fewer = Named(faces.person[few], [name for name, kept in zip(faces.names, few, strict=True) if kept])
    found = chosen(fewer, vectors[few], fmr=1e-6, comparisons=10**9)
    assert not found.extrapolated and found.fmr == 1 / found.person_pairs
    assert found.false_findings is not None and found.false_findings > 1_000_000

"""The choice of pairs and rows is that of the first, quadratic algorithm: figures of earlier evaluations stay comparable."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from eolgul.dataset import FaceDataset, Pairs
from eolgul.errors import InputError
from eolgul.evaluate import pairs as module
from eolgul.evaluate.pairs import MAX_PAIRS, by_person, calibration_rows, held_out_pairs


class Rows:
    """What the choice needs of a FaceDataset: the person and the origin of the landmarks of each test row."""

    path = Path("made")

    def __init__(self, people: list[str], anchored: list[bool]) -> None:
        self.identity, self.anchored = people, anchored

    def rows(self, split: str) -> NDArray[np.int64]:
        """Every second row is of the split."""
        return np.arange(0, len(self.identity), 2, dtype=np.int64)

    def column(self, name: str) -> list[Any]:
        return self.identity if name == "identity" else ["anchored" if one else None for one in self.anchored]

    def codes(self, name: str) -> tuple[list[str], NDArray[np.int32]]:
        values = self.column(name)
        names = list(dict.fromkeys(value for value in values if value is not None))
        return names, np.array([-1 if one is None else names.index(one) for one in values], np.int32)

    def numpy(self, name: str) -> NDArray[Any]:
        assert name == "label"
        return self.codes("identity")[1]


def first_split_rows(dataset: Any, split: str, without_anchored: bool) -> NDArray[np.int64]:
    sources = dataset.column("landmark_source")
    rows = [row for row in dataset.rows(split) if not without_anchored or sources[row] != "anchored"]
    return np.asarray(rows, dtype=np.int64)


def first_pairs(dataset: Any, seed: int, cap: int, folds: int, without_anchored: bool) -> Pairs:
    """`held_out_pairs` as it was before it sorted the rows."""
    rows = first_split_rows(dataset, "test", without_anchored)
    identities = np.asarray(dataset.column("identity"), dtype=object)[rows]
    people: dict[str, NDArray[np.int64]] = {}
    for name in sorted(set(identities)):
        people[name] = rows[identities == name]
    repeated = [name for name, own in people.items() if len(own) > 1]
    count = min(folds, len(people) // 2, len(repeated))
    if count < 2:
        raise InputError("too few")
    random = np.random.default_rng(seed)
    single = sorted(set(people) - set(repeated))
    dealt = [*random.permutation(repeated).tolist(), *random.permutation(single).tolist()]
    cap = max(1, min(cap, MAX_PAIRS // (2 * len(repeated))))
    parts = []
    for fold in range(count):
        members = [people[name] for name in dealt[fold::count]]
        left, right = module._genuine(members, cap, random)
        parts.append((left, right, np.ones(len(left), dtype=bool), fold))
        left, right = module._impostor(members, len(left), random)
        parts.append((left, right, np.zeros(len(left), dtype=bool), fold))
    columns = [np.concatenate([part[number] for part in parts]) for number in range(3)]
    fold_of = np.concatenate([np.full(len(part[0]), part[3], dtype=np.int32) for part in parts])
    return Pairs(columns[0], columns[1], columns[2], fold_of)


def first_rows(dataset: Any, seed: int, most: int) -> NDArray[np.int64]:
    """`calibration_rows` as it was before it sorted the rows."""
    rows = dataset.rows("test")
    if len(rows) <= most:
        return rows
    random = np.random.default_rng(seed)
    labels = dataset.numpy("label")[rows]
    people = np.unique(labels)
    if len(people) > most // 2:
        people = np.sort(random.choice(people, most // 2, replace=False))
    share = max(2, most // len(people))
    kept = [
        own if len(own) <= share else random.choice(own, share, replace=False)
        for own in (rows[labels == label] for label in people)
    ]
    return np.sort(np.concatenate(kept))


datasets = st.lists(
    st.tuples(st.sampled_from([*"zyxwvutsrqpö", "김", "a" * 40]), st.booleans()), min_size=8, max_size=150
)


@given(given_rows=datasets, seed=st.integers(0, 3), cap=st.integers(1, 9), folds=st.integers(2, 10), less=st.booleans())
def test_the_pairs_are_the_same(
    given_rows: list[tuple[str, bool]], seed: int, cap: int, folds: int, less: bool
) -> None:
    dataset = Rows(*map(list, zip(*given_rows, strict=True)))  # type: ignore[arg-type]
    try:
        expected = first_pairs(dataset, seed, cap, folds, less)
    except InputError:
        assume(False)
    made = held_out_pairs(cast(FaceDataset, dataset), seed=seed, cap=cap, folds=folds, without_anchored=less)
    for name in ("left", "right", "same", "fold"):
        np.testing.assert_array_equal(getattr(made, name), getattr(expected, name))


@given(given_rows=datasets, seed=st.integers(0, 3), most=st.integers(4, 60))
def test_the_rows_are_the_same(given_rows: list[tuple[str, bool]], seed: int, most: int) -> None:
    dataset = Rows(*map(list, zip(*given_rows, strict=True)))  # type: ignore[arg-type]
    made = calibration_rows(cast(FaceDataset, dataset), "test", seed=seed, most=most)
    np.testing.assert_array_equal(made, first_rows(dataset, seed, most))


def test_rows_by_person() -> None:
    rows = np.array([3, 5, 8, 9])
    assert [own.tolist() for own in by_person(rows, np.array([7, 2, 7, 2]))] == [[5, 9], [3, 8]]
    assert by_person(rows[:0], np.zeros(0, np.int32)) == []

"""Held-out pairs keep people apart; all pairs are all pairs."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from support.evaluation import write_people

from eolgul.dataset import FaceDataset, Pairs
from eolgul.errors import InputError
from eolgul.evaluate import pairs as module
from eolgul.evaluate.pairs import calibration_rows, held_out_pairs, score_all_pairs


def as_tuples(found: Pairs) -> list[tuple[int, int, bool, int]]:
    return list(zip(found.left.tolist(), found.right.tolist(), found.same.tolist(), found.fold.tolist(), strict=True))


def test_folds_share_no_person(people: Path) -> None:
    dataset = FaceDataset(people)
    identity = dataset.column("identity")
    found = held_out_pairs(dataset)
    in_fold: dict[int, set[str]] = defaultdict(set)
    for left, right, same, fold in as_tuples(found):
        assert (identity[left] == identity[right]) == same
        in_fold[fold] |= {identity[left], identity[right]}
    assert len(in_fold) == 7  # 14 test people, two a fold
    assert sum(len(names) for names in in_fold.values()) == len(set().union(*in_fold.values())) == 14
    test_rows = set(dataset.rows("test").tolist())
    assert set(found.left.tolist()) | set(found.right.tolist()) <= test_rows


def test_genuine_pairs_are_complete_and_none_repeats(people: Path) -> None:
    found = held_out_pairs(FaceDataset(people))
    assert int(found.same.sum()) == 14 * 15
    assert int((~found.same).sum()) == 14 * 15
    seen = [frozenset((left, right)) for left, right, _, _ in as_tuples(found)]
    assert len(set(seen)) == len(seen)
    assert all(len(pair) == 2 for pair in seen)


def test_deterministic_by_seed_and_capped(people: Path) -> None:
    dataset = FaceDataset(people)
    assert as_tuples(held_out_pairs(dataset, seed=5)) == as_tuples(held_out_pairs(dataset, seed=5))
    assert as_tuples(held_out_pairs(dataset, seed=5)) != as_tuples(held_out_pairs(dataset, seed=6))
    capped = held_out_pairs(dataset, cap=4)
    assert int(capped.same.sum()) == 14 * 4
    assert int((~capped.same).sum()) == 14 * 4  # few of many: drawn, not listed
    assert held_out_pairs(dataset, folds=3).fold.max() == 2


def test_too_few_people_are_refused(tmp_path: Path) -> None:
    few = write_people(tmp_path / "few", split=lambda person: "test" if person < 3 else "train", images=2)
    with pytest.raises(InputError, match="3 people"):
        held_out_pairs(FaceDataset(few))
    single = write_people(tmp_path / "single", images=1)
    with pytest.raises(InputError, match="0 of them with two images"):
        held_out_pairs(FaceDataset(single))
    with pytest.raises(InputError, match="eolgul assemble"):
        calibration_rows(FaceDataset(few))


def test_calibration_rows_are_an_even_share_when_too_many(people: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = FaceDataset(people)
    labels = dataset.numpy("label")
    monkeypatch.setattr(module, "MAX_IMAGES", 30)
    rows = calibration_rows(dataset)
    assert np.unique(labels[rows], return_counts=True)[1].tolist() == [3] * 10
    monkeypatch.setattr(module, "MAX_IMAGES", 8)
    assert np.unique(labels[calibration_rows(dataset)], return_counts=True)[1].tolist() == [2] * 4


@pytest.mark.parametrize("block", [1, 7, 512])
def test_all_pairs_against_the_whole_matrix(block: int) -> None:
    random = np.random.default_rng(0)
    vectors = random.normal(size=(23, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    labels = random.integers(0, 5, 23) * 10
    found = score_all_pairs(vectors, labels, block=block)
    one, two = np.triu_indices(23, 1)
    same = labels[one] == labels[two]
    scores = (vectors @ vectors.T)[one, two]
    assert np.allclose(np.sort(found.genuine), np.sort(scores[same]), atol=1e-6)
    assert np.allclose(np.sort(found.impostor), np.sort(scores[~same]), atol=1e-6)
    assert np.all(found.impostor_left != found.impostor_right)
    assert found.images.sum() == 23
    assert found.subject_pairs == 10
    expected = np.bincount(labels[one][same] // 10, minlength=5)
    assert np.bincount(found.genuine_subject, minlength=5).tolist() == expected.tolist()

"""Intervals over people, against resampling done the slow way: by really repeating the people that were drawn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from support.evaluation import some_pairs

from eolgul.evaluate.all_pairs import ErrorCounts
from eolgul.evaluate.intervals import Outcome, all_pairs_intervals, intervals
from eolgul.evaluate.metrics import fnmr_at_fmr
from eolgul.evaluate.pairs import score_all_pairs
from eolgul.evaluation.bootstrap import Subjects


def outcome(seed: int = 0, pairs: int = 160, people: int = 9) -> tuple[Outcome, Subjects]:
    random = np.random.default_rng(seed)
    left = random.integers(0, people, pairs)
    same = random.random(pairs) < 0.5
    right = np.where(same, left, (left + random.integers(1, people, pairs)) % people)
    similarity = np.round(np.where(same, 0.5, 0.1) + random.normal(0, 0.2, pairs), 2)  # rounded: with ties
    accepted = similarity >= 0.3
    return Outcome(same, similarity, accepted, (similarity >= 0.25) == same), Subjects(left, right, people)


def test_equal_to_repeating_the_drawn_people() -> None:
    found, subjects = outcome()
    draws = np.random.default_rng(7).multinomial(9, np.full(9, 1 / 9), size=60)
    slow: dict[str, list[float]] = {"auc": [], "accuracy": []}
    for weight in draws:
        times = np.where(found.same, weight[subjects.left], weight[subjects.left] * weight[subjects.right])
        rows = np.repeat(np.arange(len(found.same)), times)
        same, accepted = found.same[rows], found.accepted[rows]
        share = np.mean(found.same)  # accuracy keeps the set's share of genuine pairs
        slow["accuracy"].append(float(share * np.mean(accepted[same]) + (1 - share) * np.mean(~accepted[~same])))
        slow["auc"].append(float(roc_auc_score(same, found.similarity[rows])))
    fast = intervals(found, subjects, seed=7, resamples=60)
    for name, values in slow.items():
        assert fast[name] == pytest.approx(tuple(np.quantile(values, [0.025, 0.975])), abs=1e-12)


def test_blocks_do_not_change_the_draw_s_kind() -> None:
    found, _ = outcome()
    over_pairs = intervals(found, None, seed=0, resamples=400)
    for low, high in filter(None, over_pairs.values()):
        assert 0 <= low <= high <= 1


def test_one_kind_of_pair_leaves_the_other_unknown() -> None:
    found, subjects = outcome()
    only = Outcome(np.ones_like(found.same), found.similarity, found.accepted, found.accepted)
    bounds = intervals(only, Subjects(subjects.left, subjects.left, 9), seed=0, resamples=50)
    assert bounds["fmr"] is None
    assert bounds["auc"] is None
    assert bounds["fnmr"] is not None
    assert bounds["accuracy"] is not None


def test_all_pairs_equal_to_the_general_way() -> None:
    pairs = some_pairs(3, people=8, images=4)
    same = np.r_[np.ones(len(pairs.genuine), dtype=bool), np.zeros(len(pairs.impostor), dtype=bool)]
    similarity = np.r_[pairs.genuine, pairs.impostor].astype(np.float64)
    subjects = Subjects(
        np.r_[pairs.genuine_subject, pairs.impostor_left].astype(np.int64),
        np.r_[pairs.genuine_subject, pairs.impostor_right].astype(np.int64),
        8,
    )
    accepted = similarity >= 0.3
    general = intervals(Outcome(same, similarity, accepted, accepted), subjects, seed=4, resamples=100)
    passed = pairs.impostor.astype(np.float64) >= 0.3
    refused = pairs.genuine_subject[pairs.genuine.astype(np.float64) < 0.3]
    errors = ErrorCounts(
        pairs.images,
        np.bincount(refused, minlength=8),
        pairs.impostor_left[passed].astype(np.int64),
        pairs.impostor_right[passed].astype(np.int64),
        np.ones(np.count_nonzero(passed), dtype=np.int64),
    )
    short = all_pairs_intervals(errors)
    for name in ("fmr", "fnmr"):
        assert short[name] == pytest.approx(general[name], abs=1e-12)


def test_the_protocol_s_interval_weighs_folds_alike() -> None:
    """One small fold where all is wrong, one large where all is right: the mean of folds is 0.5, that of pairs 0.9."""
    fold = np.repeat([0, 1], [20, 180])
    same = np.tile([True, False], 100)
    found = Outcome(same, np.zeros(200), same, fold == 1, 1 / np.bincount(fold)[fold])
    low, high = intervals(found, None, seed=0, resamples=400)["protocol_accuracy"] or (0, 0)
    assert low < 0.5 < high < 0.8


def test_people_who_resemble_each_other_widen_the_interval() -> None:
    """The same comparisons, told to come from few people, are worth less."""
    found, subjects = outcome(pairs=3000)
    few = intervals(found, subjects, seed=0, resamples=300)["fmr"]
    many = intervals(found, None, seed=0, resamples=300)["fmr"]
    assert few is not None
    assert many is not None
    assert few[1] - few[0] > many[1] - many[0]


def test_no_rate_finer_than_the_people_allow() -> None:
    genuine, impostor = np.linspace(0.4, 0.9, 50), np.linspace(-0.3, 0.5, 1000)
    rows = fnmr_at_fmr(genuine, impostor, 100)
    assert [row.fmr for row in rows if row.fnmr is not None] == [0.1, 0.01]
    for row in rows[:2]:
        assert row.threshold is not None
        assert np.mean(impostor >= row.threshold) <= row.fmr
        assert row.fnmr == np.mean(genuine < row.threshold)
    assert [row.fmr for row in fnmr_at_fmr(genuine, impostor, None) if row.fnmr is not None] == [0.1, 0.01, 0.001]
    assert fnmr_at_fmr(genuine[:0], impostor, 100)[0].reason == "the set lacks genuine or impostor pairs"


def test_subject_pairs_are_counted_once() -> None:
    subjects = Subjects.from_identities(["a", "b", "a", "c"], ["b", "a", "c", "c"])
    assert (subjects.count, subjects.distinct_pairs(np.array([True, True, True, False]))) == (3, 2)
    assert score_all_pairs(np.eye(3, dtype=np.float32), np.array([5, 5, 9])).subject_pairs == 1

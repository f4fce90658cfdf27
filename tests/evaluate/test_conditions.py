"""Conditions, groups and quality, each against counting by hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from eolgul.evaluate.all_pairs import count_all_pairs
from eolgul.evaluate.conditions import CAMERAS, breakdown, discards, groups
from eolgul.evaluate.metrics import ScoredSet
from eolgul.evaluation.bootstrap import Subjects
from eolgul.evaluation.schema import Acquisition


def scored(similarity: list[float], subjects: list[int] | None = None) -> ScoredSet:
    """Genuine pairs of rows 2i and 2i + 1."""
    count = len(similarity)
    people = np.asarray(subjects if subjects is not None else range(count))
    return ScoredSet(
        name="x", kind="held-out", digest="", synthetic=True, left=np.arange(count) * 2, right=np.arange(count) * 2 + 1,
        same=np.ones(count, dtype=bool), fold=np.arange(count, dtype=np.int32), similarity=np.asarray(similarity),
        distance=2 - 2 * np.asarray(similarity), subjects=Subjects(people, people, int(people.max()) + 1),
        acquisition=Acquisition(images=0, failed=0, rate=None, by_reason={}, pairs_lost=None),
    )  # fmt: skip


def test_a_cell_has_its_pairs_people_and_interval() -> None:
    # Two people; the second fails whenever camera C2 is there.
    found = breakdown(
        scored([0.9, 0.9, 0.9, 0.1], [0, 0, 1, 1]),
        {"camera": ["C1", "C2", "C1", "C1", "C1", "C3", "C2", "C2"], "light": [None] * 8, "resolution": ["high"] * 8},
        0.5,
    )
    assert found.model_fields_set == {"camera"}  # unknown or the same everywhere says nothing
    one, two, three = found.camera or []
    assert (one.value, one.genuine, one.errors, one.yaw, one.pitch) == ("C1", 3, 0, 90, 0)
    assert one.interval == (0.0, 1.0)  # no error among two people: the rule of three says little
    assert (two.genuine, two.errors, two.fnmr, two.interval) == (2, 1, 0.5, pytest.approx((0, 1), abs=1e-6))
    assert (three.value, three.genuine, three.interval) == ("C3", 1, None)  # one person says nothing about others


def test_conditions_come_in_the_order_of_the_rig() -> None:
    columns = {"camera": ["C10", "C2", "C1", "C1"], "resolution": ["Low", "Middle", "High", "High"]}
    found = breakdown(scored([0.9, 0.9]), columns, 0.5)
    assert [row.value for row in found.camera or []] == ["C1", "C2", "C10"]
    assert [row.value for row in found.resolution or []] == ["High", "Middle", "Low"]


def test_the_cameras_stand_where_k_face_says() -> None:
    assert [CAMERAS[f"C{n}"][0] for n in (1, 7, 13)] == [90, 0, -90]
    assert CAMERAS["C14"] == (45, 30) and CAMERAS["C20"] == (-30, -15) and len(CAMERAS) == 20


def test_a_group_is_compared_within_itself() -> None:
    random = np.random.default_rng(0)
    vectors = random.normal(size=(24, 4))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    people = np.repeat(np.arange(8), 3)
    source = ["a" if person % 2 else "b" for person in range(8)]
    errors = count_all_pairs(vectors.astype(np.float32), people, 0.3).errors
    rows = groups(errors, source)
    assert [(row.group, row.people, row.genuine, row.impostor) for row in rows] == [
        ("a", 4, 12, 54), ("b", 4, 12, 54),
    ]  # fmt: skip
    for row in rows:
        mine = [n for n in range(24) if source[people[n]] == row.group]
        scores = {(one, two): float(vectors[one] @ vectors[two]) for one in mine for two in mine if one < two}
        strangers = [value >= 0.3 for (one, two), value in scores.items() if people[one] != people[two]]
        assert row.fmr == pytest.approx(np.mean(strangers))
        assert row.fmr_interval is not None and row.fmr_interval[0] <= row.fmr <= row.fmr_interval[1]
    assert groups(errors, ["a"] * 8) == []
    assert [row.group for row in groups(errors, ["a"] * 7 + ["alone"])] == ["a"]


def test_errors_fall_when_the_worst_pictures_go() -> None:
    """The three refused pairs are the three blurred ones; a yaw counts by its distance from 0."""
    similarity = [0.1, 0.1, 0.1] + [0.9] * 27
    sharp = [value for n in range(30) for value in (100.0 + n, 1.0 + n if n < 3 else 100.0)]
    yaw = [value for n in range(30) for value in (-60.0 if n < 3 else 10.0, 0.0)]
    same: dict[str, Sequence[float | None]] = {"contrast": [None] * 60, "brightness": [5.0] * 60}
    columns = {"sharpness": sharp, "yaw": yaw} | same
    found = discards(scored(similarity), columns, 0.5)
    assert set(found) == {"sharpness", "yaw"}  # unknown or the same everywhere says nothing
    for curve in found.values():
        assert (curve.pairs, curve.unknown) == (30, 0)
        assert curve.fnmr[:3] == pytest.approx([3 / 30, 2 / 29, 0])  # 0, 1 and 3 of 30 pairs left out
    assert discards(scored(similarity), {"sharpness": [None, *sharp[1:]]}, 0.5)["sharpness"].unknown == 1

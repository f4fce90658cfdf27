"""Failures to acquire: which rejected inputs count, and what they do to the error rates."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.evaluation import write_benchmark, write_people

from eolgul.dataset import FaceDataset
from eolgul.errors import InputError, Reason
from eolgul.evaluate.acquisition import acquisition, generalized
from eolgul.evaluation.schema import AllPairs

# One of each, and a second face not found: the images of a source whose bookkeeping is poor, too.
REJECTED = (
    "no_face", "no_face", "duplicate_key", "no_identity", "unknown_condition", "bad_name", "wrong_size",
    "unknown_identity", "truncated", "bad_annotation",
)  # fmt: skip


def test_only_failures_to_acquire_count(tmp_path: Path) -> None:
    """Two images without a face and one whose data ends early; the other seven say nothing about faces."""
    dataset = FaceDataset(write_people(tmp_path / "people", images=2, rejected=REJECTED))
    found = acquisition(dataset, {"p20", "p21"})
    assert found.by_reason == {"no_face": 2, "truncated": 1}
    assert (found.images, found.failed, found.rate) == (28, 3, 3 / 31)
    assert acquisition(dataset, {"p21"}).failed == 0  # they are p20's
    whole = acquisition(dataset)
    assert (whole.images, whole.failed) == (56, 3)


def test_every_reason_is_classified() -> None:
    """A new reason fails here until somebody decides whether it is a failure to acquire."""
    failures = {reason.value for reason in Reason if reason.is_acquisition_failure}
    assert failures == {
        "no_face", "several_faces", "too_small", "not_an_image", "undecodable", "truncated", "unsupported_format",
        "too_large",
    }  # fmt: skip
    assert {reason.value for reason in Reason} - failures == {
        "unreadable", "bad_record", "missing_record", "wrong_size", "bad_annotation", "bad_name", "duplicate_key", "no_identity",
        "unknown_identity", "unknown_condition",
    }  # fmt: skip


def test_pairs_that_a_benchmark_lost(tmp_path: Path) -> None:
    assert acquisition(FaceDataset(write_benchmark(tmp_path / "lfw", pairs=20))).pairs_lost == 3


def test_an_unknown_reason_is_refused(people: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = FaceDataset(people)
    monkeypatch.setattr(FaceDataset, "rejected", lambda _: [{"identity": "p20", "reason": "too_few"}])
    with pytest.raises(
        InputError, match=r"rejected\.parquet: reason 'too_few', expected one of no_face, several_faces"
    ):
        acquisition(dataset)


def test_generalized_rates_by_hand(tmp_path: Path) -> None:
    acquired = acquisition(FaceDataset(write_people(tmp_path / "people", images=2, rejected=["no_face"] * 14)))
    assert acquired.rate == 0.2
    rates = AllPairs(
        images=56, genuine=28, impostor=100, subject_pairs=100, fmr=0.1, fmr_interval=None, false_matches=10,
        fnmr=0.25, fnmr_interval=None, false_non_matches=7,
    )  # fmt: skip
    found = generalized(rates, acquired, 28)
    assert found is not None and found.basis == "images"
    assert found.not_compared == pytest.approx(0.36)
    assert (found.gfrr, found.gfar) == (pytest.approx(0.52), pytest.approx(0.064))
    assert generalized(None, acquired, 28) is None

"""The region of picture quality: reasons and their order, and what a calibration file may hold."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from support import tiny_package

from eolgul.errors import InputError
from eolgul.model.calibration import Calibration
from eolgul.model.region import MEASURES, REASONS, DegradedRate, Region

RATE = DegradedRate("blur", 2.0, "detail", 0.9, 0.1, 1000, 0.02, 0.0, 50, None)
REGION = Region(
    {"detail": (1.2, None), "cut": (None, 0.3), "yaw": (None, 40.0), "overexposed": (None, 0.4)},
    2e-4,
    0.001,
    90,
    45,
    (RATE,),
)


def test_reasons_come_most_severe_first() -> None:
    assert REGION.reasons({"detail": 1.2, "cut": 0.3, "yaw": -40.0, "overexposed": 0.4}) == ()
    assert REGION.reasons({"yaw": -41.0, "detail": 1.1, "cut": 0.31}) == ("face_cut", "blurred", "turned_away")
    assert REGION.reasons({}) == ()  # what was not measured is not judged
    assert REGION.reasons({"detail": float("nan")}) == ("blurred",)


def test_every_reason_has_a_measure() -> None:
    assert {reason for ends in MEASURES.values() for reason in ends if reason} == set(REASONS)


def test_a_calibration_file_keeps_the_region() -> None:
    calibration = tiny_package.calibration(0.5, REGION)
    written = json.loads(json.dumps(calibration.to_json()))
    assert Calibration.from_json(written) == calibration
    assert Calibration.from_json(written).region == REGION


def test_a_file_of_an_older_version_has_none() -> None:
    written = tiny_package.calibration(0.5).to_json()
    assert "region" not in written and Calibration.from_json(written).region is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"limits": {"beauty": [1, None]}}, "measure 'beauty', expected one of"),
        ({"limits": {"cut": [None, float("inf")]}}, "the limits of cut are not finite"),
        ({"limits": {"cut": 3}}, "TypeError"),
        ({"rates": [{"kind": "blur"}]}, "TypeError"),
    ],
)
def test_a_damaged_region_is_refused(change: dict[str, object], message: str) -> None:
    written = tiny_package.calibration(0.5, REGION).to_json()
    written["region"] = written["region"] | change
    with pytest.raises(InputError, match=message):
        Calibration.from_json(written)


def test_the_summary_of_the_model_page_has_the_region() -> None:
    summary = replace(tiny_package.calibration(0.5), region=REGION).summary()
    assert summary["region"]["limits"]["detail"] == [1.2, None]
    json.dumps(summary)

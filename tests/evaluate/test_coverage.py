"""Do the intervals cover? A small version of benchmarks/coverage.py, whose simulated people differ much."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType

import pytest
from support.places import ROOT

REPETITIONS = 100  # the standard error of a coverage of 0.95 is 0.02


@pytest.fixture(scope="module")
def coverage() -> ModuleType:
    spec = importlib.util.spec_from_file_location("benchmark_of_coverage", ROOT / "benchmarks" / "coverage.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_intervals_in_the_tail_cover(coverage: ModuleType) -> None:
    """60 people at FMR 1e-3: percentiles of a bootstrap hold the true threshold in 0.8 of the cases, always too low."""
    population = coverage.POPULATIONS["many wolves"]
    found = coverage.measure(population, coverage.Truth(population, blocks=50), 60, 1e-3, REPETITIONS)
    for name in ("threshold", "upper", "test_fmr", "test_fnmr"):
        assert found[name] >= 0.9, (name, found)
    assert found["true"] == pytest.approx(1, abs=0.2)  # its standard error is 0.07
    assert found["median_upper"] < 6 and found["median_fmr_high"] < 6  # wide intervals cover too, and say nothing

"""Requirements on figures: what is no requirement is refused when it is read, and an unknown figure never passes."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eolgul.errors import InputError
from eolgul.evaluation.reader import read_metrics
from eolgul.evaluation.requirements import FIGURES, Requirement
from eolgul.evaluation.schema import FMR_LEVELS


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "expected such as"),
        ("fnmr", "expected such as"),
        ("fnmr=0.1", "expected such as"),
        ("fnmr<0.1", "expected such as"),
        ("frr<=0.1", "frr is no figure"),
        ("fnmr>=0.1", "asks for a bad model, expected fnmr<="),
        ("auc<=0.9", "asks for a bad model, expected auc>="),
        ("fnmr<=ten", "'ten' is no number"),
        ("fnmr<=10", "a value from 0 to 1"),
        ("fnmr<=nan", "a value from 0 to 1"),
        ("fnmr<=-0.1", "a value from 0 to 1"),
        ("people_in_training<=0.5", "a whole number"),
        ("fnmr<=0.1@far=1e-3", "expected @fmr=RATE or @set=NAME"),
        ("fnmr<=0.1@fmr=", "expected @fmr=RATE or @set=NAME"),
        ("fnmr<=0.1@fmr=1e-3@fmr=1e-4", "each once"),
        ("fnmr<=0.1@fmr=2e-3", "at one of 0.1, 0.01"),
        ("fnmr<=0.1@fmr=x", "'x' is no number"),
        ("auc>=0.9@fmr=1e-3", "@fmr is for fnmr"),
        ("people_in_training<=inf", "a whole number"),
    ],
)
def test_what_is_no_requirement_is_refused(text: str, says: str) -> None:
    with pytest.raises(InputError, match="require") as caught:
        Requirement.parse(text)
    assert says in str(caught.value)


@given(st.text(max_size=30))
def test_any_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(InputError):
        Requirement.parse(text)


@given(st.sampled_from(FIGURES), st.sampled_from([None, *FMR_LEVELS]), st.sampled_from(["held-out", "lfw", "nobody"]))
def test_a_figure_passes_only_when_it_is_there(evaluation: Path, figure: str, fmr: float | None, of: str) -> None:
    sign, loosest = (">=", 0) if figure in ("accuracy", "auc") else ("<=", 1)
    if fmr is not None and figure != "fnmr":
        return
    met, sentence = Requirement.parse(
        f"{figure}{sign}{loosest}{'' if fmr is None else f'@fmr={fmr!r}'}@set={of}"
    ).check(read_metrics(evaluation))
    assert met is ("unknown" not in sentence)
    assert not (met and of == "nobody")


def test_values_are_those_of_the_file(evaluation: Path) -> None:
    metrics = read_metrics(evaluation)
    held_out = metrics.sets["held-out"]
    assert held_out.all_pairs is not None
    row = next(row for row in held_out.fnmr_at_fmr if row.fnmr is not None)
    for figure, value in (
        ("auc", held_out.auc),
        ("accuracy", held_out.accuracy.mean),
        ("fnmr", held_out.all_pairs.fnmr),
        (f"fnmr@{row.fmr}", row.fnmr),
    ):
        assert value is not None
        name, _, level = figure.partition("@")
        better = name in ("auc", "accuracy")
        at = f"@fmr={level}" if level else ""
        assert Requirement.parse(f"{name}{'>=' if better else '<='}{value!r}{at}").check(metrics)[0]
        worse = value + 1e-9 if better else value - 1e-9
        if 0 <= worse <= 1:
            assert not Requirement.parse(f"{name}{'>=' if better else '<='}{worse!r}{at}").check(metrics)[0]

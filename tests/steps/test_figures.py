"""Figures as Kubeflow shows them, and the line a minute in a pod's log."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from kfp import dsl

from eolgul.steps import figures
from eolgul.steps.progress import MinuteLines
from eolgul.steps.tasks import training_figures
from eolgul.train.journal import TrainingLines


def test_what_cannot_be_computed_is_no_metric() -> None:
    """The launcher fails a finished task for a null, and for NaN or Infinity."""
    metrics = dsl.Metrics()
    figures.log_metrics(metrics, {"a": 1, "auc": None, "b": math.nan, "c": math.inf, "d": 0.5})
    assert metrics.metadata == {"a": 1.0, "d": 0.5}
    assert figures.metric_name("kface-Q1 set", "TAR@FAR 1e-3") == "kface_Q1_set_TAR_FAR_1e_3"


def test_the_curve_and_the_matrix_are_those_of_the_scores() -> None:
    same = [True, True, True, False, False, False]
    scores = [0.9, 0.8, 0.3, 0.4, 0.3, 0.1]
    fmr, tmr, thresholds = figures.roc(same, scores)
    assert fmr == pytest.approx([0, 0, 0, 1 / 3, 2 / 3, 1]) and tmr == pytest.approx([0, 1 / 3, 2 / 3, 2 / 3, 1, 1])
    assert thresholds == sorted(thresholds, reverse=True) and all(map(math.isfinite, thresholds))
    assert figures.confusion(same, scores, 0.35) == [[2, 1], [1, 2]]
    assert figures.roc([True, True], [0.1, 0.2]) == ([], [], [])
    artifact = dsl.ClassificationMetrics()
    artifact.log_roc_curve(fmr, tmr, thresholds)
    artifact.log_confusion_matrix(["one person", "two people"], figures.confusion(same, scores, 0.35))
    json.dumps(artifact.metadata, allow_nan=False)


def test_a_long_curve_is_thinned_and_keeps_its_ends() -> None:
    rng = np.random.default_rng(0)
    fmr, tmr, thresholds = figures.roc((rng.random(5000) < 0.5).tolist(), rng.random(5000).tolist())
    assert len(fmr) == len(tmr) == len(thresholds) <= 210
    assert (fmr[0], tmr[0], fmr[-1], tmr[-1]) == (0, 0, 1, 1)


def test_a_table_survives_what_names_contain() -> None:
    facts = [{"artifact": "s3://b/a|b", "reference": "s3://b/a|b#sha256:00", "images": 1200, "identities": None}]
    head, line, row = figures.table(facts, ("images", "identities")).splitlines()
    assert head.count("|") == line.count("|") == row.replace("\\|", "").count("|")
    assert "1,200" in row


def test_figures_of_a_training_are_in_its_package() -> None:
    curve = [
        {"epoch": 1, "train_loss": 9.0, "validation": {"auc": 0.7}, "training_people": None},
        {"epoch": 2, "train_loss": 8.0, "validation": {"auc": 0.8}, "training_people": {"loss": 3.0}},
    ]
    assert training_figures({"best_epoch": 2, "curve": curve}) == {
        "best_epoch": 2, "train_loss": 8.0, "validation_auc": 0.8, "training_people_loss": 3.0,
    }  # fmt: skip


def test_a_line_a_minute_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    now = [0.0]
    lines = MinuteLines("aligning kface", clock=lambda: now[0])
    for second in range(0, 181, 10):
        now[0] = float(second)
        lines(1000 + second * 5, 2000)  # 1000 were there when it began
    said = capsys.readouterr().err.splitlines()
    assert said == [
        "aligning kface: 1,300 of 2,000 images, 5.0 a second, 2 min left",
        "aligning kface: 1,600 of 2,000 images, 5.0 a second, 1 min left",
        "aligning kface: 1,900 of 2,000 images, 5.0 a second, 0 min left",
    ]
    step = {"epoch": 1, "epochs": 2, "step": 5, "steps": 9, "loss": 7.25, "lr": 0.1, "images_per_second": 80.0,
            "data_wait": 0.1, "seconds_left": 600.0}  # fmt: skip
    now[0] = 0.0
    train = TrainingLines(clock=lambda: now[0])
    for second in (1, 30, 61, 90, 122):
        now[0] = float(second)
        train(step)
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2 and said[0].startswith("epoch 1/2 step 5/9 loss 7.250") and "80 img/s" in said[0]

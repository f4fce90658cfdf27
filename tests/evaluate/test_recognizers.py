"""Any ONNX recognizer: its figures on benchmarks alone, embeddings kept between runs, and one with a known figure."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from support.evaluation import write_benchmark
from support.places import SHARED

from eolgul.align.config import AlignConfig
from eolgul.errors import InputError
from eolgul.evaluate.cache import cached
from eolgul.evaluate.config import EvaluateConfig
from eolgul.evaluate.recognizers import open_model
from eolgul.evaluate.step import evaluate
from eolgul.evaluation.reader import read_metrics
from eolgul.extract.config import ExtractConfig

_NAMED = os.environ.get("EOLGUL_RECOGNIZER", "")
_LFW = SHARED / "lfw-1-5"


def test_a_benchmark_alone_gives_figures_and_no_threshold(tmp_path: Path, model: Path) -> None:
    lfw = write_benchmark(tmp_path / "lfw")
    kept = tmp_path / "kept"
    (tmp_path / "c.json").write_text('{"flip": "none"}')
    onnx, contract = model / "model.onnx", str(tmp_path / "c.json")
    made = evaluate(
        onnx, None, [lfw], tmp_path / "out", EvaluateConfig(contract=contract, cache=str(kept), resamples=50, threads=1)
    )
    metrics = read_metrics(made.path)
    assert metrics.calibration is None and metrics.dataset is None
    assert metrics.sets["lfw"].at_threshold is None
    assert set(made.card["files"]) == {"metrics.json", "report.html", "scores.parquet"}
    assert "a benchmark never chooses a threshold" in (made.path / "report.html").read_text(encoding="utf-8")
    assert len(list(kept.iterdir())) == 1
    own = evaluate(model, None, [lfw], tmp_path / "own", EvaluateConfig(resamples=50, threads=1))
    assert read_metrics(own.path).sets["lfw"] == metrics.sets["lfw"]  # the very network, packaged


def test_another_contract_is_another_model(tmp_path: Path, model: Path) -> None:
    file = model / "model.onnx"
    assert open_model(file, "insightface").digest != open_model(file, "insightface-bgr").digest
    for contract, match in (("nowhere.json", "neither a JSON contract"), (str(tmp_path / "bad.json"), "contract")):
        (tmp_path / "bad.json").write_text('{"colour": "RGB"}')
        with pytest.raises(InputError, match=match):
            open_model(file, contract)
    with pytest.raises(InputError, match="no such ONNX file"):
        open_model(tmp_path / "none.onnx", "insightface")
    with pytest.raises(InputError, match="nothing to measure on"):
        evaluate(model, None, [], tmp_path / "out")


def test_only_missing_rows_are_embedded(tmp_path: Path) -> None:
    asked: list[list[int]] = []

    def compute(rows: np.ndarray) -> np.ndarray:
        asked.append(rows.tolist())
        return np.stack([rows, rows + 0.5], axis=1).astype(np.float32)

    embed = cached(tmp_path, "m" * 64, "d" * 64, compute)
    assert embed(np.array([5, 2, 5]))[:, 0].tolist() == [5, 2, 5]
    assert embed(np.array([9, 2]))[:, 1].tolist() == [9.5, 2.5]
    assert asked == [[2, 5], [9]]
    next(iter(tmp_path.iterdir())).write_bytes(b"damaged")
    assert embed(np.array([2]))[0].tolist() == [2, 2.5]
    assert asked[-1] == [2]
    cached(tmp_path, "m" * 64, "e" * 64, compute)(np.array([2]))
    assert len(asked) == 4  # another dataset shares nothing


@pytest.mark.skipif(not Path(_NAMED).is_file(), reason="EOLGUL_RECOGNIZER names no ONNX file")
@pytest.mark.skipif(not _LFW.is_dir(), reason="the shared half of LFW is not here")
def test_a_public_recognizer_keeps_its_published_figure(tmp_path: Path) -> None:
    """InsightFace's MobileFaceNet (buffalo_s): 99.75 ± 0.23 % on all ten folds; these are five of them."""
    from eolgul import steps

    steps.extract(str(_LFW / "images"), str(tmp_path / "raw"), ExtractConfig(name="lfw", pairs=str(_LFW / "pairs.txt")))

    lfw = tmp_path / "lfw"
    steps.align(str(tmp_path / "raw"), str(lfw), AlignConfig(which="center"))
    out = evaluate(Path(_NAMED), None, [lfw], tmp_path / "out", EvaluateConfig(contract="insightface", resamples=1000))
    accuracy = read_metrics(out.path).sets["lfw"].accuracy
    assert accuracy.interval is not None and accuracy.interval[0] <= 0.9975 <= accuracy.interval[1]
    assert accuracy.mean >= 0.995

"""The page says what `metrics.json` says: every number on it is held against the file, and a changed one is caught."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from eolgul.errors import InputError
from eolgul.evaluate.config import EvaluateConfig
from eolgul.evaluate.report.page import formatted
from eolgul.evaluate.report.training import training_curve
from eolgul.evaluate.step import evaluate


class Page(HTMLParser):
    """Collects the marked numbers, and any digit in a table body that is not marked (first cells hold names)."""

    def __init__(self) -> None:
        super().__init__()
        self.marked: list[tuple[str, str, str, str]] = []
        self.stray: list[str] = []
        self._open: dict[str, str | None] | None = None
        self._text = ""
        self._cell = -1
        self._in_cell = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        facts = dict(attrs)
        if tag == "tr":
            self._cell = -1
        if tag == "td":
            self._cell += 1
            self._in_cell = True
        if "data-metric" in facts:
            self._open, self._text = facts, ""

    def handle_endtag(self, tag: str) -> None:
        if tag == "td":
            self._in_cell = False
        if tag == "span" and self._open is not None:
            path, value, style = (self._open[f"data-{name}"] or "" for name in ("metric", "value", "format"))
            self.marked.append((path, value, style, self._text))
            self._open = None

    def handle_data(self, data: str) -> None:
        if self._open is not None:
            self._text += data
        elif self._in_cell and self._cell > 0 and any(letter.isdigit() for letter in data):
            self.stray.append(data)


def at(metrics: Any, path: str) -> Any:
    for step in path.split("."):
        metrics = metrics[int(step) if isinstance(metrics, list) else step]
    return metrics


def differences(html: str, metrics: dict[str, Any]) -> list[str]:
    """Where the page and the file disagree: in the full value, or in the text that the reader sees."""
    page = Page()
    page.feed(html)
    found = [f"not marked: {text.strip()}" for text in page.stray]
    for path, value, style, text in page.marked:
        expected = at(metrics, path)
        if json.loads(value) != expected or formatted(expected, style) != text:
            found.append(f"{path}: {text} ({value}), the file says {expected}")
    return found


@pytest.fixture(scope="module")
def html(evaluation: Path) -> str:
    return (evaluation / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def metrics(evaluation: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((evaluation / "metrics.json").read_bytes())
    return loaded


def test_every_number_is_the_file_s(html: str, metrics: dict[str, Any]) -> None:
    assert differences(html, metrics) == []
    page = Page()
    page.feed(html)
    paths = {path for path, *_ in page.marked}
    for name in ("held-out", "lfw", "own"):
        for figure in (
            "accuracy.mean",
            "accuracy.std",
            "auc",
            "eer",
            "tar_at_far.tar",
            "at_threshold.fmr",
            "best.threshold",
            "generalized.gfrr",
        ):
            assert f"sets.{name}.{figure}" in paths
    assert {
        "calibration.threshold",
        "sets.held-out.all_pairs.fnmr",
        "breakdown.camera.0.fnmr",
        "audit.sets.lfw.images_in_training",
    } <= paths


TAMPERING: dict[str, Callable[[str], str]] = {
    "the text": lambda page: re.sub(r'(data-metric="sets.lfw.accuracy.mean"[^>]*>)[^<]*', r"\g<1>99.83 %", page),
    "the value": lambda page: re.sub(r'(data-metric="calibration.threshold" data-value=")[^"]*', r"\g<1>0.1", page),
    "a bare number": lambda page: page.replace("</td></tr>", "</td><td>99.9 %</td></tr>", 1),
}


@pytest.mark.parametrize("how", TAMPERING)
def test_a_tampered_page_is_caught(html: str, metrics: dict[str, Any], how: str) -> None:
    tampered = TAMPERING[how](html)
    assert tampered != html
    assert differences(tampered, metrics)


def test_a_tampered_file_is_caught(html: str, metrics: dict[str, Any]) -> None:
    changed = json.loads(json.dumps(metrics))
    changed["sets"]["held-out"]["auc"] += 1e-9
    assert differences(html, changed)


def test_self_contained(html: str) -> None:
    assert not re.search(r'(?:src|href)="(?!data:|#)', html)
    assert re.findall("<script[^>]*>", html) == ["<script>"]
    assert "@import" not in html
    assert (
        html.count("<svg ") == 8
    )  # a histogram a set, the trade-off, the calibration, the cameras, the training, the quality
    assert html.count('src="data:image/png;base64,') == 80  # twenty pairs of either kind


def test_synthetic_data_is_said_aloud(html: str, metrics: dict[str, Any]) -> None:
    assert metrics["synthetic"] is True
    assert "SYNTHETIC DATA" in html


def test_published_rows_only_beside_real_sets_of_that_name(html: str, metrics: dict[str, Any]) -> None:
    assert "Published, other models" in html
    assert metrics["published"]["pairs"] == {"lfw": 6000}
    assert [list(row["accuracy"]) for row in metrics["published"]["rows"]] == [["lfw"]] * 5
    assert "of its" in html  # 60 pairs are not the set's 6,000


def test_names_are_escaped_and_pictures_may_be_left_out(tmp_path: Path, model: Path, people: Path) -> None:
    from support.evaluation import write_benchmark

    odd = write_benchmark(tmp_path / "odd", name="<b>a.b</b>", pairs=20)
    out = evaluate(
        model,
        people,
        [odd],
        tmp_path / "out",
        EvaluateConfig(pictures=False, resamples=20, threads=1, quality_images=0),
    )
    page = (out.path / "report.html").read_text(encoding="utf-8")
    assert "<b>a_b" not in page
    assert "data:image" not in page
    assert "left out of this report" in page
    assert differences(page, json.loads((out.path / "metrics.json").read_bytes())) == []


class Languages(HTMLParser):
    """Texts by language, and words of headings, paragraphs and lists that are in no language's span."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: dict[str, list[str]] = {"en": [], "ko": []}
        self.single: list[str] = []
        self._open: list[tuple[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        facts = dict(attrs)
        if tag not in ("br", "meta", "img"):
            self._open.append((tag, "data" if "data-metric" in facts else None if tag == "html" else facts.get("lang")))
        if facts.get("lang") in self.texts and tag == "span":
            self.texts[facts["lang"] or ""].append("")

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop()[0] != tag:
            pass

    def handle_data(self, data: str) -> None:
        inside = [lang for _, lang in self._open if lang]
        tags = {tag for tag, _ in self._open}
        if not inside and tags & {"h1", "h2", "h3", "p", "li"} and re.search("[A-Za-z]{2}", data):
            self.single.append(data)
        if inside and inside[0] in self.texts and "svg" not in tags:
            self.texts[inside[0]][-1] += data


def test_everything_is_said_in_both_languages(html: str) -> None:
    page = Languages()
    page.feed(html)
    assert page.single == []
    assert len(page.texts["en"]) == len(page.texts["ko"]) > 80
    hangul = re.compile("[\uac00-\ud7a3]")
    assert not [text for text in page.texts["en"] if hangul.search(text)]
    untranslated = {text for text in page.texts["ko"] if not hangul.search(text)}
    assert all(re.fullmatch(r"\((FMR|요청).*|", text) for text in untranslated), untranslated
    for text in ("false match rate (FMR)", "genuine pairs", "threshold", "density"):
        assert f'>{text}</text><text lang="ko"' in html


def test_heat_maps_hold_rate_interval_and_number(html: str, metrics: dict[str, Any]) -> None:
    """A cell a value of every condition, the worst of each map the darkest."""
    assert set(metrics["breakdown"]) == {"camera", "light", "accessory", "expression"}  # one resolution says nothing
    cells = re.findall(r'<div style="--heat: ([\d.]+)%">(.*?)</div>', html, flags=re.DOTALL)
    assert len(cells) == 3 + 2 + 2 + 3
    for heat, cell in cells:
        column, place = re.findall(r'data-metric="breakdown\.(\w+)\.(\d+)\.fnmr"', cell)[0]
        for figure in ("fnmr", "interval.0", "interval.1", "genuine"):
            assert f'data-metric="breakdown.{column}.{place}.{figure}"' in cell
        found = metrics["breakdown"][column]
        most = max(row["fnmr"] for row in found)
        assert float(heat) == pytest.approx(66 * found[int(place)]["fnmr"] / most if most else 0, abs=0.05)


@pytest.mark.parametrize(("language", "lang"), [("auto", "en"), ("en", "en"), ("ko", "ko")])
def test_the_language_asked_for_comes_first(tmp_path: Path, model: Path, language: str, lang: str) -> None:
    from support.evaluation import write_benchmark

    lfw = write_benchmark(tmp_path / "lfw", pairs=20)
    config = EvaluateConfig(language=language, pictures=False, resamples=20, threads=1)
    page = (evaluate(model, None, [lfw], tmp_path / "out", config).path / "report.html").read_text(encoding="utf-8")
    assert page.lstrip().startswith(f'<!doctype html>\n<html lang="{lang}">')
    assert ("navigator.language" in page) == (language == "auto")


def test_an_unknown_language_is_refused(tmp_path: Path, model: Path, people: Path) -> None:
    with pytest.raises(InputError, match="language 'kr': expected one of auto, en, ko"):
        evaluate(model, people, [], tmp_path / "out", EvaluateConfig(language="kr"))


@pytest.mark.parametrize(
    ("value", "style", "text"),
    [
        (None, "percent", "–"),
        (0.99752, "percent", "99.75 %"),
        (0.0, "rate", "0 %"),
        (0.0123, "rate", "1.23 %"),
        (1e-4, "rate", "1.0e-04"),
        (1e-4, "one_in", "1 in 10,000"),
        (1e-4, "one_of", "10,000번에 1번"),
        (0.41235, "score", "0.4123"),
        (1234567, "count", "1,234,567"),
        ("abcdef0123456789", "digest", "abcdef012345"),
    ],
)
def test_formats(value: object, style: str, text: str) -> None:
    assert formatted(value, style) == text


def test_the_losses_that_compare_stand_side_by_side(html: str, evaluation: Path, tmp_path: Path) -> None:
    """Of people that the model trains on and of others, without margin; a model of unknown training has no such section."""
    training = json.loads((evaluation / "metrics.json").read_bytes())["training"]
    assert training["epochs"][1] == {"epoch": 2, "train": 7.5, "training_people": 0.5, "validation_people": 1.5}
    assert training["epochs"][0]["training_people"] is None and training["best_epoch"] == 3
    assert 'data-label-en="Loss of training people and of validation people by epoch"' in html
    page = Page()
    page.feed(html)
    assert [text for path, *_, text in page.marked if path == "training.epochs.1.training_people"] == ["0.5000"]
    assert training_curve(tmp_path) is None
    (tmp_path / "training.json").write_text('{"imported": {}}')
    assert training_curve(tmp_path) is None
    (tmp_path / "training.json").write_text('{"curve": [{}], "best_epoch": 1}')
    with pytest.raises(InputError, match=r"training\.json: expected the curve of a training run"):
        training_curve(tmp_path)

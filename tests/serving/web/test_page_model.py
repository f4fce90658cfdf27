"""The page about the served model: everything it says comes from the package, and the card cannot run anything."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.page import CHROMIUM, opened
from support.serving import RedisServer, Service, serve

from eolgul.artifact import seal
from eolgul.evaluation.schema import Metrics
from eolgul.model.package import ModelPackage
from eolgul.serving.access.keys import new_key
from eolgul.serving.inference import model_card

in_a_browser = pytest.mark.skipif(not CHROMIUM, reason="no chromium on the PATH (or in EOLGUL_CHROMIUM)")
CARD = """# patches, 512-d

> **Synthetic.** Trained on drawn people who do not exist.

<script>window.hacked = true</script><img src=x onerror="window.hacked = true">

[run](javascript:window.hacked=true) and ![look](http://elsewhere.example/x.png) and [read](https://example.org/)

| split | identities |
|---|---|
| train | 40 |

## Licence
Research only.
"""
TRAINING = {
    "images": 1234,
    "identities": 56,
    "curve": [{"epoch": 1}, {"epoch": 2}],
    "best_epoch": 2,
    "dataset": {"kind": "FaceDataset", "digest": "d" * 64},
    "recipe": {"head": "arcface"},
}


def figures(name: str, kind: str, accuracy: float) -> dict[str, Any]:
    """One set of metrics.json."""
    return {
        "name": name,
        "kind": kind,
        "digest": "e" * 64,
        "synthetic": kind == "held-out",
        "pairs": 6000,
        "genuine": 3000,
        "impostor": 3000,
        "folds": 10,
        "identities": 20,
        "subject_pairs": 190,
        "accuracy": {
            "mean": accuracy,
            "std": 0.01,
            "interval": [accuracy - 0.02, accuracy + 0.004],
            "folds": [accuracy],
            "distance_thresholds": [1.0],
        },
        "tar_at_far": {"target": 0.001, "tar": 0.9, "std": 0.01, "far": 0.001, "reason": None},
        "auc": 0.9876,
        "auc_interval": [0.98, 0.99],
        "eer": 0.03,
        "cllr": {"carried": 0.1, "min": 0.09},
        "at_threshold": {
            "threshold": 0.9,
            "fmr": 0.0012,
            "fmr_interval": [0.0005, 0.0034],
            "false_matches": 4,
            "fnmr": 0.0456,
            "fnmr_interval": [0.03, 0.06],
            "false_non_matches": 137,
            "accuracy": 0.97,
            "accuracy_interval": None,
        },
        "best": {"threshold": 0.9, "accuracy": accuracy, "fmr": 0.001, "fnmr": 0.04},
        "fnmr_at_fmr": [],
        "all_pairs": None,
        "interval": {"level": 0.95, "over": "subjects", "resamples": 1000},
        "acquisition": {"images": 0, "failed": 0, "rate": None, "by_reason": {}, "pairs_lost": None},
        "generalized": None,
    }


def metrics(package: ModelPackage) -> dict[str, Any]:
    """A whole metrics.json, held to its schema."""
    contract = package.contract.to_json()
    contract["detector"] = contract["detector"] | {"thresholds": list(contract["detector"]["thresholds"])}
    value = {
        "format": 1,
        "synthetic": True,
        "model": {
            "digest": "a" * 64,
            "kind": "ModelPackage",
            "backbone": "patches",
            "embedding_size": 512,
            "contract": contract,
        },
        "dataset": None,
        "options": {"fmr": 0.001, "seed": 0, "pictures": False, "resamples": 1000},
        "calibration": None,
        "sets": {"held-out": figures("held-out", "held-out", 0.9712), "lfw": figures("lfw", "benchmark", 0.9955)},
        "breakdown": {},
        "groups": [],
        "quality": {},
        "audit": None,
        "worst": {"genuine": [], "impostor": []},
        "published": None,
    }
    Metrics.model_validate(value)
    return value


@pytest.fixture(scope="module")
def described(package: ModelPackage, tmp_path_factory: pytest.TempPathFactory) -> ModelPackage:
    """The tiny package with all that step 4 and 5 write beside a model."""
    folder = tmp_path_factory.mktemp("models") / "described"
    shutil.copytree(package.path, folder, ignore=shutil.ignore_patterns("manifest.json"))
    (folder / "evaluation" / "metrics.json").write_text(json.dumps(metrics(package)))
    (folder / "training.json").write_text(json.dumps(TRAINING))
    (folder / "CARD.md").write_text(CARD)
    seal(folder, "ModelPackage", step="test", version=1, recipe={}, inputs=[], contents={}, synthetic=True)
    return ModelPackage.open(folder)


@pytest.fixture(scope="module")
def guarded(
    described: ModelPackage, redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Service, str]]:
    keys = tmp_path_factory.mktemp("keys") / "keys.json"
    key = new_key(keys, tenant="one", scopes=("verify",))[0]
    home = tmp_path_factory.mktemp("bentoml")
    for service in serve(described, redis_server.url, home, auth="on", api_keys_file=keys):
        yield service, key


def facts(page: Any, name: str) -> dict[str, str]:
    terms = page.locator(f"#{name} dt").all_inner_texts()
    return dict(zip(terms, page.locator(f"#{name} dd").all_inner_texts(), strict=True))


@in_a_browser
def test_the_page_says_what_the_package_holds(
    browser: Any, guarded: tuple[Service, str], described: ModelPackage
) -> None:
    service, key = guarded
    with opened(browser, service, f"/ui/model#key={key}") as page:
        page.wait_for_selector("#served:not([hidden])")
        assert page.inner_text("#origin-title") == "Trained on drawn people"
        assert "1,234 images of 56 people" in page.inner_text("#origin")
        assert "not fit to recognise real people" in page.inner_text("#origin")
        assert page.inner_text("#threshold") == "0.900"
        assert page.inner_text("#threshold-interval") == "95\u00a0% interval 0.880 to 0.920"
        chosen = facts(page, "calibration")
        assert chosen["False match rate asked for"] == "1 in 1,000"
        assert chosen["False match rate measured"] == "0.86 % (0.43 % – 1.72 %)"
        assert chosen["Measured on"] == "50 people, 500 pairs of one person, 10,000 of different people"
        assert page.locator("#scores path").count() == 3  # strangers, one person, threshold
        rows = [row.replace("\n", " ").replace("\t", " ") for row in page.locator("#sets tr").all_inner_texts()]
        assert len(rows) == 2
        assert "held-out people · drawn" in rows[0] and "benchmark" in rows[1]
        for figure in ("6,000", "99.55 %", "97.55 % – 99.95 %", "0.12 %", "0.05 % – 0.34 %", "4.56 %", "0.9876"):
            assert figure in rows[1], figure
        network = facts(page, "network")
        assert network["Digest"] == described.digest and network["Dataset digest"] == "d" * 64
        assert network["Training"] == "2 epochs, head arcface; epoch 2 was chosen on validation people"
        page.click("[data-language=ko]")
        assert page.inner_text("#origin-title") == "그려 낸 사람으로 학습했습니다"
        page.click("#full-report")
        assert "the report of the test" in page.content()


@in_a_browser
def test_the_card_is_shown_and_can_run_nothing(browser: Any, guarded: tuple[Service, str]) -> None:
    service, key = guarded
    with opened(browser, service, f"/ui/model#key={key}") as page:
        page.wait_for_selector("#card:not([hidden])")
        page.click("#card summary")
        card = page.locator("#card-text")
        assert card.locator("h3").inner_text() == "patches, 512-d" and card.locator("td").count() == 2
        assert "<script>window.hacked = true</script>" in card.inner_text()  # as text
        assert card.locator("script, img, [onerror]").count() == 0
        hrefs = [link.get_attribute("href") for link in card.locator("a").all()]
        assert hrefs == ["http://elsewhere.example/x.png", "https://example.org/"]
        assert page.evaluate("window.hacked") is None


def test_the_card_needs_a_key(guarded: tuple[Service, str]) -> None:
    service, key = guarded
    assert service.client.get("/ui/card.html").json()["code"] == "unauthorized"
    answer = service.client.get("/ui/card.html", headers={"authorization": f"Bearer {key}"})
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/html")


@in_a_browser
def test_a_package_that_holds_less(browser: Any, service: Service) -> None:
    answer = service.client.get("/v1/models/current").json()
    assert (answer["training"], answer["sets"], answer["card"]) == (None, [], None)
    assert service.client.get("/ui/card.html").json()["code"] == "not_found"
    with opened(browser, service, "/ui/model") as page:
        page.wait_for_selector("#served:not([hidden])")
        assert page.is_visible("#no-sets") and page.is_hidden("#sets") and page.is_hidden("#card")
        assert "does not say how many images" in page.inner_text("#origin")


@pytest.mark.parametrize("broken", [b"{", b"[]", b"\xff", b"{}", b'{"images": NaN, "sets": {}}'])
def test_a_broken_file_is_as_good_as_none(tmp_path: Path, broken: bytes) -> None:
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "training.json").write_bytes(broken)
    (tmp_path / "evaluation" / "metrics.json").write_bytes(broken)
    assert model_card.training(tmp_path, broken.hex()) is None and model_card.figures(tmp_path, broken.hex()) == ()

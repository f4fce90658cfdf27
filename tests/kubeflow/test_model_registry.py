"""A promoted model in Kubeflow's Model Registry: once, with its figures, and one sentence where it is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.model_registry import ModelRegistry, model_registry
from support.registry import evaluation, model

from eolgul import steps
from eolgul.errors import InputError
from eolgul.kubeflow.model_registry import Entry, register
from eolgul.promote.config import PromoteConfig
from eolgul.registry.store import read_production
from eolgul.steps import figures

ENTRY = Entry("ab" * 32, "s3://eolgul/registry/models/abab", "promoted", {"threshold": 0.4, "auc": None, "x": float("nan")},
              "run-1")  # fmt: skip


@pytest.fixture
def server() -> Iterator[ModelRegistry]:
    with model_registry() as state:
        yield state


def test_a_model_is_registered_once(server: ModelRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EOLGUL_MODEL_REGISTRY_TOKEN", "hush")
    assert register(f"{server.address}/", "faces", ENTRY) == "was registered as faces abababababababab with 127.0.0.1"
    assert register(server.address, "faces", ENTRY) == "is registered as faces abababababababab with 127.0.0.1"
    (named,) = server.kept["registered_models"]
    (version,) = server.kept[f"registered_models/{named['id']}/versions"]
    assert version["customProperties"] == {
        "digest": {"metadataType": "MetadataStringValue", "string_value": "ab" * 32},
        "threshold": {"metadataType": "MetadataDoubleValue", "double_value": 0.4},
    }
    (artifact,) = server.kept[f"model_versions/{version['id']}/artifacts"]
    assert (artifact["uri"], artifact["modelFormatName"], artifact["modelSourceId"]) == (ENTRY.place, "onnx", "run-1")
    assert set(server.tokens) == {"Bearer hush"}

    register(server.address, "faces", Entry("cd" * 32, "s3://eolgul/registry/models/cdcd"))
    assert len(server.kept["registered_models"]) == 1
    assert len(server.kept[f"registered_models/{named['id']}/versions"]) == 2


def test_another_writer_may_be_first(server: ModelRegistry) -> None:
    register(server.address, "faces", ENTRY)
    server.blind = 1  # the model is made between the look and the attempt to make it
    assert register(server.address, "faces", ENTRY).startswith("is registered")
    assert [len(items) for items in server.kept.values()] == [1, 1, 1]


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ((401, '{"message": "who are you"}'), "answers 401 to registered_model: who are you"),
        ((500, '{"code": "500", "message": "no database"}'), "answers 500 to registered_model: no database"),
        ((200, "<html>log in</html>"), "the answer is not one of its API v1alpha3"),
        ((302, ""), "answers 302 to registered_model"),
        ((404, "nothing here"), "answers 404 to registered_model"),
        ("hang", "no answer within 0.3 s"),
    ],
)
def test_a_refusal_is_a_sentence(server: ModelRegistry, answer: tuple[int, str] | str, says: str) -> None:
    server.answer = answer
    with pytest.raises(InputError, match=f"^Model Registry at 127.0.0.1: {says}"):
        register(server.address, "faces", ENTRY, limit=0.3)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"model_registry": "model-registry:8080"}, "model_registry 'model-registry:8080': expected an address"),
        ({"model_registry": "http://x", "registered_as": "얼굴"}, "registered_as '얼굴': expected letters"),
    ],
)
def test_a_wrong_option_is_refused_before_anything(options: dict[str, str], says: str) -> None:
    with pytest.raises(InputError, match=f"^{says}"):
        PromoteConfig(**options)  # type: ignore[arg-type]


def test_what_is_promoted_is_registered_and_a_repeated_task_makes_up_for_a_failure(
    server: ModelRegistry, tmp_path: Path
) -> None:
    registry, config = str(tmp_path / "registry"), PromoteConfig(model_registry=server.address)
    first, measured = model(tmp_path / "a", 1), evaluation(tmp_path / "ea", tmp_path / "a", fnmr=0.2)
    server.answer = (503, "{}")
    with pytest.raises(InputError, match="answers 503"):
        steps.promote(str(first), str(measured), registry, config)
    production = read_production(registry)
    assert production is not None  # in production, and the task's next attempt registers it
    server.answer = None
    made = steps.promote(str(first), str(measured), registry, config, run="run-2")
    assert made["promoted"] and made["registered"] in figures.decision(made)
    (named,) = server.kept["registered_models"]
    (version,) = server.kept[f"registered_models/{named['id']}/versions"]
    assert named["name"] == "eolgul" and production.digest.startswith(version["name"])
    assert {"digest", "threshold", "held_out_fnmr"} <= version["customProperties"].keys()

    worse = evaluation(tmp_path / "eb", model(tmp_path / "b", 2), fnmr=0.3)
    made = steps.promote(str(tmp_path / "b"), str(worse), registry, config)
    assert not made["promoted"] and "registered" not in made
    assert len(server.kept[f"registered_models/{named['id']}/versions"]) == 1

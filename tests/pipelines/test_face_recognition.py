"""The compiled pipeline, its parameters, and the thin shells it is made of."""

from __future__ import annotations

import importlib
import inspect
import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.compiled import PREFIX, STEPS, containers, documents, graphs
from support.places import ROOT

from eolgul.errors import InputError
from eolgul.pipelines import arguments, pods
from eolgul.pipelines.compiled import compile_to
from eolgul.pipelines.compiled import compiled as compiled_now
from eolgul.pipelines.images import resolve_images
from eolgul.steps import checks
from eolgul.train.recipe import Recipe


@pytest.fixture(autouse=True)
def registry_of_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EOLGUL_IMAGES", raising=False)
    monkeypatch.setenv("EOLGUL_IMAGE_PREFIX", PREFIX)


@pytest.fixture
def compiled() -> tuple[dict[str, Any], dict[str, Any]]:
    return documents("face-recognition")


def test_the_steps_in_order_and_a_check_before_them(compiled: tuple[dict[str, Any], dict[str, Any]]) -> None:
    tasks = compiled[0]["root"]["dag"]["tasks"]
    order = ("check", "extract", "align", "assemble", "candidates", "promote")
    assert set(tasks) == {*order, "importer"}
    for before, after in itertools.pairwise(order):
        assert before in tasks[after]["dependentTasks"], after


def test_parts_and_candidates_are_loops(compiled: tuple[dict[str, Any], dict[str, Any]]) -> None:
    components, root = compiled[0]["components"], compiled[0]["root"]["dag"]["tasks"]
    for pipeline, inside in (
        ("extract", ["extract-part"]),
        ("align", ["align-part"]),
        ("candidates", ["evaluate", "importer", "importer-2", "train"]),
    ):
        tasks = components[root[pipeline]["componentRef"]["name"]]["dag"]["tasks"]
        (loop,) = (name for name, task in tasks.items() if "parameterIterator" in task)
        assert sorted(components[tasks[loop]["componentRef"]["name"]]["dag"]["tasks"]) == inside
        # KFP's local runner gives the loop's item to every input that another task of the same pipeline makes.
        made = [name for name, given in tasks[loop]["inputs"]["parameters"].items() if "taskOutputParameter" in given]
        assert made == (["pipelinechannel--align-plan-Output"] if pipeline == "align" else [])
    parameters = compiled[0]["root"]["inputDefinitions"]["parameters"]
    assert parameters["align_parts"]["defaultValue"] == 2
    assert parameters["extract_parts"]["defaultValue"] == 1
    assert parameters["train_recipes"]["defaultValue"] == ["irse50-ms1m-kface", "mobilefacenet-ms1m-kface"]


def test_training_has_memory_for_the_batches_of_every_recipe(compiled: tuple[dict[str, Any], dict[str, Any]]) -> None:
    platform = compiled[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    shm = next(one for one in platform["exec-train"]["emptyDirMounts"] if one["mountPath"] == "/dev/shm")
    assert shm["medium"] == "Memory"
    for file in (ROOT / "src" / "eolgul" / "train" / "recipes").glob("*.toml"):
        assert checks.shared_memory_of(Recipe.load(file.stem), workers=8) <= pods.size_bytes(shm["sizeLimit"]), (
            file.stem
        )


def test_what_the_page_shows(compiled: tuple[dict[str, Any], dict[str, Any]]) -> None:
    spec = compiled[0]
    names = [task["taskInfo"]["name"] for graph in graphs(spec) for name, task in graph.items() if "loop" not in name]
    assert {"Train", "Evaluate", "Choose the winner", "Promote", "Model"} <= set(names)
    artifacts = [
        name
        for one in spec["components"].values()
        if "executorLabel" in one
        for name in one.get("outputDefinitions", {}).get("artifacts", {})
        if name != "artifact"  # of an importer
    ]
    assert len(artifacts) >= 10
    kinds = {
        item["artifactType"]["schemaTitle"]
        for one in spec["components"].values()
        for item in one.get("outputDefinitions", {}).get("artifacts", {}).values()
    }
    assert kinds >= {"system.Dataset", "system.Model", "system.ClassificationMetrics", "system.Markdown", "system.HTML"}


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("EOLGUL_POD_SHM", "8GB", "EOLGUL_POD_SHM '8GB': expected a size such as 16Gi"),
        ("EOLGUL_POD_RETRIES", "-1", "EOLGUL_POD_RETRIES '-1': expected "),
        ("EOLGUL_POD_TIMEOUT_HOURS", "soon", "EOLGUL_POD_TIMEOUT_HOURS 'soon': expected "),
        ("EOLGUL_TRAIN_GPUS", "abc", "EOLGUL_TRAIN_GPUS 'abc': expected a number from 0 to 64"),
        ("EOLGUL_TRAIN_GPUS", "-1", "EOLGUL_TRAIN_GPUS '-1': expected a number from 0 to 64"),
    ],
)
def test_a_wrong_setting_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, value: str, says: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=f"^{says}"):
        compile_to(tmp_path / "p.yaml")


def test_settings_reach_the_compiled_pods(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"SHM": "64Gi", "SCRATCH": "1Ti", "RETRIES": "0", "TIMEOUT_HOURS": "2",
                        "TRAIN_TIMEOUT_HOURS": "5", "PULL_SECRET": "registry"}.items():  # fmt: skip
        monkeypatch.setenv(f"EOLGUL_POD_{name}", value)
    monkeypatch.setenv("EOLGUL_TRAIN_GPUS", "0")
    spec, platform = compiled_now()
    assert "retryPolicy" not in json.dumps(spec) and "accelerator" not in json.dumps(spec)
    executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert [one["sizeLimit"] for one in executors["exec-train"]["emptyDirMounts"]] == ["1Ti", "64Gi"]
    assert (executors["exec-train"]["activeDeadlineSeconds"], executors["exec-align"]["activeDeadlineSeconds"]) == (
        "18000",
        "7200",
    )
    assert all(one["imagePullSecret"][0]["secretName"] == "registry" for one in executors.values())
    told = next(item for item in containers(spec)["exec-check"]["env"] if item["name"] == "EOLGUL_POD_LIMITS")
    assert json.loads(told["value"]) == {"shm": 64 << 30, "scratch": 1 << 40}


@pytest.mark.parametrize("step", STEPS)
def test_a_component_is_a_thin_shell_whose_docstring_names_everything(step: str) -> None:
    module = importlib.import_module(f"eolgul.components.{step}.component")
    source = inspect.getsource(module)
    assert len(source.splitlines()) < 100
    component = getattr(module, step)
    text = inspect.getdoc(component.python_func) or ""
    for name in inspect.signature(component.python_func).parameters:
        assert f"{name}:" in text, f"{step}: the docstring does not name {name}"


@pytest.mark.parametrize("name", ["align_plan", "align_part", "extract_part"])
def test_what_runs_in_the_loop_says_what_it_takes(name: str) -> None:
    step = name.partition("_")[0]
    function = getattr(importlib.import_module(f"eolgul.components.{step}.part"), name).python_func
    for parameter in inspect.signature(function).parameters:
        assert f"{parameter}:" in (inspect.getdoc(function) or "")


@pytest.mark.process
@pytest.mark.parametrize("step", STEPS)
def test_a_component_compiles_by_itself(step: str, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", f"eolgul.components.{step}.component"], cwd=tmp_path, check=True,
                   env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)})  # fmt: skip
    assert (tmp_path / f"{step}.yaml").is_file()


def test_parameters_are_read_as_json_or_text() -> None:
    got = arguments.parameters(
        [
            "workspace=s3://b/runs/1",
            'sources=["a", "b"]',
            "evaluate_fmr=0.001",
            'train_recipes=["demo"]',
            "extract_selection=",
        ]
    )
    assert got == {
        "workspace": "s3://b/runs/1",
        "sources": ["a", "b"],
        "evaluate_fmr": 0.001,
        "train_recipes": ["demo"],
        "extract_selection": "",
    }


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["workspce=x"], "workspce"),
        (["workspace=w", "sources=/nope"], "JSON list"),
        (["workspace=w", "evaluate_fmr=tiny"], "a number"),
        (["evaluate_fmr"], "name=value"),
    ],
)
def test_unknown_parameters_are_refused(words: list[str], says: str) -> None:
    with pytest.raises(InputError, match=says):
        arguments.parameters(words)


@pytest.mark.process
def test_a_failing_step_fails_the_command_with_its_sentence(tmp_path: Path) -> None:
    words = {"workspace": str(tmp_path / "w"), "sources": json.dumps([str(tmp_path / "nowhere")]), "benchmarks": "[]"}
    argv = [word for name, value in words.items() for word in ("--param", f"{name}={value}")]
    done = subprocess.run([sys.executable, "-m", "eolgul", "pipeline", "run", "--root", str(tmp_path / "kfp"), *argv],
                          cwd=ROOT, capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 2 and done.stdout == ""
    last = done.stderr.splitlines()[-1]
    assert last.startswith("eolgul: check: ") and last.endswith("nowhere: nothing there")
    assert "\x1b" not in done.stderr
    assert not (tmp_path / "w" / "artifacts").exists()


def test_what_kubeflow_does_not_take_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected a file name that ends in \.yaml"):
        compile_to(tmp_path / "pipeline.txt")


def test_no_registry_of_images_no_pipeline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An image named `eolgul/train` would be Docker Hub's, whoever owns that name there."""
    monkeypatch.delenv("EOLGUL_IMAGE_PREFIX")
    with pytest.raises(InputError, match="EOLGUL_IMAGE_PREFIX is not set: expected the registry of your images"):
        compile_to(tmp_path / "p.yaml")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "prefix",
    ["eolgul", "eolgul/", "someone/eolgul", "registry.example/eolgul/", "https://registry.example/x", "a.b/ c"],
)
def test_a_prefix_is_a_registry_of_ones_own(prefix: str) -> None:
    with pytest.raises(InputError, match=r"EOLGUL_IMAGE_PREFIX .*: expected host\[:port\]/folder"):
        resolve_images({"EOLGUL_IMAGE_PREFIX": prefix})


@pytest.mark.parametrize("prefix", ["docker.io/me", "localhost:5000/x", "registry:5000", "ghcr.io/a/b"])
def test_registries_that_are_taken(prefix: str) -> None:
    assert resolve_images({"EOLGUL_IMAGE_PREFIX": prefix, "EOLGUL_IMAGE_TAG": "t1"})["train"] == f"{prefix}/train:t1"
    with pytest.raises(InputError, match="EOLGUL_IMAGE_TAG 'a b'"):
        resolve_images({"EOLGUL_IMAGE_PREFIX": prefix, "EOLGUL_IMAGE_TAG": "a b"})


def test_images_by_digest_come_from_the_file_of_a_push(tmp_path: Path) -> None:
    pushed = {step: f"registry.example/eolgul/{step}@sha256:{'ab' * 32}" for step in STEPS}
    file = tmp_path / "images.json"
    file.write_text(json.dumps(pushed))
    assert resolve_images({"EOLGUL_IMAGES": str(file), "EOLGUL_IMAGE_PREFIX": "unused"}) == pushed
    for wrong, says in (
        (
            {**pushed, "train": "registry.example/eolgul/train:latest"},
            "train is 'registry.example/eolgul/train:latest'",
        ),
        ({**pushed, "train": f"eolgul/train@sha256:{'ab' * 32}"}, "train is 'eolgul/train@"),
        ({"train": pushed["train"]}, "one image for each of"),
        ([], "one image for each of"),
    ):
        file.write_text(json.dumps(wrong))
        with pytest.raises(InputError, match=says):
            resolve_images({"EOLGUL_IMAGES": str(file)})

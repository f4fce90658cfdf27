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
import yaml
from support.places import ROOT

from eolgul.errors import InputError
from eolgul.pipelines import arguments
from eolgul.pipelines.compiled import compile_to
from eolgul.pipelines.images import resolve_images

STEPS = ("extract", "align", "assemble", "train", "evaluate", "promote")


def step_of(executor: str) -> str:
    """The step that an executor belongs to: alignment has three."""
    return executor.removeprefix("exec-").partition("-")[0]


PREFIX = "registry.example/eolgul"


@pytest.fixture(autouse=True)
def registry_of_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EOLGUL_IMAGES", raising=False)
    monkeypatch.setenv("EOLGUL_IMAGE_PREFIX", PREFIX)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Any]]:
    path = tmp_path_factory.mktemp("pipeline") / "face-recognition.yaml"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EOLGUL_IMAGE_PREFIX", PREFIX)
        compile_to(path)
    spec, platform = yaml.safe_load_all(path.read_text())
    return spec, platform


def test_the_six_steps_in_order(compiled: tuple[dict[str, Any], dict[str, Any]]) -> None:
    tasks = compiled[0]["root"]["dag"]["tasks"]
    assert set(tasks) == set(STEPS)
    for before, after in itertools.pairwise(STEPS):
        assert before in tasks[after]["dependentTasks"]


def test_each_step_runs_in_its_own_image_and_installs_nothing(compiled: tuple[dict[str, Any], dict[str, Any]]) -> None:
    for name, executor in compiled[0]["deploymentSpec"]["executors"].items():
        step = step_of(name)
        assert executor["container"]["image"].startswith(f"{PREFIX}/{step}:")
        assert "pip install" not in json.dumps(executor["container"]["command"])
        assert (ROOT / "docker" / f"{step}.Dockerfile").is_file()


def test_each_step_gets_the_address_and_the_keys_of_s3(compiled: tuple[dict[str, Any], dict[str, Any]]) -> None:
    executors = compiled[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert set(executors) == set(compiled[0]["deploymentSpec"]["executors"])
    assert {step_of(name) for name in executors} == set(STEPS)
    for executor in executors.values():
        names = {
            item["envVar"]
            for part in ("configMapAsEnv", "secretAsEnv")
            for one in executor[part]
            for item in one["keyToEnv"]
        }
        assert {"EOLGUL_S3_ENDPOINT", "EOLGUL_S3_ACCESS_KEY", "EOLGUL_S3_SECRET_KEY"} <= names


def test_kfps_own_cache_is_off(compiled: tuple[dict[str, Any], dict[str, Any]]) -> None:
    """It knows places, not what lies there: with it, new photos at an old address would be skipped."""
    graphs = [compiled[0]["root"], *(one for one in compiled[0]["components"].values() if "dag" in one)]
    tasks = [task for graph in graphs for task in graph["dag"]["tasks"].values()]
    assert len(tasks) >= 10  # six steps, and what alignment is made of
    assert not any(task.get("cachingOptions", {}).get("enableCache", False) for task in tasks)


def test_alignment_is_a_loop_over_parts_and_their_merge(compiled: tuple[dict[str, Any], dict[str, Any]]) -> None:
    spec = compiled[0]
    tasks = spec["components"][spec["root"]["dag"]["tasks"]["align"]["componentRef"]["name"]]["dag"]["tasks"]
    (loop,) = (name for name, task in tasks.items() if "parameterIterator" in task)
    assert tasks[loop]["dependentTasks"] == ["align-plan"]
    assert loop in tasks["align"]["dependentTasks"]
    assert spec["root"]["inputDefinitions"]["parameters"]["align_parts"]["defaultValue"] == 2


def test_training_asks_for_a_gpu_and_nobody_else_does(compiled: tuple[dict[str, Any], dict[str, Any]]) -> None:
    for name, executor in compiled[0]["deploymentSpec"]["executors"].items():
        assert ("accelerator" in executor["container"].get("resources", {})) == (name == "exec-train")


def test_no_secret_is_in_the_compiled_file(
    compiled: tuple[dict[str, Any], dict[str, Any]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("EOLGUL_S3_SECRET_KEY", "hush-hush")
    compile_to(tmp_path / "p.yaml")
    assert "hush-hush" not in (tmp_path / "p.yaml").read_text()


@pytest.mark.parametrize("step", STEPS)
def test_a_component_is_a_thin_shell_whose_docstring_names_everything(step: str) -> None:
    module = importlib.import_module(f"eolgul.components.{step}.component")
    source = inspect.getsource(module)
    assert len(source.splitlines()) < 100
    component = getattr(module, step)
    text = inspect.getdoc(component.python_func) or ""
    for name in inspect.signature(component.python_func).parameters:
        assert f"{name}:" in text, f"{step}: the docstring does not name {name}"


@pytest.mark.parametrize("name", ["align_plan", "align_part"])
def test_what_runs_in_the_loop_says_what_it_takes(name: str) -> None:
    function = getattr(importlib.import_module("eolgul.components.align.part"), name).python_func
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
            "train_recipe=demo",
            "extract_selection=",
        ]
    )
    assert got == {
        "workspace": "s3://b/runs/1",
        "sources": ["a", "b"],
        "evaluate_fmr": 0.001,
        "train_recipe": "demo",
        "extract_selection": "",
    }


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["workspce=x"], "workspce"),
        (["workspace=w", "sources=/nope"], "JSON list"),
        (["workspace=w", "evaluate_fmr=tiny"], "a number"),
        (["evaluate_fmr"], "name=value"),
        (["evaluate_fmr=1"], "workspace is missing"),
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
    assert last.startswith("eolgul: extract: ") and last.endswith("nowhere: no such file or folder")
    assert "\x1b" not in done.stderr
    assert not (tmp_path / "w" / "aligned").exists()


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

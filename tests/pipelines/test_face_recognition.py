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

from eolgul.components.promote.check import check
from eolgul.errors import InputError
from eolgul.pipelines import arguments, pods
from eolgul.pipelines.compiled import compile_to
from eolgul.pipelines.compiled import compiled as compiled_now
from eolgul.pipelines.face_recognition import face_recognition
from eolgul.pipelines.images import resolve_images
from eolgul.steps import checks
from eolgul.train.recipe import Recipe

STEPS = ("extract", "align", "assemble", "train", "evaluate", "promote")


# Whose image a task runs in, where it is not the one of its own name.
IMAGES = {"align-plan": "align", "align-part": "align", "choose": "evaluate", "check": "promote"}


def step_of(executor: str) -> str:
    """The step whose image an executor has."""
    name = executor.removeprefix("exec-")
    return IMAGES.get(name, name)


def containers(spec: dict[str, Any]) -> dict[str, Any]:
    """The executors that are pods of ours, by name: importers are not."""
    executors = spec["deploymentSpec"]["executors"]
    return {name: one["container"] for name, one in executors.items() if "container" in one}


def graphs(spec: dict[str, Any]) -> list[dict[str, Any]]:
    """The tasks of the root and of the loops."""
    return [spec["root"]["dag"]["tasks"], *(one["dag"]["tasks"] for one in spec["components"].values() if "dag" in one)]


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


def test_the_steps_in_order_and_a_check_before_them(compiled: tuple[dict[str, Any], dict[str, Any]]) -> None:
    tasks = compiled[0]["root"]["dag"]["tasks"]
    order = ("check", "extract", "align", "assemble", "candidates", "promote")
    assert set(tasks) == {*order, "importer"}
    for before, after in itertools.pairwise(order):
        assert before in tasks[after]["dependentTasks"], after


def test_each_task_runs_in_its_steps_image_and_installs_nothing(
    compiled: tuple[dict[str, Any], dict[str, Any]],
) -> None:
    for name, container in containers(compiled[0]).items():
        step = step_of(name)
        assert container["image"].startswith(f"{PREFIX}/{step}:")
        assert "pip install" not in json.dumps(container["command"])
        assert (ROOT / "docker" / f"{step}.Dockerfile").is_file()
    assert "eolgul.invalid" not in json.dumps(compiled[0])


def test_each_pod_gets_the_address_and_the_keys_of_s3(compiled: tuple[dict[str, Any], dict[str, Any]]) -> None:
    executors = compiled[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert set(executors) == set(containers(compiled[0]))
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
    tasks = [task for graph in graphs(compiled[0]) for task in graph.values()]
    assert len(tasks) >= 14
    assert not any(task.get("cachingOptions", {}).get("enableCache", False) for task in tasks)


def test_parts_and_candidates_are_loops(compiled: tuple[dict[str, Any], dict[str, Any]]) -> None:
    components, root = compiled[0]["components"], compiled[0]["root"]["dag"]["tasks"]
    for pipeline, inside in (
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
    assert parameters["train_recipes"]["defaultValue"] == ["irse50-ms1m-kface", "mobilefacenet-ms1m-kface"]


def test_each_pod_asks_for_what_it_needs(compiled: tuple[dict[str, Any], dict[str, Any]]) -> None:
    """Requests equal limits, from parameters of the run; memory for workers; a place for copies; an end."""
    platform = compiled[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    for name, container in containers(compiled[0]).items():
        asked, pod = container["resources"], platform[name]
        kind = {"exec-train": "train", "exec-evaluate": "evaluate", "exec-choose": "evaluate"}.get(name, "data")
        for what, unit in (("Cpu", "cpu"), ("Memory", "memory")):
            value = f"{{{{$.inputs.parameters['pipelinechannel--k8s_{kind}_{unit}']}}}}"
            assert asked[f"resource{what}Request"] == asked[f"resource{what}Limit"] == value, name
        assert ("accelerator" in asked) == (name == "exec-train")
        mounts = {mount["mountPath"]: mount for mount in pod["emptyDirMounts"]}
        assert mounts["/scratch"]["sizeLimit"] == "200Gi" and ("/dev/shm" in mounts) == (name == "exec-train")
        assert int(pod["activeDeadlineSeconds"]) == (240 if name == "exec-train" else 24) * 3600
        assert pod["securityContext"] == {"runAsNonRoot": True}
        nodes = pod["nodeSelector"]["nodeSelectorJson"]["componentInputParameter"]
        tolerations = [one["tolerationJson"]["componentInputParameter"] for one in pod["tolerations"]]
        gpu = ["k8s_gpu_tolerations"] if name == "exec-train" else []
        names = [one.removeprefix("pipelinechannel--") for one in (nodes, *tolerations)]
        assert names == ["k8s_node_selector", "k8s_tolerations", *gpu]
        environment = {item["name"]: item["value"] for item in container["env"]}
        assert environment["EOLGUL_S3_CACHE"].startswith("/scratch/") and environment["TMPDIR"] == "/scratch"
    shm = next(one for one in platform["exec-train"]["emptyDirMounts"] if one["mountPath"] == "/dev/shm")
    assert shm["medium"] == "Memory"
    for file in (ROOT / "src" / "eolgul" / "train" / "recipes").glob("*.toml"):
        assert checks.shared_memory_of(Recipe.load(file.stem), workers=8) <= pods.size_bytes(shm["sizeLimit"]), (
            file.stem
        )


def test_what_can_be_tried_again_is(compiled: tuple[dict[str, Any], dict[str, Any]]) -> None:
    once = {"check", "align-plan"}  # which fail for a reason that stays
    for graph in graphs(compiled[0]):
        for name, task in graph.items():
            if name.startswith(("importer", "for-loop", "candidates")) or task["taskInfo"]["name"] == "Align":
                continue
            assert ("retryPolicy" not in task) == (name in once), name
            if name not in once:
                policy = task["retryPolicy"]
                assert policy["maxRetryCount"] == 3
                assert (policy["backoffDuration"], policy["backoffMaxDuration"]) == ("60s", "1800s")


def test_the_signing_key_is_mounted_where_the_namespace_has_one(
    compiled: tuple[dict[str, Any], dict[str, Any]],
) -> None:
    platform = compiled[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    for name, container in containers(compiled[0]).items():
        volumes = platform[name].get("secretAsVolume", [])
        if name not in ("exec-promote", "exec-check"):
            assert not volumes
            continue
        (volume,) = volumes
        assert (volume["secretName"], volume["optional"]) == ("eolgul-signing", True)
        environment = {item["name"]: item["value"] for item in container["env"]}
        assert environment["EOLGUL_SIGNING_FOLDER"] == volume["mountPath"]


def test_everything_on_the_page_has_a_name_and_a_word_of_help(compiled: tuple[dict[str, Any], dict[str, Any]]) -> None:
    spec = compiled[0]
    parameters = spec["root"]["inputDefinitions"]["parameters"]
    groups = ("extract_", "align_", "assemble_", "train_", "evaluate_", "promote_", "k8s_")
    assert {name for name in parameters if not name.startswith(groups)} == {
        "workspace", "sources", "benchmarks", "registry",
    }  # fmt: skip
    assert all(item.get("description") for item in parameters.values())
    assert all(item.get("isOptional") for item in parameters.values())  # a run can be started as it is
    names = [task["taskInfo"]["name"] for graph in graphs(spec) for name, task in graph.items() if "loop" not in name]
    assert len(names) == len(set(names)) and {"Train", "Evaluate", "Choose the winner", "Promote", "Model"} <= set(
        names
    )
    artifacts = [
        name
        for one in spec["components"].values()
        if "executorLabel" in one
        for name in one.get("outputDefinitions", {}).get("artifacts", {})
        if name != "artifact"  # of an importer
    ]
    assert len(artifacts) == len(set(artifacts)) >= 10
    kinds = {
        item["artifactType"]["schemaTitle"]
        for one in spec["components"].values()
        for item in one.get("outputDefinitions", {}).get("artifacts", {}).values()
    }
    assert kinds >= {"system.Dataset", "system.Model", "system.ClassificationMetrics", "system.Markdown", "system.HTML"}


def test_the_check_takes_every_parameter_of_the_steps() -> None:
    pipeline = face_recognition.component_spec.inputs
    taken = check.component_spec.inputs
    steps = ("extract_", "align_", "assemble_", "train_", "evaluate_", "promote_")
    assert {name for name in taken if name.startswith(steps)} == {name for name in pipeline if name.startswith(steps)}
    assert all(taken[name].type == pipeline[name].type for name in taken)


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

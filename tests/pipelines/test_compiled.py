"""Every compiled pipeline: images, pods, retries, secrets, names and help, with and without a report of the outcome."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2
from support.compiled import PREFIX, containers, documents, graphs, step_of
from support.places import ROOT

from eolgul.components.promote.check import check
from eolgul.errors import InputError
from eolgul.pipelines import arguments
from eolgul.pipelines.catalogue import DEFAULT, PIPELINES, declared, definition
from eolgul.pipelines.compiled import compile_to, compiled
from eolgul.pipelines.face_recognition import face_recognition
from eolgul.steps import plans

Documents = tuple[dict[str, Any], dict[str, Any]]
WEBHOOK = "eolgul-webhook"
KINDS = {
    "exec-train": "train",
    "exec-evaluate": "evaluate",
    "exec-choose": "evaluate",
    "exec-measure-others": "evaluate",
}
OWN = {
    "face-recognition": {"workspace", "sources", "benchmarks", "registry"},
    "evaluate-only": {"model", "benchmarks", "dataset", "workspace", "registry"},
    "retrain": {"dataset", "sources", "benchmarks", "workspace", "registry"},
    "promote": {"model", "evaluation", "dataset", "benchmarks", "workspace", "registry"},
    "roll-back": {"to", "reason", "workspace", "registry"},
}
REQUIRED = {"retrain": ["dataset", "sources"], "promote": ["model", "evaluation"]}
STEP_PREFIXES = ("extract_", "align_", "assemble_", "train_", "evaluate_", "promote_")


@pytest.fixture(params=[(name, secret) for name in PIPELINES for secret in ("", WEBHOOK)], ids="-".join)
def which(request: pytest.FixtureRequest) -> tuple[str, str]:
    """A pipeline, and the Secret of its webhook."""
    found: tuple[str, str] = request.param
    return found


@pytest.fixture
def both(which: tuple[str, str]) -> Documents:
    return documents(*which)


def executors_of(platform: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    return found


def test_kubeflow_can_read_it(both: Documents) -> None:
    """As the back end does: protojson that refuses unknown fields."""
    json_format.ParseDict(both[0], pipeline_spec_pb2.PipelineSpec())
    json_format.ParseDict(both[1], pipeline_spec_pb2.PlatformSpec())


def test_each_task_runs_in_its_steps_image_and_installs_nothing(both: Documents) -> None:
    for name, container in containers(both[0]).items():
        step = step_of(name)
        assert container["image"].startswith(f"{PREFIX}/{step}:")
        assert "pip install" not in json.dumps(container["command"])
        assert (ROOT / "docker" / f"{step}.Dockerfile").is_file()
    assert "eolgul.invalid" not in json.dumps(both[0])


def test_images_are_those_that_were_pushed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pushed = {step: f"registry.example/eolgul/{step}@sha256:{'ab' * 32}" for step in
              ("extract", "align", "assemble", "train", "evaluate", "promote")}  # fmt: skip
    (tmp_path / "images.json").write_text(json.dumps(pushed))
    monkeypatch.setenv("EOLGUL_IMAGES", str(tmp_path / "images.json"))
    for name in ("promote", "roll-back"):
        assert {one["image"] for one in containers(compiled(name)[0]).values()} <= set(pushed.values())


def test_each_pod_gets_the_address_and_the_keys_of_s3(both: Documents) -> None:
    executors = executors_of(both[1])
    assert set(executors) == set(containers(both[0]))
    for executor in executors.values():
        names = {
            item["envVar"]
            for part in ("configMapAsEnv", "secretAsEnv")
            for one in executor[part]
            for item in one["keyToEnv"]
        }
        assert {"EOLGUL_S3_ENDPOINT", "EOLGUL_S3_ACCESS_KEY", "EOLGUL_S3_SECRET_KEY"} <= names


def test_kfps_own_cache_is_off(both: Documents) -> None:
    """It knows places, not what lies there: with it, new photos at an old address would be skipped."""
    tasks = [task for graph in graphs(both[0]) for task in graph.values()]
    assert tasks and not any(task.get("cachingOptions", {}).get("enableCache", False) for task in tasks)


def test_each_pod_asks_for_what_it_needs(both: Documents) -> None:
    """Requests equal limits, from parameters of the run; memory for workers; a place for copies; an end."""
    platform = executors_of(both[1])
    for name, container in containers(both[0]).items():
        asked, pod = container["resources"], platform[name]
        for what, unit in (("Cpu", "cpu"), ("Memory", "memory")):
            value = f"{{{{$.inputs.parameters['pipelinechannel--k8s_{KINDS.get(name, 'data')}_{unit}']}}}}"
            assert asked[f"resource{what}Request"] == asked[f"resource{what}Limit"] == value, name
        gpus = {"resourceType": "k8s_gpu_type", "resourceCount": "pod_gpus"} if name == "exec-train" else {}
        assert asked.get("accelerator", {}) == {
            key: f"{{{{$.inputs.parameters['pipelinechannel--{value}']}}}}" for key, value in gpus.items()
        }
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


def test_what_a_task_takes_is_there_where_it_runs(both: Documents) -> None:
    """As the back end's driver resolves it: from the graph that a task is in, which has what was passed to it.

    Resources are read as text: the driver takes a number for "", and the pod would get no GPU.
    """
    spec, platform = both
    graphs_of = {"root": spec["root"], **{name: one for name, one in spec["components"].items() if "dag" in one}}
    for place, graph in graphs_of.items():
        known = graph.get("inputDefinitions", {}).get("parameters", {})
        for name, task in graph["dag"]["tasks"].items():
            where, component = f"{place}/{name}", spec["components"][task["componentRef"]["name"]]
            passed = task.get("inputs", {}).get("parameters", {})
            own = set(component.get("inputDefinitions", {}).get("parameters", {}))
            for item in passed.values():
                source = item.get("componentInputParameter")
                # A loop makes its item's name itself, from the list that it goes through.
                assert source is None or source in known or source.endswith("-loop-item"), (where, source)
            iterated = task.get("parameterIterator", {}).get("itemInput")
            if "dag" in component:
                needed = {key for key, one in component["inputDefinitions"]["parameters"].items()
                          if not one.get("isOptional") and key != iterated}  # fmt: skip
                assert needed <= set(passed), (where, needed - set(passed))
                continue
            label = component["executorLabel"]
            container = spec["deploymentSpec"]["executors"][label].get("container", {})
            for said in re.findall(r"inputs\.parameters\['(.+?)'\]", json.dumps(container.get("resources", {}))):
                assert said in passed and said not in own, (where, said)
                assert _type_of(passed[said], graph, spec) == "STRING", (where, said)
            pod = json.dumps(executors_of(platform).get(label, {}))
            for said in re.findall(r'"componentInputParameter": "(.+?)"', pod):
                assert said in known, (where, said)


def _type_of(given: dict[str, Any], graph: dict[str, Any], spec: dict[str, Any]) -> str:
    """The type of what a task is given."""
    if "componentInputParameter" in given:
        return str(graph["inputDefinitions"]["parameters"][given["componentInputParameter"]]["parameterType"])
    made = given["taskOutputParameter"]
    component = spec["components"][graph["dag"]["tasks"][made["producerTask"]]["componentRef"]["name"]]
    return str(component["outputDefinitions"]["parameters"][made["outputParameterKey"]]["parameterType"])


def test_the_check_says_how_many_gpus_a_training_pod_asks_for(which: tuple[str, str], both: Documents) -> None:
    """None where the pod only follows the machines of a TrainJob."""
    training = [graph["candidates"] for graph in graphs(both[0]) if "candidates" in graph]
    assert bool(training) == (which[0] in ("face-recognition", "retrain"))
    for task in training:
        given = task["inputs"]["parameters"]["pod_gpus"]
        assert given == {"taskOutputParameter": {"outputParameterKey": "pod_gpus", "producerTask": "check"}}


def test_what_can_be_tried_again_is(both: Documents) -> None:
    once = {"check", "align-plan", "notify"}  # which fail for a reason that stays, or never
    for graph in graphs(both[0]):
        for name, task in graph.items():
            if name.startswith(("importer", "for-loop", "candidates", "exit-handler")) or task["taskInfo"]["name"] in (
                "Extract",
                "Align",
            ):
                continue
            assert ("retryPolicy" not in task) == (name in once), name
            if name not in once:
                policy = task["retryPolicy"]
                assert policy["maxRetryCount"] == 3
                assert (policy["backoffDuration"], policy["backoffMaxDuration"]) == ("60s", "1800s")


def test_the_signing_key_is_mounted_where_the_namespace_has_one(both: Documents) -> None:
    platform = executors_of(both[1])
    for name, container in containers(both[0]).items():
        volumes = platform[name].get("secretAsVolume", [])
        if name not in ("exec-promote", "exec-check", "exec-roll-back"):
            assert not volumes
            continue
        (volume,) = volumes
        assert (volume["secretName"], volume["optional"]) == ("eolgul-signing", True)
        environment = {item["name"]: item["value"] for item in container["env"]}
        assert environment["EOLGUL_SIGNING_FOLDER"] == volume["mountPath"]


def test_everything_on_the_page_has_a_name_and_a_word_of_help(which: tuple[str, str], both: Documents) -> None:
    spec = both[0]
    parameters = spec["root"]["inputDefinitions"]["parameters"]
    assert {name for name in parameters if not name.startswith((*STEP_PREFIXES, "k8s_"))} == OWN[which[0]]
    assert all(item.get("description") for item in parameters.values())
    assert spec["pipelineInfo"]["displayName"] == definition(which[0]).title and spec["pipelineInfo"]["description"]
    # The order of the declaration, which the text of the page follows where it can: required ones first.
    order = list(declared(which[0]).component_spec.inputs)
    required = [name for name in order if not parameters[name].get("isOptional")]
    assert required == REQUIRED.get(which[0], []) == order[: len(required)]
    groups = [name.partition("_")[0] for name in order if name not in OWN[which[0]]]
    firsts = list(dict.fromkeys(groups))
    assert firsts.index("k8s") == len(firsts) - 1
    names = [task["taskInfo"]["name"] for graph in graphs(spec) for name, task in graph.items() if "loop" not in name]
    assert len(names) == len(set(names))
    artifacts = [
        name
        for one in spec["components"].values()
        if "executorLabel" in one
        for name in one.get("outputDefinitions", {}).get("artifacts", {})
        if name != "artifact"  # of an importer
    ]
    assert len(artifacts) == len(set(artifacts))


def test_an_inherited_parameter_is_that_of_face_recognition(which: tuple[str, str]) -> None:
    base, own = face_recognition.component_spec.inputs, declared(which[0]).component_spec.inputs
    other = {"train_recipes", "train_init"} if which[0] == "retrain" else set()
    for name, item in own.items():
        if name.startswith((*STEP_PREFIXES, "k8s_")) and name != "evaluate_contract":
            assert item.type == base[name].type
            if name not in other:
                assert item.default == base[name].default
                assert str(item.description).split() == str(base[name].description).split()


def test_the_check_takes_every_parameter_of_the_steps(which: tuple[str, str]) -> None:
    given = declared(which[0]).component_spec.inputs
    taken = check.component_spec.inputs
    wanted = {name for name in given if name.startswith(STEP_PREFIXES)}
    assert wanted <= set(taken)
    (task,) = (task for graph in graphs(documents(*which)[0]) for name, task in graph.items() if name == "check")
    passed = task["inputs"]["parameters"]
    assert {name for name in passed if name.startswith(STEP_PREFIXES)} == wanted
    assert OWN[which[0]] - {"reason"} <= set(passed) and "run" in passed
    assert passed["pipeline"]["runtimeValue"]["constant"] == which[0]
    base = face_recognition.component_spec.inputs
    for name in wanted & set(base):
        assert (taken[name].type, taken[name].default) == (base[name].type, base[name].default)
    assert set(plans._PLANS) == set(PIPELINES)


def test_the_first_task_is_the_check_and_no_other_begins_before_its_end(both: Documents) -> None:
    for graph in graphs(both[0]):
        if "check" in graph:
            firsts = {name for name, task in graph.items() if not task.get("dependentTasks")}
            assert firsts == {"check"}


@pytest.mark.parametrize("name", PIPELINES)
def test_no_secret_is_in_the_compiled_file(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EOLGUL_IMAGE_PREFIX", PREFIX)
    monkeypatch.setenv("EOLGUL_S3_SECRET_KEY", "hush-hush")
    monkeypatch.setenv("EOLGUL_WEBHOOK_URL", "https://hush-hush")
    compile_to(tmp_path / "p.yaml", name)
    assert "hush-hush" not in (tmp_path / "p.yaml").read_text()


def test_the_outcome_is_reported_where_a_secret_is_named(which: tuple[str, str], both: Documents) -> None:
    spec, platform = both
    root = spec["root"]["dag"]["tasks"]
    if not which[1]:
        assert "notify" not in root and "exit-handler-1" not in root
        assert WEBHOOK not in json.dumps(both)
        return
    assert set(root) == {"exit-handler-1", "notify"}
    exit_task = root["notify"]
    assert exit_task["triggerPolicy"]["strategy"] == "ALL_UPSTREAM_TASKS_COMPLETED"
    assert exit_task["inputs"]["parameters"]["status"]["taskFinalStatus"]["producerTask"] == "exit-handler-1"
    flat = documents(which[0])[0]["root"]["dag"]["tasks"]
    assert set(spec["components"]["comp-exit-handler-1"]["dag"]["tasks"]) == set(flat)
    asking = {name for name, pod in executors_of(platform).items() if WEBHOOK in json.dumps(pod)}
    assert asking == {"exec-notify"}
    (secret,) = (one for one in executors_of(platform)["exec-notify"]["secretAsEnv"] if one["secretName"] == WEBHOOK)
    assert secret["optional"] is True
    assert [item["envVar"] for item in secret["keyToEnv"]] == [
        "EOLGUL_WEBHOOK_URL", "EOLGUL_WEBHOOK_TOKEN", "EOLGUL_WEBHOOK_KEY",
    ]  # fmt: skip


def test_a_wrong_name_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EOLGUL_IMAGE_PREFIX", PREFIX)
    names = re.escape(", ".join(PIPELINES))
    for attempt in (lambda: compiled("retain"), lambda: arguments.parameters([], "retain")):
        with pytest.raises(InputError, match=f"^pipeline 'retain': expected one of {names}$"):
            attempt()
    monkeypatch.setenv("EOLGUL_POD_WEBHOOK_SECRET", "Not A Name")
    with pytest.raises(InputError, match="EOLGUL_POD_WEBHOOK_SECRET 'Not A Name': expected the name of a Secret"):
        compiled("roll-back")


def test_a_missing_parameter_is_named_before_anything_is_sent() -> None:
    with pytest.raises(InputError, match=r"^pipeline promote: expected --param model=… \(The ModelPackage"):
        arguments.parameters([], "promote")
    assert arguments.parameters(["model=m", "evaluation=e"], "promote") == {"model": "m", "evaluation": "e"}
    with pytest.raises(InputError, match="parameter 'train_recipes="):
        arguments.parameters(["model=m", "evaluation=e", "train_recipes=[]"], "promote")
    with pytest.raises(InputError, match="parameter to: is given twice"):
        arguments.parameters(["to=a", "to=b"], "roll-back")
    assert arguments.parameters([], DEFAULT) == {}


def test_make_and_the_documentation_name_every_pipeline() -> None:
    (names,) = re.findall(
        r"^\t@for name in ([a-z -]+); do \\$\n.*pipeline compile", (ROOT / "Makefile").read_text(), re.M
    )
    assert names.split() == list(PIPELINES)
    text = (ROOT / "docs" / "kubeflow.md").read_text()
    table = text[text.index("## The pipelines") :].partition("\n\n- ")[0]
    assert re.findall(r"^\| `([a-z][a-z-]+)`", table, re.M) == list(PIPELINES)
    for name in PIPELINES:
        row = next(line for line in table.splitlines() if line.startswith(f"| `{name}`"))
        assert re.findall(r"`(\w+)`", row.split("|")[3]) == REQUIRED.get(name, [])

"""Run a Kubeflow component's function as its container does, and check what Kubeflow's launcher checks afterwards."""

from __future__ import annotations

import inspect
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kfp.dsl.executor import Executor

_OF_METADATA = ("system.Metrics", "system.ClassificationMetrics")  # which need no file


@dataclass(frozen=True)
class Ran:
    """What a component left: its output parameters, and file and metadata of each output artifact."""

    outputs: dict[str, Any]
    files: dict[str, Path]
    metadata: dict[str, dict[str, Any]]


def told_of(component: Any, folder: Path, **given: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """What Kubeflow's launcher tells a component ({{$}} of its command), and in it the output parameters and artifacts."""
    folder.mkdir(parents=True, exist_ok=True)
    spec = component.component_spec
    parameters, artifacts = {}, {}
    for name, output in (spec.outputs or {}).items():
        if output.type.startswith("system."):
            title = output.type.partition("@")[0]
            entry = {"name": name, "type": {"schemaTitle": title}, "uri": str(folder / name), "metadata": {}}
            artifacts[name] = {"artifacts": [entry]}
        else:
            parameters[name] = {"outputFile": str(folder / f"{name}.value")}
    defaults = {name: item.default for name, item in (spec.inputs or {}).items() if item.optional}
    told = {
        "inputs": {"parameterValues": json.loads(json.dumps(defaults | given))},
        "outputs": {
            "parameters": parameters,
            "artifacts": artifacts,
            "outputFile": str(folder / "executor_output.json"),
        },
    }
    return told, parameters, artifacts


def run_component(component: Any, folder: Path, **given: Any) -> Ran:
    """Run a component with the defaults of what is not given.

    Args:
        component: As `@dsl.component` makes it.
        folder: Where its output artifacts go.
        given: Its parameters.

    Raises:
        AssertionError: Kubeflow's launcher would fail the finished task.
    """
    told, parameters, artifacts = told_of(component, folder, **given)
    spec = component.component_spec
    unknown = set(given) - set(inspect.signature(component.python_func).parameters)
    assert not unknown, f"{spec.name}: no parameter {unknown}"
    Executor(executor_input=told, function_to_execute=component.python_func).execute()
    written = json.loads((folder / "executor_output.json").read_text(), parse_constant=_not_json)
    found = written.get("parameterValues", {})
    assert found.keys() == parameters.keys(), f"{spec.name}: output parameters {set(found)}, declared {set(parameters)}"
    kept = written.get("artifacts", {})
    assert kept.keys() == artifacts.keys(), f"{spec.name}: output artifacts {set(kept)}, declared {set(artifacts)}"
    metadata = {}
    for name, item in kept.items():
        (one,) = item["artifacts"]
        assert one["uri"] == str(folder / name)  # the launcher takes no other bucket
        metadata[name] = one.get("metadata", {})
        _check(metadata[name], f"{spec.name} {name}")
        if artifacts[name]["artifacts"][0]["type"]["schemaTitle"] not in _OF_METADATA:
            assert (folder / name).is_file() and (folder / name).stat().st_size, f"{name} is empty"
    return Ran(found, {name: folder / name for name in artifacts}, metadata)


def _not_json(text: str) -> Any:
    raise AssertionError(f"executor output has {text}, which is not JSON")


def _check(value: Any, where: str) -> None:
    """`metadata/converter.go`: a null is an unsupported value."""
    assert value is not None, f"{where}: null"
    if isinstance(value, dict):
        for key, item in value.items():
            _check(item, f"{where}.{key}")
    elif isinstance(value, list):
        for item in value:
            _check(item, where)

"""Runs of a pipeline on Kubeflow: submit one, follow it to its end."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import kfp_server_api as api
import yaml

from eolgul.errors import InputError, one_line
from eolgul.kubeflow.connection import Connection
from eolgul.kubeflow.logs import last_sentence

EVERY = 10.0
"""Seconds between two looks at a run."""

_FAILED = {"FAILED", "CANCELED", "SKIPPED"}
_ENDED = _FAILED | {"SUCCEEDED"}
_PASSING = {"busy", "unreachable"}
_EQUALS = "EQUALS"


@dataclass(frozen=True, slots=True)
class Compiled:
    """A compiled pipeline.

    Attributes:
        documents: Its specification and what is particular to Kubernetes, as `eolgul.pipelines.compiled` makes them.
    """

    documents: Sequence[Mapping[str, Any]]

    @property
    def name(self) -> str:
        """The pipeline's name."""
        name: str = self.documents[0]["pipelineInfo"]["name"]
        return name

    @property
    def images(self) -> list[str]:
        """The container images that its tasks run, each once."""
        executors = self.documents[0]["deploymentSpec"]["executors"].values()
        return sorted({one["container"]["image"] for one in executors if "container" in one})

    def text(self) -> str:
        """The pipeline as the YAML that is uploaded."""
        # libyaml's writer takes a tenth of the time; a build without it has the other one.
        writer = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
        documents = [dict(one) for one in self.documents]
        return str(yaml.dump_all(documents, Dumper=writer, sort_keys=True, allow_unicode=True))

    def spec(self) -> dict[str, Any]:
        """Pipeline and platform as the API takes them in a run."""
        platform: dict[str, Any] = {}
        for one in self.documents[1:]:
            platform |= one
        return {"pipeline_spec": dict(self.documents[0])} | ({"platform_spec": platform} if platform else {})


@dataclass(frozen=True, slots=True)
class Request:
    """What is submitted, or scheduled.

    Attributes:
        pipeline: The compiled pipeline.
        parameters: Its arguments.
        name: The run's name.
        experiment: Name of the experiment that it belongs to.
        service_account: The service account of its pods; None for Kubeflow's own.
        pipeline_root: Where KFP keeps the artifacts that it copies; None for Kubeflow's own.
    """

    pipeline: Compiled
    parameters: Mapping[str, Any]
    name: str
    experiment: str
    service_account: str | None = None
    pipeline_root: str | None = None

    def config(self) -> Any:
        """Arguments and root as the API takes them."""
        return api.V2beta1RuntimeConfig(parameters=dict(self.parameters), pipeline_root=self.pipeline_root)


def name_filter(name: str) -> str:
    """The API's filter of everything with this name."""
    return json.dumps({"predicates": [{"operation": _EQUALS, "key": "display_name", "stringValue": name}]})


def known(answer: Any, what: str, host: str) -> str:
    """An id in an answer; InputError when there is none, as when the answer is not KFP's."""
    found = getattr(answer, what, None)
    if not found:
        raise InputError(f"{host}: the server answers without a {what}, so that nothing was submitted")
    return str(found)


def experiment_id(connection: Connection, name: str, namespace: str | None) -> str:
    """The id of an experiment, which is made where there is none of this name."""
    listed = connection.ask(
        connection.experiments.experiment_service_list_experiments, filter=name_filter(name),
        **({"namespace": namespace} if namespace else {}),
    ).experiments  # fmt: skip
    for one in listed or ():
        if one.storage_state != "ARCHIVED":
            return known(one, "experiment_id", connection.host)
    made = connection.ask(
        connection.experiments.experiment_service_create_experiment,
        experiment=api.V2beta1Experiment(display_name=name, namespace=namespace),
    )
    return known(made, "experiment_id", connection.host)


def submit(
    connection: Connection, request: Request, namespace: str | None, version: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Start a run.

    Args:
        connection: The API.
        request: The run.
        namespace: The profile's namespace; None where Kubeflow has one user.
        version: An uploaded version (pipeline_id, pipeline_version_id) to run in place of the pipeline's own text.

    Raises:
        InputError: The server does not take it.
    """
    experiment = experiment_id(connection, request.experiment, namespace)
    run = connection.ask(
        connection.runs.run_service_create_run,
        run=api.V2beta1Run(
            experiment_id=experiment,
            display_name=request.name,
            runtime_config=request.config(),
            service_account=request.service_account,
            **source_of(request, version),
        ),
    )
    run_id = known(run, "run_id", connection.host)
    return {"run_id": run_id, "experiment_id": experiment, "name": request.name,
            "link": connection.link(f"runs/details/{run_id}")}  # fmt: skip


def source_of(request: Request, version: Mapping[str, str] | None) -> dict[str, Any]:
    """What a run is made from: an uploaded version, or the pipeline itself."""
    if version is None:
        return {"pipeline_spec": request.pipeline.spec()}
    return {"pipeline_version_reference": api.V2beta1PipelineVersionReference(**version)}


def follow(
    connection: Connection,
    run_id: str,
    *,
    seconds: float,
    every: float | None = None,
    patience: float = 300.0,
    say: Callable[[str], None],
    sleep: Callable[[float], None] = time.sleep,
) -> dict[str, Any]:
    """Wait for a run's end.

    Args:
        connection: The API.
        run_id: The run.
        seconds: How long to wait at most.
        every: Seconds between two looks. Default: `EVERY`.
        patience: Seconds that the server may be away in between.
        say: Called with a line whenever a task or the run changes its state.
        sleep: Waits.

    Returns:
        `state`, and `error` with the failed task's message when the run did not succeed; `state` is the last one seen
        when the time was over.

    Raises:
        InputError: The server refuses to tell, does not know the run, or is away for longer than `patience`.
    """
    every = EVERY if every is None else every
    begun = seen = time.monotonic()
    states: dict[str, str] = {}
    state = "PENDING"
    while True:
        try:
            run: Any = connection.ask(connection.runs.run_service_get_run, run_id)
        except InputError as error:
            if error.code not in _PASSING or time.monotonic() - seen > patience:
                raise
            say(f"{error}; asking again")
        else:
            seen = time.monotonic()
            state = run.state or state
            tasks = (run.run_details.task_details if run.run_details else None) or ()
            for name, now in [(str(one.display_name or one.task_id), one.state) for one in tasks] + [("run", state)]:
                if now and states.get(name) != now:
                    states[name] = now
                    say(f"{name}: {now.lower()}")
            if state in _ENDED:
                ended: dict[str, Any] = {"state": state, "seconds": round(time.monotonic() - begun, 1)}
                return ended | ({"error": why_failed(connection, run, tasks)} if state in _FAILED else {})
        if time.monotonic() - begun + every > seconds:
            return {"state": state, "seconds": round(time.monotonic() - begun, 1),
                    "error": f"the run is still {state.lower()} after {seconds:g} s; it goes on without this command"}  # fmt: skip
        sleep(every)


def why_failed(connection: Connection, run: Any, tasks: Sequence[Any]) -> str:
    """The sentence of the task that failed: from its log where that can be had, else the server's."""
    failed = [one for one in tasks if one.state == "FAILED"]
    # A DAG fails with its task: the task is the one with a pod.
    for one in sorted(failed, key=lambda task: not _pods(task)):
        name = str(one.display_name or one.task_id)
        for pod in _pods(one):
            try:
                log = connection.text(f"/apis/v1alpha1/runs/{run.run_id}/nodes/{pod}/log")
            except InputError:
                continue  # the pod is gone, or logs are not kept
            if sentence := last_sentence(log.splitlines()):
                return f"{name}: {sentence}"
        if one.error is not None and one.error.message:
            return f"{name}: {one_line(one.error.message, 300)}"
    if run.error is not None and run.error.message:
        return one_line(run.error.message, 300)
    if failed:
        return f"{failed[0].display_name or failed[0].task_id} failed without a message; its log is in the UI"
    return f"the run is {str(run.state).lower()}"


def _pods(task: Any) -> list[str]:
    children = [child.pod_name for child in task.child_tasks or () if child.pod_name]
    return ([task.pod_name] if task.pod_name else []) + children

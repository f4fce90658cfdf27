"""What the pipelines share: how a task is equipped, the loops over parts and candidates, parameters declared once.

The three loops are in pipelines of their own: KFP's local runner (2.17) gives the item of a loop to every input of it that
comes from another task, but not to a pipeline's parameters.
"""
# No `from __future__ import annotations` here: KFP reads the pipelines' annotations as types, not as strings.

import functools
import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Dict, List, NamedTuple  # noqa: UP035 - KFP reads these names

from kfp import dsl

from eolgul.components.align.component import align
from eolgul.components.align.part import align_part, align_plan
from eolgul.components.evaluate.choose import choose
from eolgul.components.evaluate.component import evaluate
from eolgul.components.extract.component import extract
from eolgul.components.extract.part import extract_part as extract_part_task
from eolgul.components.promote.notify import notify as notify_task
from eolgul.components.train.component import train
from eolgul.errors import InputError
from eolgul.pipelines.pods import Pods, PodSettings

EVERY_POD = ("k8s_tolerations", "k8s_node_selector")
"""Parameters that every task needs."""

_SETTINGS: ContextVar[PodSettings | None] = ContextVar("settings", default=None)
_INNER: ContextVar[Mapping[str, Any]] = ContextVar("inner")
_RUN: ContextVar[str] = ContextVar("run", default=dsl.PIPELINE_JOB_ID_PLACEHOLDER)


def run_id() -> str:
    """The id of the run of the pipeline that is being defined: KFP's placeholder, unless its builder has chosen one."""
    return _RUN.get()


def train_gpus() -> int:
    """GPUs of a training task, from EOLGUL_TRAIN_GPUS; 0 compiles the pipeline for a cluster without any.

    Raises:
        InputError: It is not a number of GPUs.
    """
    text = os.environ.get("EOLGUL_TRAIN_GPUS", "") or "1"
    if not text.isascii() or not text.isdigit() or int(text) > 64:
        raise InputError(f"EOLGUL_TRAIN_GPUS {text!r}: expected a number from 0 to 64")
    return int(text)


def of_step(prefix: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of one step, by the names of its component."""
    return {name.removeprefix(prefix): value for name, value in given.items() if name.startswith(prefix)}


def named(given: Mapping[str, Any], *prefixes: str) -> dict[str, Any]:
    """The parameters whose names begin with one of the prefixes."""
    return {name: value for name, value in given.items() if name.startswith(prefixes)}


def equip(
    task: dsl.PipelineTask, given: Mapping[str, Any], name: str, kind: str = "data", *, retry: bool = True
) -> None:
    """Name a task for the page, switch KFP's cache off, and give it what it needs of a cluster.

    KFP's cache compares only the parameters, which are places: it would skip a step although the data at a place have
    changed. The steps compare digests and skip work that is done.
    """
    task.set_caching_options(False).set_display_name(name)
    settings = _SETTINGS.get()
    if settings is None:
        return
    pods = Pods(settings, given)
    pods.equip(task, kind, retry=retry)
    if kind == "train":
        pods.add_shared_memory(task)
        if train_gpus():
            pods.add_gpus(task, given["pod_gpus"])
    if task.name.startswith(("promote", "roll-back", "check")):
        pods.add_signing_key(task)
    if task.name.startswith("check"):
        pods.tell_limits(task)
    if task.name.startswith("notify"):
        pods.add_webhook(task)


def register(uri: Any, kind: type[dsl.Artifact], name: str) -> None:
    """Register an artifact with Kubeflow where it lies, so that the page links to it and knows where it comes from."""
    dsl.importer(artifact_uri=uri, artifact_class=kind).set_display_name(name).set_caching_options(False)


def inner(name: str) -> Any:
    """One of the pipelines within the one that is being defined: extract, align or candidates."""
    return _INNER.get()[name]


class Extracted(NamedTuple):
    """The references that extraction passes on."""

    datasets: List[str]  # noqa: UP006
    benchmarks: List[str]  # noqa: UP006


class Aligned(NamedTuple):
    """The references that alignment passes on."""

    datasets: List[str]  # noqa: UP006
    benchmarks: List[str]  # noqa: UP006


class Chosen(NamedTuple):
    """The references of the winner, and of other models measured on its data."""

    model: str
    evaluation: str
    current_evaluation: str
    reference_evaluation: str


def extraction(
    parts: List[str],  # noqa: UP006
    sources: List[str],  # noqa: UP006
    benchmarks: List[str],  # noqa: UP006
    workspace: str,
    run: str,
    extract_kind: str,
    extract_name: str,
    extract_max_pairs_lost: float,
    extract_selection: str,
    extract_identity_from: str,
    extract_depth: int,
    extract_identities: str,
    extract_without_identities: str,
    extract_min_images: int,
    extract_max_identities: int,
    extract_max_images_per_identity: int,
    extract_part: str,
    extract_reader: str,
    extract_root: str,
    extract_color: str,
    extract_aligned: bool,
    extract_any_size: bool,
    extract_verify: bool,
    extract_workers: int,
    extract_benchmark_pairs: List[str],  # noqa: UP006
    extract_benchmark_selection: str,
    extract_benchmark_identities: str,
    k8s_data_cpu: str,
    k8s_data_memory: str,
    k8s_tolerations: List[Dict[str, str]],  # noqa: UP006
    k8s_node_selector: Dict[str, str],  # noqa: UP006
) -> Extracted:
    """Step 1: do the parts, whose names the first task of the run gives, beside one another, and put them together."""
    given = dict(locals())
    options = of_step("extract_", given)
    of_sources = {name: value for name, value in options.items() if not name.startswith("benchmark_")}
    with dsl.ParallelFor(parts) as share:
        done = extract_part_task(share=share, sources=sources, workspace=workspace, run=run, **of_sources)
        equip(done, given, "Extract a part")
    merged = extract(
        parts=dsl.Collected(done.output),
        sources=sources,
        benchmarks=benchmarks,
        workspace=workspace,
        run=run,
        **options,
    )
    equip(merged, given, "Put the extracted parts together")
    return Extracted(merged.outputs["datasets"], merged.outputs["benchmarks"])


def alignment(
    datasets: List[str],  # noqa: UP006
    benchmarks: List[str],  # noqa: UP006
    workspace: str,
    run: str,
    align_parts: int,
    align_min_face_size: int,
    align_min_score: float,
    align_min_eyes: float,
    align_which: str,
    align_crop: str,
    align_anchor: str,
    align_stored_as: str,
    align_backend: str,
    align_device: str,
    align_workers: int,
    k8s_data_cpu: str,
    k8s_data_memory: str,
    k8s_tolerations: List[Dict[str, str]],  # noqa: UP006
    k8s_node_selector: Dict[str, str],  # noqa: UP006
) -> Aligned:
    """Step 2: name the parts, do them beside one another, put them together."""
    given = dict(locals())
    options = of_step("align_", given)
    given_here = {name: given[name] for name in ("datasets", "benchmarks", "workspace", "run")}
    planned = align_plan(align_parts=options.pop("parts"))
    equip(planned, given, "Plan of the alignment", retry=False)
    with dsl.ParallelFor(planned.output) as part:
        done = align_part(part=part, **given_here, **options)
        equip(done, given, "Align a part")
    merged = align(parts=dsl.Collected(done.output), **given_here, **options)
    equip(merged, given, "Put the parts together")
    return Aligned(merged.outputs["datasets"], merged.outputs["benchmarks"])


def candidates(
    dataset: str,
    benchmarks: List[str],  # noqa: UP006
    registry: str,
    workspace: str,
    run: str,
    train_recipes: List[str],  # noqa: UP006
    train_overrides: List[str],  # noqa: UP006
    train_checkpoints: str,
    train_checkpoint_seconds: float,
    train_init: str,
    train_init_color: str,
    train_device: str,
    train_gpus: int,
    train_nodes: int,
    train_runtime: str,
    train_threads: int,
    train_workers: int,
    train_stall_seconds: float,
    train_stream: bool,
    train_stream_cache: float,
    train_tensorboard: bool,
    pod_gpus: str,
    evaluate_fmr: float,
    evaluate_without_anchored: bool,
    evaluate_unseen_only: bool,
    evaluate_pictures: bool,
    evaluate_language: str,
    evaluate_quality_images: int,
    evaluate_device: str,
    evaluate_threads: int,
    evaluate_seed: int,
    evaluate_audit: bool,
    k8s_data_cpu: str,
    k8s_data_memory: str,
    k8s_train_cpu: str,
    k8s_train_memory: str,
    k8s_evaluate_cpu: str,
    k8s_evaluate_memory: str,
    k8s_gpu_type: str,
    k8s_gpu_tolerations: List[Dict[str, str]],  # noqa: UP006
    k8s_tolerations: List[Dict[str, str]],  # noqa: UP006
    k8s_node_selector: Dict[str, str],  # noqa: UP006
) -> Chosen:
    """Steps 4 and 5 for every recipe, and the choice between the candidates."""
    given = dict(locals())
    place = {"workspace": workspace, "run": run}
    options = {name: value for name, value in of_step("train_", given).items() if name != "recipes"}
    measuring = of_step("evaluate_", given)
    with dsl.ParallelFor(train_recipes) as recipe:
        trained = train(dataset=dataset, recipe=recipe, **place, **options)
        equip(trained, given, "Train", "train")
        register(trained.outputs["uri"], dsl.Model, "Model")
        evaluated = evaluate(
            model=trained.outputs["model"], dataset=dataset, benchmarks=benchmarks, **place, **measuring
        )
        equip(evaluated, given, "Evaluate", "evaluate")
        register(evaluated.outputs["uri"], dsl.Artifact, "Evaluation")
    chosen = choose(
        recipes=train_recipes,
        models=dsl.Collected(trained.outputs["model"]),
        evaluations=dsl.Collected(evaluated.outputs["evaluation"]),
        dataset=dataset,
        benchmarks=benchmarks,
        registry=registry,
        **place,
        **{name: value for name, value in measuring.items() if name != "audit"},
    )
    equip(chosen, given, "Choose the winner", "evaluate")
    found = chosen.outputs
    return Chosen(found["model"], found["evaluation"], found["current_evaluation"], found["reference_evaluation"])


@dataclass(frozen=True, slots=True)
class Definition:
    """A pipeline before it is built.

    Attributes:
        name: What it is called, on the command line too.
        title: What the page calls it.
        function: Adds its tasks; its signature and docstring are the declaration of its parameters.
        inner: The pipelines that it uses: extract, align, candidates.
    """

    name: str
    title: str
    function: Callable[..., None]
    inner: Sequence[str] = ()


def _reported(definition: Definition) -> Callable[..., None]:
    """The pipeline's function with all its tasks in an exit handler, whose task reports how they ended.

    An exit task cannot take what other tasks make, so it reads that in the workspace (`eolgul.steps.outcome`).
    """

    @functools.wraps(definition.function)
    def whole(*values: Any) -> None:
        given = dict(zip(inspect.signature(definition.function).parameters, values, strict=True))
        report = notify_task(pipeline=definition.name, workspace=given["workspace"], run=run_id())
        equip(report, given, "Report the outcome", retry=False)
        with dsl.ExitHandler(report, name=definition.title):
            definition.function(*values)

    return whole


_INNER_PIPELINES: dict[str, Callable[..., Any]] = {
    "extract": extraction,
    "align": alignment,
    "candidates": candidates,
}


def build(
    definition: Definition,
    settings: PodSettings | None = None,
    *,
    notify: bool = False,
    run: str = dsl.PIPELINE_JOB_ID_PLACEHOLDER,
) -> Any:
    """Build a pipeline.

    Args:
        definition: The pipeline.
        settings: For a cluster; None for KFP's local runner, which knows no pods.
        notify: Whether its end is reported, whatever the settings say.
        run: The id of its run; by default the one that KFP gives it.
    """
    function = definition.function
    if notify or (settings is not None and settings.webhook_secret):
        function = _reported(definition)
    token, run_token = _SETTINGS.set(settings), _RUN.set(run)
    inner_token = _INNER.set({name: dsl.pipeline(name=name)(_INNER_PIPELINES[name]) for name in definition.inner})
    try:
        return dsl.pipeline(name=definition.name, display_name=definition.title)(function)
    finally:
        _INNER.reset(inner_token)
        _SETTINGS.reset(token)
        _RUN.reset(run_token)


@dataclass(frozen=True, slots=True)
class Inherited:
    """Parameters of another pipeline that one has too, with the same types, defaults and descriptions.

    Attributes:
        pipeline: The other pipeline.
        prefixes: Beginnings of the parameters' names.
        without: Names among these that it does not have.
        defaults: Other defaults than the other pipeline's.
    """

    pipeline: Any
    prefixes: tuple[str, ...]
    without: tuple[str, ...] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, function: Callable[..., None]) -> Callable[..., None]:
        """Add the parameters to a function, which takes them as `**given` after its own."""
        own = inspect.signature(function).parameters
        theirs = inspect.signature(self.pipeline.pipeline_func).parameters
        inputs = self.pipeline.component_spec.inputs
        taken = [
            item.replace(default=self.defaults.get(name, item.default), kind=inspect.Parameter.POSITIONAL_OR_KEYWORD)
            for name, item in theirs.items()
            if name.startswith(self.prefixes) and name not in (*self.without, *own)
        ]
        parameters = [item for item in own.values() if item.kind is not inspect.Parameter.VAR_KEYWORD] + taken

        def whole(*values: Any) -> None:
            function(**dict(zip((item.name for item in parameters), values, strict=True)))

        text = (function.__doc__ or "").rstrip()
        lines = [f"        {item.name}: {' '.join(inputs[item.name].description.split())}" for item in taken]
        whole.__name__, whole.__doc__ = function.__name__, "\n".join([text, *lines, ""])
        whole.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        return whole

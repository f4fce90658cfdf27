"""The `face-recognition` pipeline: raw data → extract → align → assemble → (train → evaluate) per recipe → choose → promote.

A task passes the place and the digest of its artifact in S3 (below `workspace`) to the next one, not a KFP artifact: the
launcher of every step would copy a dataset of tens of gigabytes in and out, and the commands, the tests and KFP's local
runner all read the same places. Artifacts lie there by content (`eolgul.steps.store`), so that any number of runs may
share a workspace. Figures and reports are KFP artifacts, so that the Kubeflow UI shows them; data sets, models and
evaluations are registered with it without a copy.

The two loops, over parts of the alignment and over candidates, are in pipelines of their own: KFP's local runner (2.17)
gives the item of a loop to every input of it that comes from another task, but not to a pipeline's parameters.
"""
# No `from __future__ import annotations` here: KFP reads the pipeline's annotations as types, not as strings.

import os
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any, Dict, List, NamedTuple  # noqa: UP035 - KFP reads these names

from kfp import dsl

from eolgul.align.config import AlignConfig
from eolgul.assemble.config import AssembleConfig
from eolgul.components import documented
from eolgul.components.align.component import align
from eolgul.components.align.part import align_part, align_plan
from eolgul.components.assemble.component import assemble
from eolgul.components.evaluate.choose import choose
from eolgul.components.evaluate.component import evaluate
from eolgul.components.extract.component import extract
from eolgul.components.promote.check import check
from eolgul.components.promote.component import promote
from eolgul.components.train.component import train
from eolgul.errors import InputError
from eolgul.evaluate.config import EvaluateConfig
from eolgul.extract.config import ExtractConfig
from eolgul.pipelines.pods import Pods, PodSettings
from eolgul.promote.config import PromoteConfig
from eolgul.train.config import TrainConfig

_SETTINGS: ContextVar[PodSettings | None] = ContextVar("settings", default=None)
_INNER: ContextVar[Mapping[str, Any]] = ContextVar("inner")


_EVERY_POD = ("k8s_tolerations", "k8s_node_selector")


def define(settings: PodSettings | None = None) -> Any:
    """The pipeline; with `settings` for a cluster, without them for KFP's local runner, which knows no pods."""
    token = _SETTINGS.set(settings)
    inner = _INNER.set({"align": dsl.pipeline(name="align")(_alignment),
                        "candidates": dsl.pipeline(name="candidates")(_candidates)})  # fmt: skip
    try:
        decorate = dsl.pipeline(name="face-recognition", display_name="Face recognition: from raw data to production")
        return decorate(_face_recognition)
    finally:
        _INNER.reset(inner)
        _SETTINGS.reset(token)


def train_gpus() -> int:
    """GPUs of a training task, from EOLGUL_TRAIN_GPUS; 0 compiles the pipeline for a cluster without any.

    Raises:
        InputError: It is not a number of GPUs.
    """
    text = os.environ.get("EOLGUL_TRAIN_GPUS", "") or "1"
    if not text.isascii() or not text.isdigit() or int(text) > 64:
        raise InputError(f"EOLGUL_TRAIN_GPUS {text!r}: expected a number from 0 to 64")
    return int(text)


def _of_step(prefix: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of one step, by the names of its component."""
    return {name.removeprefix(prefix): value for name, value in given.items() if name.startswith(prefix)}


def _named(given: Mapping[str, Any], *prefixes: str) -> dict[str, Any]:
    """The parameters whose names begin with one of the prefixes."""
    return {name: value for name, value in given.items() if name.startswith(prefixes)}


def _equip(
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
            pods.add_gpus(task, given.get("train_gpus", train_gpus()))
    if task.name.startswith("promote"):
        pods.add_signing_key(task)
    if task.name.startswith("check"):
        pods.add_signing_key(task)
        pods.tell_limits(task)


def _register(uri: Any, kind: type[dsl.Artifact], name: str) -> None:
    """Register an artifact with Kubeflow where it lies, so that the page links to it and knows where it comes from."""
    dsl.importer(artifact_uri=uri, artifact_class=kind).set_display_name(name).set_caching_options(False)


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


def _alignment(
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
    options = _of_step("align_", given)
    given_here = {name: given[name] for name in ("datasets", "benchmarks", "workspace", "run")}
    planned = align_plan(align_parts=options.pop("parts"))
    _equip(planned, given, "Plan of the alignment", retry=False)
    with dsl.ParallelFor(planned.output) as part:
        done = align_part(part=part, **given_here, **options)
        _equip(done, given, "Align a part")
    merged = align(parts=dsl.Collected(done.output), **given_here, **options)
    _equip(merged, given, "Put the parts together")
    return Aligned(merged.outputs["datasets"], merged.outputs["benchmarks"])


def _candidates(
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
    evaluate_fmr: float,
    evaluate_without_anchored: bool,
    evaluate_unseen_only: bool,
    evaluate_pictures: bool,
    evaluate_language: str,
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
    options = {name: value for name, value in _of_step("train_", given).items() if name != "recipes"}
    measuring = _of_step("evaluate_", given)
    with dsl.ParallelFor(train_recipes) as recipe:
        trained = train(dataset=dataset, recipe=recipe, **place, **options)
        _equip(trained, given, "Train", "train")
        _register(trained.outputs["uri"], dsl.Model, "Model")
        evaluated = evaluate(
            model=trained.outputs["model"], dataset=dataset, benchmarks=benchmarks, **place, **measuring
        )
        _equip(evaluated, given, "Evaluate", "evaluate")
        _register(evaluated.outputs["uri"], dsl.Artifact, "Evaluation")
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
    _equip(chosen, given, "Choose the winner", "evaluate")
    found = chosen.outputs
    return Chosen(found["model"], found["evaluation"], found["current_evaluation"], found["reference_evaluation"])


@documented(ExtractConfig, "extract_")
@documented(AlignConfig, "align_")
@documented(AssembleConfig, "assemble_")
@documented(TrainConfig, "train_")
@documented(EvaluateConfig, "evaluate_")
@documented(PromoteConfig, "promote_")
def _face_recognition(
    workspace: str = "s3://eolgul",
    sources: List[str] = ["s3://eolgul/raw/faces_emore", "s3://eolgul/raw/kface"],  # noqa: B006, UP006
    benchmarks: List[str] = ["s3://eolgul/raw/faces_emore/lfw.bin"],  # noqa: B006, UP006
    registry: str = "s3://eolgul/registry",
    extract_kind: str = "auto",
    extract_name: str = "",
    extract_max_pairs_lost: float = 0.1,
    extract_selection: str = "original",
    extract_identity_from: str = "",
    extract_depth: int = 0,
    extract_identities: str = "",
    extract_without_identities: str = "",
    extract_min_images: int = 1,
    extract_max_identities: int = 0,
    extract_max_images_per_identity: int = 0,
    extract_part: str = "",
    extract_reader: str = "own",
    extract_root: str = "",
    extract_color: str = "rgb",
    extract_aligned: bool = False,
    extract_any_size: bool = False,
    extract_verify: bool = True,
    extract_workers: int = 2,
    extract_benchmark_pairs: List[str] = [],  # noqa: B006, UP006
    extract_benchmark_selection: str = "",
    extract_benchmark_identities: str = "",
    align_parts: int = 2,
    align_min_face_size: int = 40,
    align_min_score: float = 0.7,
    align_min_eyes: float = 0.0,
    align_which: str = "largest",
    align_crop: str = "similarity",
    align_anchor: str = "none",
    align_backend: str = "onnx",
    align_device: str = "cpu",
    align_workers: int = 2,
    assemble_validation: float = 0.05,
    assemble_calibration: float = 0.15,
    assemble_test: float = 0.15,
    assemble_most_held_out: int = 1000,
    assemble_held_out_sources: List[str] = [],  # noqa: B006, UP006
    assemble_exclude: List[str] = [],  # noqa: B006, UP006
    assemble_seed: int = 0,
    assemble_copy: bool = False,
    train_recipes: List[str] = ["irse50-ms1m-kface", "mobilefacenet-ms1m-kface"],  # noqa: B006, UP006
    train_overrides: List[str] = [],  # noqa: B006, UP006
    train_checkpoints: str = "",
    train_checkpoint_seconds: float = 60.0,
    train_init: str = "",
    train_init_color: str = "",
    train_device: str = "auto",
    train_gpus: int = 1,
    train_nodes: int = 1,
    train_runtime: str = "torch-distributed",
    train_threads: int = 0,
    train_workers: int = 2,
    train_stall_seconds: float = 40.0,
    train_stream: bool = False,
    train_stream_cache: float = 20.0,
    train_tensorboard: bool = True,
    evaluate_fmr: float = 1e-4,
    evaluate_without_anchored: bool = False,
    evaluate_unseen_only: bool = False,
    evaluate_pictures: bool = True,
    evaluate_language: str = "auto",
    evaluate_device: str = "auto",
    evaluate_threads: int = 2,
    evaluate_seed: int = 0,
    evaluate_audit: bool = False,
    promote_require: List[str] = [],  # noqa: B006, UP006
    promote_reference_margin: float = 0.01,
    k8s_data_cpu: str = "4",
    k8s_data_memory: str = "8Gi",
    k8s_train_cpu: str = "8",
    k8s_train_memory: str = "32Gi",
    k8s_evaluate_cpu: str = "4",
    k8s_evaluate_memory: str = "12Gi",
    k8s_gpu_type: str = "nvidia.com/gpu",
    k8s_gpu_tolerations: List[Dict[str, str]] = [],  # noqa: B006, UP006
    k8s_tolerations: List[Dict[str, str]] = [],  # noqa: B006, UP006
    k8s_node_selector: Dict[str, str] = {},  # noqa: B006, UP006
) -> None:
    """Train candidates, measure them, and promote the winner when it beats the model in production.

    A parameter is called by its step and the name of the step's option. 0, "" and [] stand for an option that is not set.

    Args:
        workspace: Prefix (s3://) of the artifacts, which runs share, and of what each run made or found (runs/<run id>).
        sources: Places of what to learn from: a folder with train.rec, a K-FACE tree, or identity folders.
        benchmarks: Places of .bin verification sets, and of trees that extract_benchmark_pairs make benchmarks of.
        registry: The model registry (s3://), whose production model is the one to beat.
        extract_benchmark_pairs: Places of pair lists (LFW's pairs.txt, K-FACE's Q1 to Q4); each makes one benchmark of
            each tree among the benchmarks.
        extract_benchmark_selection: K-FACE conditions of the trees among the benchmarks.
        extract_benchmark_identities: File with one identity per line; take only these of the trees among the benchmarks.
        evaluate_audit: Look for the held-out people and the benchmarks in the training split with the trained model.
        align_parts: How many tasks share the alignment.
        train_recipes: The candidates: names of recipes, or .toml files. Each is trained and measured on the same people; the
            best is chosen by the paired comparison, where a tie keeps the one named first.
        k8s_data_cpu: Processors of each pod that extracts, aligns, assembles or promotes.
        k8s_data_memory: Memory of each of these pods.
        k8s_train_cpu: Processors of a training pod.
        k8s_train_memory: Memory of a training pod, the shared memory of its workers included.
        k8s_evaluate_cpu: Processors of a pod that evaluates.
        k8s_evaluate_memory: Memory of a pod that evaluates.
        k8s_gpu_type: Name of the GPUs among the resources of the cluster's nodes.
        k8s_gpu_tolerations: Tolerations of the training pods, for nodes that only jobs with a GPU may use.
        k8s_tolerations: Tolerations of every pod, each with key, operator, value and effect.
        k8s_node_selector: Labels of the nodes that every pod may run on.
    """
    given = locals()
    place = {"workspace": workspace, "run": dsl.PIPELINE_JOB_ID_PLACEHOLDER}
    checked = check(
        **_named(given, "extract_", "align_", "assemble_", "train_", "evaluate_", "promote_"),
        sources=sources,
        benchmarks=benchmarks,
        registry=registry,
        workspace=workspace,
    )
    _equip(checked, given, "Check everything", retry=False)
    extracted = extract(
        sources=checked.outputs["Output"], benchmarks=benchmarks, **place, **_of_step("extract_", given)
    )
    _equip(extracted, given, "Extract")
    aligned = _INNER.get()["align"](
        datasets=extracted.outputs["datasets"],
        benchmarks=extracted.outputs["benchmarks"],
        **place,
        **_named(given, "align_", *_EVERY_POD, "k8s_data_"),
    )
    aligned.set_caching_options(False).set_display_name("Align")
    assembled = assemble(datasets=aligned.outputs["datasets"], **place, **_of_step("assemble_", given))
    _equip(assembled, given, "Assemble and split")
    _register(assembled.outputs["uri"], dsl.Dataset, "Data set")
    chosen = _INNER.get()["candidates"](
        dataset=assembled.outputs["assembled"],
        benchmarks=aligned.outputs["benchmarks"],
        registry=registry,
        **place,
        **_named(given, "train_", "evaluate_", "k8s_"),
    )
    chosen.set_caching_options(False).set_display_name("Train and compare the candidates")
    promoted = promote(
        model=chosen.outputs["model"],
        evaluation=chosen.outputs["evaluation"],
        current_evaluation=chosen.outputs["current_evaluation"],
        reference_evaluation=chosen.outputs["reference_evaluation"],
        registry=registry,
        **_of_step("promote_", given),
    )
    _equip(promoted, given, "Promote")


face_recognition = define()
"""The pipeline for KFP's local runner, and the declaration of its parameters."""
alignment = dsl.pipeline(name="align")(_alignment)
"""Step 2 alone, for KFP's local runner."""

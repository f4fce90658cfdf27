"""The `face-recognition` pipeline: raw data → extract → align → assemble → train → evaluate → promote.

A task passes the place of its artifact in S3 (below `workspace`) to the next one, not a KFP artifact: the launcher of
every step would copy a dataset of tens of gigabytes in and out, and the commands, the tests and KFP's local runner all
read the same places. Figures and the report are KFP artifacts, so that the Kubeflow UI shows them.
"""
# No `from __future__ import annotations` here: KFP reads the pipeline's annotations as types, not as strings.

import os
from typing import Any, List, NamedTuple  # noqa: UP035 - KFP reads these names

from kfp import dsl

from eolgul.align.config import AlignConfig
from eolgul.assemble.config import AssembleConfig
from eolgul.components import documented
from eolgul.components.align.component import align
from eolgul.components.align.part import align_part, align_plan
from eolgul.components.assemble.component import assemble
from eolgul.components.evaluate.component import evaluate
from eolgul.components.extract.component import extract
from eolgul.components.promote.component import promote
from eolgul.components.train.component import train
from eolgul.evaluate.config import EvaluateConfig
from eolgul.extract.config import ExtractConfig
from eolgul.promote.config import PromoteConfig
from eolgul.train.config import TrainConfig

# Names that `k8s/kubeflow` creates in the namespace where pipelines run.
S3_CONFIG, S3_SECRET = "eolgul-s3", "eolgul-s3"
# A pod's resources are fixed when the pipeline is compiled: EOLGUL_TRAIN_GPUS=0 compiles it for a cluster without GPUs.
TRAIN_GPUS = int(os.environ.get("EOLGUL_TRAIN_GPUS", "1"))
_CONFIG_KEYS = ("EOLGUL_S3_ENDPOINT", "EOLGUL_S3_SECURE", "EOLGUL_S3_REGION")
_SECRET_KEYS = ("EOLGUL_S3_ACCESS_KEY", "EOLGUL_S3_SECRET_KEY")


def _on_cluster(task: dsl.PipelineTask) -> None:
    """Give a task S3's address and credentials, and switch KFP's cache off. A local run ignores both.

    KFP's cache compares only the parameters, which are places: it would skip a step although the data at a place have
    changed. The steps compare digests and skip work that is done.
    """
    from kfp import kubernetes

    task.set_caching_options(False)
    task.set_env_variable("ORT_DISABLE_TELEMETRY", "1")
    kubernetes.use_config_map_as_env(task, S3_CONFIG, {key: key for key in _CONFIG_KEYS})
    kubernetes.use_secret_as_env(task, S3_SECRET, {key: key for key in _SECRET_KEYS})


def _of_step(prefix: str, given: dict[str, Any]) -> dict[str, Any]:
    """The parameters of one step, by the names of its component."""
    return {name.removeprefix(prefix): value for name, value in given.items() if name.startswith(prefix)}


class Aligned(NamedTuple):
    """The places that alignment passes on."""

    datasets: List[str]  # noqa: UP006
    benchmarks: List[str]  # noqa: UP006


@dsl.pipeline(name="align", description="Step 2 in parts that run at the same time, and their merge.")
def alignment(
    datasets: List[str],  # noqa: UP006
    benchmarks: List[str],  # noqa: UP006
    workspace: str,
    parts: int,
    min_face_size: int,
    min_score: float,
    min_eyes: float,
    which: str,
    crop: str,
    anchor: str,
    backend: str,
    device: str,
    workers: int,
) -> Aligned:
    """See `components/align` for the parameters. A pipeline of its own, so that the graph shows six steps."""
    given = {name: value for name, value in locals().items() if name != "parts"}
    planned = align_plan(align_parts=parts)
    with dsl.ParallelFor(planned.output) as part:
        done = align_part(part=part, **given)
        _on_cluster(done)
    merged = align(parts=dsl.Collected(done.output), **given)
    for task in (planned, merged):
        _on_cluster(task)
    return Aligned(merged.outputs["datasets"], merged.outputs["benchmarks"])


@dsl.pipeline(name="face-recognition")
@documented(ExtractConfig, "extract_")
@documented(AlignConfig, "align_")
@documented(AssembleConfig, "assemble_")
@documented(TrainConfig, "train_")
@documented(EvaluateConfig, "evaluate_")
@documented(PromoteConfig, "promote_")
def face_recognition(
    workspace: str,
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
    train_recipe: str = "irse50-ms1m-kface",
    train_overrides: List[str] = [],  # noqa: B006, UP006
    train_checkpoints: str = "s3://eolgul/checkpoints",
    train_checkpoint_seconds: float = 60.0,
    train_init: str = "",
    train_init_color: str = "",
    train_device: str = "auto",
    train_threads: int = 0,
    train_workers: int = 2,
    train_stall_seconds: float = 40.0,
    train_tensorboard: bool = True,
    evaluate_fmr: float = 1e-4,
    evaluate_without_anchored: bool = False,
    evaluate_unseen_only: bool = False,
    evaluate_pictures: bool = True,
    evaluate_language: str = "auto",
    evaluate_device: str = "cpu",
    evaluate_threads: int = 2,
    evaluate_seed: int = 0,
    evaluate_audit: bool = False,
    promote_require: List[str] = [],  # noqa: B006, UP006
    promote_reference_margin: float = 0.01,
) -> None:
    """Train, measure and promote a face-recognition model.

    A parameter is called by its step and the name of the step's option. 0, "" and [] stand for an option that is not set.

    Args:
        workspace: Prefix (s3://) under which this run's artifacts go.
        sources: Places of what to learn from: a folder with train.rec, a K-FACE tree, or identity folders.
        benchmarks: Places of .bin verification sets, and of trees that extract_benchmark_pairs make benchmarks of.
        registry: The model registry (s3://), whose production model is the one to beat.
        extract_benchmark_pairs: Places of pair lists (LFW's pairs.txt, K-FACE's Q1 to Q4); each makes one benchmark of
            each tree among the benchmarks.
        extract_benchmark_selection: K-FACE conditions of the trees among the benchmarks.
        extract_benchmark_identities: File with one identity per line; take only these of the trees among the benchmarks.
        evaluate_audit: Look for the held-out people and the benchmarks in the training split with the trained model.
        align_parts: How many tasks share the alignment.
    """
    given = locals()
    extracted = extract(sources=sources, benchmarks=benchmarks, workspace=workspace, **_of_step("extract_", given))
    aligned = alignment(
        datasets=extracted.outputs["datasets"],
        benchmarks=extracted.outputs["benchmarks"],
        workspace=workspace,
        **_of_step("align_", given),
    )
    aligned.set_caching_options(False)
    assembled = assemble(datasets=aligned.outputs["datasets"], workspace=workspace, **_of_step("assemble_", given))
    trained = train(dataset=assembled.outputs["Output"], workspace=workspace, **_of_step("train_", given))
    evaluated = evaluate(
        model=trained.outputs["Output"],
        dataset=assembled.outputs["Output"],
        benchmarks=aligned.outputs["benchmarks"],
        registry=registry,
        workspace=workspace,
        **_of_step("evaluate_", given),
    )
    promoted = promote(
        model=trained.outputs["Output"],
        evaluation=evaluated.outputs["evaluation"],
        current_evaluation=evaluated.outputs["current_evaluation"],
        reference_evaluation=evaluated.outputs["reference_evaluation"],
        registry=registry,
        **_of_step("promote_", given),
    )
    for task in (extracted, assembled, trained, evaluated, promoted):
        _on_cluster(task)
    if TRAIN_GPUS:
        trained.set_accelerator_type("nvidia.com/gpu").set_accelerator_limit(TRAIN_GPUS)

"""The `face-recognition` pipeline: raw data → extract → align → assemble → (train → evaluate) per recipe → choose → promote.

A task passes the place and the digest of its artifact in S3 (below `workspace`) to the next one, not a KFP artifact: the
launcher of every step would copy a dataset of tens of gigabytes in and out, and the commands, the tests and KFP's local
runner all read the same places. Artifacts lie there by content (`eolgul.steps.store`), so that any number of runs may
share a workspace. Figures and reports are KFP artifacts, so that the Kubeflow UI shows them; data sets, models and
evaluations are registered with it without a copy.
"""
# No `from __future__ import annotations` here: KFP reads the pipeline's annotations as types, not as strings.

from collections.abc import Mapping
from typing import Any, Dict, List  # noqa: UP035 - KFP reads these names

from kfp import dsl

from eolgul.align.config import AlignConfig
from eolgul.assemble.config import AssembleConfig
from eolgul.components import documented
from eolgul.components.assemble.component import assemble
from eolgul.components.promote.check import check
from eolgul.components.promote.component import promote
from eolgul.evaluate.config import EvaluateConfig
from eolgul.extract.config import ExtractConfig
from eolgul.pipelines.graph import (
    EVERY_POD,
    Definition,
    build,
    equip,
    inner,
    named,
    of_step,
    register,
    run_id,
)
from eolgul.promote.config import PromoteConfig
from eolgul.train.config import TrainConfig


def learn(given: Mapping[str, Any], checked: dsl.PipelineTask, train_init: Any) -> None:
    """Add the tasks of the six steps, after the first task has checked everything.

    Args:
        given: The pipeline's parameters.
        checked: The task that has checked everything and says what to learn from: raw sources, extracted and aligned data sets.
        train_init: What the training begins with.
    """
    place = {"workspace": given["workspace"], "run": run_id()}
    sources = checked.outputs["sources"]
    extracted = inner("extract")(
        parts=checked.outputs["parts"],
        sources=sources,
        benchmarks=given["benchmarks"],
        **place,
        **{
            name: value
            for name, value in named(given, "extract_", *EVERY_POD, "k8s_data_").items()
            if name != "extract_parts"
        },
    )
    extracted.set_caching_options(False).set_display_name("Extract")
    aligned = inner("align")(
        datasets=extracted.outputs["datasets"],
        benchmarks=extracted.outputs["benchmarks"],
        **place,
        **named(given, "align_", *EVERY_POD, "k8s_data_"),
    )
    aligned.set_caching_options(False).set_display_name("Align")
    assembled = assemble(datasets=aligned.outputs["datasets"], **place, **of_step("assemble_", given))
    equip(assembled, given, "Assemble and split")
    register(assembled.outputs["uri"], dsl.Dataset, "Data set")
    chosen = inner("candidates")(
        dataset=assembled.outputs["assembled"],
        benchmarks=aligned.outputs["benchmarks"],
        registry=given["registry"],
        pod_gpus=checked.outputs["pod_gpus"],
        **place,
        **named(given, "train_", "evaluate_", "k8s_") | {"train_init": train_init},
    )
    chosen.set_caching_options(False).set_display_name("Train and compare the candidates")
    promoted = promote(
        model=chosen.outputs["model"],
        evaluation=chosen.outputs["evaluation"],
        current_evaluation=chosen.outputs["current_evaluation"],
        reference_evaluation=chosen.outputs["reference_evaluation"],
        registry=given["registry"],
        **place,
        **of_step("promote_", given),
    )
    equip(promoted, given, "Promote")


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
    extract_parts: int = 1,
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
    align_stored_as: str = "png",
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
    evaluate_quality_images: int = 160,
    evaluate_device: str = "auto",
    evaluate_threads: int = 2,
    evaluate_seed: int = 0,
    evaluate_audit: bool = False,
    promote_require: List[str] = [],  # noqa: B006, UP006
    promote_reference_margin: float = 0.01,
    promote_model_registry: str = "",
    promote_registered_as: str = "eolgul",
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
        extract_parts: How many tasks share the extraction of what to learn from. Each writes some of the shards of every
            source; the task behind them puts them together and extracts the benchmarks.
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
    given = dict(locals())
    checked = check(
        **named(given, "extract_", "align_", "assemble_", "train_", "evaluate_", "promote_"),
        pipeline="face-recognition",
        sources=sources,
        benchmarks=benchmarks,
        registry=registry,
        workspace=workspace,
        run=run_id(),
    )
    equip(checked, given, "Check everything", retry=False)
    learn(given, checked, train_init)


DEFINITION = Definition(
    "face-recognition",
    "Face recognition: from raw data to production",
    _face_recognition,
    ("extract", "align", "candidates"),
)
face_recognition = build(DEFINITION)
"""The pipeline for KFP's local runner, and the declaration of its parameters."""

"""The first task of a run: everything that can be checked in seconds, before hours of work."""

from typing import List, NamedTuple  # noqa: UP035 - KFP reads these names

from kfp import dsl

from eolgul.components import image


@dsl.component(base_image=image("promote"), install_kfp_package=False)
def check(
    pipeline: str,
    registry: str,
    workspace: str,
    run: str,
    plan: dsl.Output[dsl.Markdown],
    sources: List[str] = [],  # noqa: B006, UP006
    benchmarks: List[str] = [],  # noqa: B006, UP006
    model: str = "",
    dataset: str = "",
    evaluation: str = "",
    to: str = "",
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
    evaluate_contract: str = "",
) -> NamedTuple(  # type: ignore[valid-type]
    "Outputs",
    [("sources", List[str]), ("model", str), ("uri", str), ("pod_gpus", str), ("parts", List[str])],  # noqa: UP006
):
    """Check options, recipes, places, rights in S3, registry, signing key and sizes; say what will run.

    The parameters that begin with a step's name are the pipeline's; those of steps that a pipeline does not have are not
    looked at.

    Args:
        pipeline: The pipeline's name.
        registry: The model registry (s3://).
        workspace: Prefix (s3://) of the artifacts.
        run: The run's id.
        sources: Places (s3://) of what to learn from.
        benchmarks: Places of benchmarks.
        model: The model to measure or to promote.
        dataset: An assembled FaceDataset.
        evaluation: The model's Evaluation.
        to: The model to roll back to.
        plan: What will run, on how much data, with an estimate of disk and time; what is wrong, where something is.

    Returns:
        sources: The sources for the next task; those of an assembled data set first.
        model: The reference of the model that the run is about; "" without one.
        uri: Its place alone.
        pod_gpus: The GPUs that a training pod asks for. Text: KFP's back end takes a number for none.
        parts: The shares of the extraction, "1/n" to "n/n", that its loop goes over.
    """
    given = dict(locals())
    import sys
    from pathlib import Path
    from typing import Any

    from eolgul.errors import InputError
    from eolgul.steps import checks, outcome, plans
    from eolgul.steps.places import place_of

    by_step: dict[str, dict[str, Any]] = {
        step: {} for step in ("extract", "align", "assemble", "train", "evaluate", "promote")
    }
    for name, value in given.items():
        step, underscore, option = name.partition("_")
        if underscore and step in by_step:
            by_step[step][option] = value
    places = plans.Given(
        workspace, registry, tuple(sources), tuple(benchmarks), tuple(train_recipes), model, dataset, evaluation, to
    )
    with outcome.told(workspace, run, "check"):
        found = plans.check(pipeline, by_step, places)
        Path(plan.path).write_text(found.markdown(), encoding="utf-8")
        print(found.markdown(), file=sys.stderr)
        if found.wrong:
            raise InputError("; ".join(found.wrong))
    parts = [f"{number}/{extract_parts}" for number in range(1, extract_parts + 1)]
    return (found.sources, found.model, place_of(found.model), str(checks.pod_gpus(by_step["train"])), parts)

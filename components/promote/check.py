"""The first task of a run: everything that can be checked in seconds, before hours of work."""

from typing import List  # noqa: UP035 - KFP reads this name

from kfp import dsl

from eolgul.components import image


@dsl.component(base_image=image("promote"), install_kfp_package=False)
def check(
    sources: List[str],  # noqa: UP006
    benchmarks: List[str],  # noqa: UP006
    registry: str,
    workspace: str,
    plan: dsl.Output[dsl.Markdown],
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
    assemble_validation: float,
    assemble_calibration: float,
    assemble_test: float,
    assemble_most_held_out: int,
    assemble_held_out_sources: List[str],  # noqa: UP006
    assemble_exclude: List[str],  # noqa: UP006
    assemble_seed: int,
    assemble_copy: bool,
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
    promote_require: List[str],  # noqa: UP006
    promote_reference_margin: float,
) -> List[str]:  # noqa: UP006
    """Check options, recipes, places, rights in S3, registry, signing key and sizes; say what will run.

    The parameters that begin with a step's name are the pipeline's.

    Args:
        sources: Places (s3://) of what to learn from.
        benchmarks: Places of benchmarks.
        registry: The model registry (s3://).
        workspace: Prefix (s3://) of the artifacts.
        plan: What will run, on how much data, with an estimate of disk and time; what is wrong, where something is.

    Returns:
        The sources, for the next task.
    """
    given = dict(locals())
    import sys
    from pathlib import Path
    from typing import Any

    from eolgul.errors import InputError
    from eolgul.steps import checks

    by_step: dict[str, dict[str, Any]] = {
        step: {} for step in ("extract", "align", "assemble", "train", "evaluate", "promote")
    }
    for name, value in given.items():
        step, underscore, option = name.partition("_")
        if underscore and step in by_step:
            by_step[step][option] = value
    shared_memory, scratch = checks.limits()
    found = checks.check_run(
        by_step,
        workspace=workspace,
        registry=registry,
        sources=sources,
        benchmarks=benchmarks,
        recipes=train_recipes,
        shared_memory=shared_memory,
        scratch=scratch,
    )
    Path(plan.path).write_text(found.markdown(), encoding="utf-8")
    print(found.markdown(), file=sys.stderr)
    if found.wrong:
        raise InputError("; ".join(found.wrong))
    return sources

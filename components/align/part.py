"""Step 2 in parts: the tasks of the pipeline's loop, before `component.align` puts their results together."""

from typing import List  # noqa: UP035 - KFP reads this name

from kfp import dsl

from eolgul.align.config import AlignConfig
from eolgul.components import documented, image


@dsl.component(base_image=image("align"), install_kfp_package=False)
def align_plan(align_parts: int) -> List[str]:  # noqa: UP006
    """Name the parts, "1/n" to "n/n", that the loop goes over.

    Args:
        align_parts: How many tasks share the shards of every dataset.
    """
    from eolgul.errors import InputError

    if align_parts < 1:
        raise InputError(f"align_parts {align_parts}: expected 1 or more")
    return [f"{number}/{align_parts}" for number in range(1, align_parts + 1)]


@dsl.component(base_image=image("align"), install_kfp_package=False)
@documented(AlignConfig)
def align_part(
    part: str,
    datasets: List[str],  # noqa: UP006
    benchmarks: List[str],  # noqa: UP006
    workspace: str,
    run: str,
    min_face_size: int = 40,
    min_score: float = 0.7,
    min_eyes: float = 0.0,
    which: str = "largest",
    crop: str = "similarity",
    anchor: str = "none",
    stored_as: str = "png",
    backend: str = "onnx",
    device: str = "cpu",
    workers: int = 2,
) -> str:
    """Do one part of every dataset's shards. An identity's images are in one part, so anchors are the same.

    Args:
        datasets: FaceDatasets to learn from.
        benchmarks: Benchmarks.
        workspace: Prefix (s3://) of the artifacts, by content, and of what each run made or found.
        run: The run's id.

    Returns:
        The part of each dataset, in order, as a JSON list of references; "" for a dataset with nothing to do.
    """
    import json

    from eolgul.align.config import AlignConfig
    from eolgul.steps import tasks
    from eolgul.steps.store import Store

    config = AlignConfig.from_parameters(locals())
    return json.dumps(tasks.align_part_of(Store(workspace, run), [*datasets, *benchmarks], config))

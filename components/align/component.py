"""Step 2 as a Kubeflow component."""

from typing import List, NamedTuple  # noqa: UP035 - KFP reads these names

from kfp import compiler, dsl

from eolgul.align.config import AlignConfig
from eolgul.components import documented, image


@dsl.component(base_image=image("align"), install_kfp_package=False)
@documented(AlignConfig)
def align(
    datasets: List[str],  # noqa: UP006
    benchmarks: List[str],  # noqa: UP006
    workspace: str,
    run: str,
    align_counts: dsl.Output[dsl.Metrics],
    align_table: dsl.Output[dsl.Markdown],
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
    parts: List[str] = [],  # noqa: B006, UP006
) -> NamedTuple("Outputs", [("datasets", List[str]), ("benchmarks", List[str])]):  # type: ignore[valid-type]  # noqa: UP006
    """Find the face in every image (MTCNN), turn it upright and cut out 112x112. Aligned datasets pass as they are.

    Args:
        datasets: FaceDatasets to learn from.
        benchmarks: Benchmarks.
        workspace: Prefix (s3://) of the artifacts, by content, and of what each run made or found.
        run: The run's id.
        parts: What the `align_part` tasks made (JSON lists of references), which is put together; empty to do it here.
        align_counts: Faces and rejected images of all sources.
        align_table: The same of each source and benchmark.

    Returns:
        datasets: The aligned FaceDatasets, in order, as place#sha256:digest.
        benchmarks: The aligned Benchmarks, in order.
    """
    import json
    from pathlib import Path

    from eolgul.align.config import AlignConfig
    from eolgul.steps import figures, tasks
    from eolgul.steps.store import Store

    config = AlignConfig.from_parameters(locals())
    made = [json.loads(part) for part in parts]
    done = tasks.align_all(Store(workspace, run), [*datasets, *benchmarks], config, made)
    figures.log_metrics(align_counts, figures.total(done[: len(datasets)], "images", "rejected"))
    Path(align_table.path).write_text(
        figures.table(done, ("images", "rejected", "pairs", "pairs_lost")), encoding="utf-8"
    )
    found = [one["reference"] for one in done]
    return (found[: len(datasets)], found[len(datasets) :])


if __name__ == "__main__":
    compiler.Compiler().compile(align, "align.yaml")

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
    facts: dsl.Output[dsl.Metrics],
    min_face_size: int = 40,
    min_score: float = 0.7,
    min_eyes: float = 0.0,
    which: str = "largest",
    crop: str = "similarity",
    anchor: str = "none",
    backend: str = "onnx",
    device: str = "cpu",
    workers: int = 2,
    parts: List[str] = [],  # noqa: B006, UP006
) -> NamedTuple("Outputs", [("datasets", List[str]), ("benchmarks", List[str])]):  # type: ignore[valid-type]  # noqa: UP006
    """Find the face in every image (MTCNN), turn it upright and cut out 112x112. Aligned datasets pass as they are.

    Args:
        datasets: FaceDatasets to learn from.
        benchmarks: Benchmarks.
        workspace: Prefix (s3://) under which this run's artifacts go.
        parts: Prefixes under which `align_part` left the parts of the work, which are put together; empty to do it here.
        facts: Faces and rejected images of each dataset.

    Returns:
        datasets: The aligned FaceDatasets, in order.
        benchmarks: The aligned Benchmarks, in order.
    """
    import json
    from pathlib import Path

    from eolgul import steps, storage
    from eolgul.align.config import AlignConfig

    config = AlignConfig.from_parameters(locals())
    counted = {}

    def run(dataset: str) -> str:
        name = dataset.rstrip("/").rpartition("/")[2]
        merge = [storage.join(place, name) for place in parts]
        out = storage.join(workspace, "aligned", name)
        made = counted[name] = steps.align(dataset, out, config, merge=merge, keep_aligned=True)
        for key in ("images", "rejected"):
            facts.log_metric(f"{name} {key}", made[key])
        return str(made["artifact"])

    steps.check_alignment([*datasets, *benchmarks], config)
    aligned = [run(dataset) for dataset in datasets]
    sets = [run(benchmark) for benchmark in benchmarks]
    Path(facts.path).write_text(json.dumps(counted))
    return (aligned, sets)


if __name__ == "__main__":
    compiler.Compiler().compile(align, "align.yaml")

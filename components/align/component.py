"""Step 2 as a Kubeflow component."""

from typing import List, NamedTuple  # noqa: UP035 - KFP reads these names

from kfp import compiler, dsl

from eolgul.components import image


@dsl.component(base_image=image("align"), install_kfp_package=False)
def align(
    datasets: List[str],  # noqa: UP006
    benchmarks: List[str],  # noqa: UP006
    workspace: str,
    min_face_size: int,
    which: str,
    backend: str,
    device: str,
    workers: int,
    facts: dsl.Output[dsl.Metrics],
    anchor: str = "none",
    parts: List[str] = [],  # noqa: B006, UP006
) -> NamedTuple("Outputs", [("datasets", List[str]), ("benchmarks", List[str])]):  # type: ignore[valid-type]  # noqa: UP006
    """Find the face in every image (MTCNN), turn it upright and cut out 112x112. Aligned sources pass as they are.

    Args:
        datasets: FaceDatasets to learn from.
        benchmarks: Benchmarks.
        workspace: Prefix (s3://) under which this run's artifacts go.
        min_face_size: Smallest face side in pixels.
        which: Which face of several counts: "largest", "center", "annotated", or "single" (several: rejected).
        backend: "onnx" (CPU) or "torch".
        device: For torch: "cpu" or "cuda".
        workers: Threads.
        facts: Faces and rejected images of each dataset.
        anchor: "rig" serves K-FACE pictures without a found face with landmarks of the same person and camera.
        parts: Where `align_part` left each part of the work, if that is done; they are put together then.

    Returns:
        datasets: The aligned FaceDatasets, in order.
        benchmarks: The aligned Benchmarks, in order.
    """
    import json
    from pathlib import Path

    from eolgul import steps, storage
    from eolgul.model.package import DetectorSettings

    counted = {}

    def run(dataset: str) -> str:
        name = dataset.rstrip("/").rpartition("/")[2]
        made = steps.align(
            dataset,
            storage.join(workspace, "aligned", name),
            settings=DetectorSettings(min_face_size=min_face_size, which=which),
            keep_aligned=True,
            merge=[storage.join(place, name) for place in parts],
            anchor=anchor,
            backend=backend,
            device=device,
            workers=workers,
        )
        counted[name] = made
        for key in ("images", "rejected"):
            facts.log_metric(f"{name} {key}", made[key])
        return str(made["artifact"])

    aligned = [run(dataset) for dataset in datasets]
    sets = [run(benchmark) for benchmark in benchmarks]
    Path(facts.path).write_text(json.dumps(counted))
    return (aligned, sets)


if __name__ == "__main__":
    compiler.Compiler().compile(align, "align.yaml")

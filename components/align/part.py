"""Step 2 in parts: what runs beside each other in the pipeline's loop, before `component.align` puts it together."""

from typing import List  # noqa: UP035 - KFP reads this name

from kfp import dsl

from eolgul.components import image


@dsl.component(base_image=image("align"), install_kfp_package=False)
def align_plan(align_parts: int) -> List[str]:  # noqa: UP006
    """The names of so many parts, "1/n" to "n/n": what the loop goes over.

    Args:
        align_parts: How many tasks share the shards of every dataset.
    """
    from eolgul.errors import InputError

    if align_parts < 1:
        raise InputError(f"align_parts {align_parts}: expected 1 or more")
    return [f"{at}/{align_parts}" for at in range(1, align_parts + 1)]


@dsl.component(base_image=image("align"), install_kfp_package=False)
def align_part(
    part: str,
    datasets: List[str],  # noqa: UP006
    benchmarks: List[str],  # noqa: UP006
    workspace: str,
    min_face_size: int,
    which: str,
    anchor: str,
    backend: str,
    device: str,
    workers: int,
) -> str:
    """Do one part of every dataset's shards; the parameters but `part` are those of `align`.

    Args:
        part: "i/n".
        datasets: FaceDatasets to learn from.
        benchmarks: Benchmarks.
        workspace: Prefix (s3://) under which this run's artifacts go.
        min_face_size: Smallest face side in pixels.
        which: Which face of several counts.
        anchor: "rig" or "none"; a person's pictures are in one part, so what is known of the rig is too.
        backend: "onnx" (CPU) or "torch".
        device: For torch: "cpu" or "cuda".
        workers: Threads.

    Returns:
        The prefix under which the part of each dataset lies by its name.
    """
    from eolgul import steps, storage
    from eolgul.model.package import DetectorSettings

    place = storage.join(workspace, "aligned-parts", part.replace("/", "-of-"))
    for dataset in [*datasets, *benchmarks]:
        steps.align(
            dataset,
            storage.join(place, dataset.rstrip("/").rpartition("/")[2]),
            settings=DetectorSettings(min_face_size=min_face_size, which=which),
            keep_aligned=True,
            part=part,
            anchor=anchor,
            backend=backend,
            device=device,
            workers=workers,
        )
    return place

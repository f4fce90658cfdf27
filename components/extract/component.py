"""Step 1 as a Kubeflow component."""

from typing import List, NamedTuple  # noqa: UP035 - KFP reads these names

from kfp import compiler, dsl

from eolgul.components import image


@dsl.component(base_image=image("extract"), install_kfp_package=False)
def extract(
    sources: List[str],  # noqa: UP006
    benchmarks: List[str],  # noqa: UP006
    workspace: str,
    selection: str,
    min_images: int,
    max_identities: int,
    verify: bool,
    workers: int,
    facts: dsl.Output[dsl.Metrics],
) -> NamedTuple("Outputs", [("datasets", List[str]), ("benchmarks", List[str])]):  # type: ignore[valid-type]  # noqa: UP006
    """Turn raw sources (RecordIO, K-FACE, identity folders) and .bin sets into FaceDatasets.

    Args:
        sources: Places (s3://) of what to learn from: a folder with train.rec, a K-FACE tree, or identity folders.
        benchmarks: Places of .bin verification sets.
        workspace: Prefix (s3://) under which this run's artifacts go.
        selection: K-FACE conditions to take ("original", "all", "lights=L1-L3 cameras=C5-C10 …"); "" for all there are.
        min_images: Identity folders with fewer images are left out.
        max_identities: At most so many identity folders; 0 for all.
        verify: Decode every image, so that none that is broken inside meets the training.
        workers: Processes that read and check images.
        facts: Images, identities and rejected inputs of each source.

    Returns:
        datasets: One FaceDataset a source, in order.
        benchmarks: One Benchmark a .bin set, in order.
    """
    import json
    from pathlib import Path
    from typing import Any

    from eolgul import steps, storage

    counted = {}

    def run(source: str, **options: Any) -> str:
        out = storage.join(workspace, "extracted", steps.source_name(source))
        made = steps.extract(source, out, workers=workers, verify=verify, **options)
        counted[steps.source_name(source)] = made
        for key in ("images", "identities", "rejected"):
            if made[key] is not None:
                facts.log_metric(f"{steps.source_name(source)} {key}", made[key])
        return out

    steps.check_names([*sources, *benchmarks])
    options = {"selection": selection or None, "min_images": min_images, "max_identities": max_identities or None}
    datasets = [run(source, **options) for source in sources]
    sets = [run(benchmark) for benchmark in benchmarks]
    Path(facts.path).write_text(json.dumps(counted))
    return (datasets, sets)


if __name__ == "__main__":
    compiler.Compiler().compile(extract, "extract.yaml")

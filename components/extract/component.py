"""Step 1 as a Kubeflow component."""

from typing import List, NamedTuple  # noqa: UP035 - KFP reads these names

from kfp import compiler, dsl

from eolgul.components import documented, image
from eolgul.extract.config import ExtractConfig


@dsl.component(base_image=image("extract"), install_kfp_package=False)
@documented(ExtractConfig)
def extract(
    sources: List[str],  # noqa: UP006
    benchmarks: List[str],  # noqa: UP006
    workspace: str,
    facts: dsl.Output[dsl.Metrics],
    kind: str = "auto",
    name: str = "",
    max_pairs_lost: float = 0.1,
    selection: str = "",
    identity_from: str = "",
    depth: int = 0,
    identities: str = "",
    without_identities: str = "",
    min_images: int = 1,
    max_identities: int = 0,
    max_images_per_identity: int = 0,
    part: str = "",
    reader: str = "own",
    root: str = "",
    color: str = "rgb",
    aligned: bool = False,
    any_size: bool = False,
    verify: bool = False,
    workers: int = 2,
    benchmark_pairs: List[str] = [],  # noqa: B006, UP006
    benchmark_selection: str = "",
    benchmark_identities: str = "",
) -> NamedTuple("Outputs", [("datasets", List[str]), ("benchmarks", List[str])]):  # type: ignore[valid-type]  # noqa: UP006
    """Turn raw sources (RecordIO, K-FACE, identity folders) and benchmarks into FaceDatasets.

    An option that is only for some kinds of source applies to the sources of these kinds.

    Args:
        sources: Places (s3://) of what to learn from: a folder with train.rec, a K-FACE tree, or identity folders.
        benchmarks: Places of .bin verification sets, and of trees that benchmark_pairs make benchmarks of.
        workspace: Prefix (s3://) under which this run's artifacts go.
        benchmark_pairs: Places of pair lists (LFW's pairs.txt, K-FACE's Q1 to Q4); each makes one benchmark of each tree.
        benchmark_selection: K-FACE conditions of the trees among the benchmarks.
        benchmark_identities: File with one identity per line; take only these of the trees among the benchmarks.
        facts: Images, identities and rejected inputs of each source.

    Returns:
        datasets: One FaceDataset per source, in order.
        benchmarks: The Benchmarks, in order.
    """
    import json
    from pathlib import Path

    from eolgul import steps, storage
    from eolgul.extract.config import ExtractConfig

    learned, measured = steps.plan_extraction(
        sources,
        benchmarks,
        ExtractConfig.from_parameters(locals()),
        benchmark_pairs=benchmark_pairs,
        benchmark_selection=benchmark_selection or None,
        benchmark_identities=benchmark_identities or None,
    )
    counted = {}

    def run(extraction: steps.Extraction) -> str:
        label = str(extraction.config.name)
        out = storage.join(workspace, "extracted", label)
        counted[label] = steps.extract(extraction.source, out, extraction.config)
        for key in ("images", "identities", "rejected"):
            if counted[label][key] is not None:
                facts.log_metric(f"{label} {key}", counted[label][key])
        return out

    datasets = [run(extraction) for extraction in learned]
    steps.check_lists(learned, [counted[str(extraction.config.name)] for extraction in learned])
    sets = [run(extraction) for extraction in measured]
    Path(facts.path).write_text(json.dumps(counted))
    return (datasets, sets)


if __name__ == "__main__":
    compiler.Compiler().compile(extract, "extract.yaml")

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
    run: str,
    extract_counts: dsl.Output[dsl.Metrics],
    extract_table: dsl.Output[dsl.Markdown],
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
    parts: List[str] = [],  # noqa: B006, UP006
) -> NamedTuple("Outputs", [("datasets", List[str]), ("benchmarks", List[str])]):  # type: ignore[valid-type]  # noqa: UP006
    """Turn raw sources (RecordIO, K-FACE, identity folders) and benchmarks into FaceDatasets.

    An option that is only for some kinds of source applies to the sources of these kinds.

    Args:
        sources: Places (s3://) of what to learn from: a folder with train.rec, a K-FACE tree, or identity folders.
        benchmarks: Places of .bin verification sets, and of trees that benchmark_pairs make benchmarks of.
        workspace: Prefix (s3://) of the artifacts, by content, and of what each run made or found.
        run: The run's id.
        benchmark_pairs: Places of pair lists (LFW's pairs.txt, K-FACE's Q1 to Q4); each makes one benchmark of each tree.
        benchmark_selection: K-FACE conditions of the trees among the benchmarks.
        benchmark_identities: File with one identity per line; take only these of the trees among the benchmarks.
        parts: What the `extract_part` tasks made (JSON lists of references), which is put together; empty to do it here.
        extract_counts: Images, identities and rejected inputs of all sources.
        extract_table: The same of each source and benchmark.

    Returns:
        datasets: One FaceDataset per source, in order, as place#sha256:digest.
        benchmarks: The Benchmarks, in order.
    """
    import json
    from pathlib import Path

    from eolgul.extract.config import ExtractConfig
    from eolgul.steps import figures, tasks
    from eolgul.steps.store import Store

    learned, measured = tasks.extract_all(
        Store(workspace, run),
        sources,
        benchmarks,
        ExtractConfig.from_parameters(locals()),
        benchmark_pairs=benchmark_pairs,
        benchmark_selection=benchmark_selection or None,
        benchmark_identities=benchmark_identities or None,
        parts=[json.loads(part) for part in parts],
    )
    columns = ("images", "identities", "rejected")
    figures.log_metrics(extract_counts, figures.total(learned, *columns))
    Path(extract_table.path).write_text(figures.table([*learned, *measured], (*columns, "pairs")), encoding="utf-8")
    return ([one["reference"] for one in learned], [one["reference"] for one in measured])


if __name__ == "__main__":
    compiler.Compiler().compile(extract, "extract.yaml")

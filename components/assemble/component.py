"""Step 3 as a Kubeflow component."""

from typing import List, NamedTuple  # noqa: UP035 - KFP reads this name

from kfp import compiler, dsl

from eolgul.assemble.config import AssembleConfig
from eolgul.components import documented, image


@dsl.component(base_image=image("assemble"), install_kfp_package=False)
@documented(AssembleConfig)
def assemble(
    datasets: List[str],  # noqa: UP006
    workspace: str,
    run: str,
    assemble_counts: dsl.Output[dsl.Metrics],
    validation: float = 0.05,
    calibration: float = 0.15,
    test: float = 0.15,
    most_held_out: int = 1000,
    held_out_sources: List[str] = [],  # noqa: B006, UP006
    exclude: List[str] = [],  # noqa: B006, UP006
    seed: int = 0,
) -> NamedTuple("Outputs", [("assembled", str), ("uri", str)]):  # type: ignore[valid-type]
    """Merge aligned sources and split them by identity, so that nobody is in two splits.

    Args:
        datasets: Aligned FaceDatasets.
        workspace: Prefix (s3://) of the artifacts, by content, and of what each run made or found.
        run: The run's id.
        assemble_counts: Identities and images of each split.

    Returns:
        assembled: The assembled FaceDataset, as place#sha256:digest.
        uri: Its place alone.
    """
    import sys

    from eolgul.assemble.config import AssembleConfig
    from eolgul.assemble.step import lines
    from eolgul.steps import figures, tasks
    from eolgul.steps.store import Store

    made = tasks.assemble_all(Store(workspace, run), datasets, AssembleConfig.from_parameters(locals()))
    for line in lines(made):
        print(line, file=sys.stderr)
    counts = {f"{split}_{key}": value for split, values in made["splits"].items() for key, value in values.items()}
    figures.log_metrics(assemble_counts, counts)
    return (made["reference"], made["artifact"])


if __name__ == "__main__":
    compiler.Compiler().compile(assemble, "assemble.yaml")

"""Step 3 as a Kubeflow component."""

from typing import List  # noqa: UP035 - KFP reads this name

from kfp import compiler, dsl

from eolgul.assemble.config import AssembleConfig
from eolgul.components import documented, image


@dsl.component(base_image=image("assemble"), install_kfp_package=False)
@documented(AssembleConfig)
def assemble(
    datasets: List[str],  # noqa: UP006
    workspace: str,
    facts: dsl.Output[dsl.Metrics],
    validation: float = 0.05,
    calibration: float = 0.15,
    test: float = 0.15,
    most_held_out: int = 1000,
    held_out_sources: List[str] = [],  # noqa: B006, UP006
    exclude: List[str] = [],  # noqa: B006, UP006
    seed: int = 0,
    copy: bool = False,
) -> str:
    """Merge aligned sources and split them by identity, so that nobody is in two splits.

    Args:
        datasets: Aligned FaceDatasets.
        workspace: Prefix (s3://) under which this run's artifacts go.
        facts: Identities and images of each split.

    Returns:
        The place of the assembled FaceDataset.
    """
    import json
    import sys
    from pathlib import Path

    from eolgul import steps, storage
    from eolgul.assemble.config import AssembleConfig
    from eolgul.assemble.splits import lines

    config = AssembleConfig.from_parameters(locals())
    out = storage.join(workspace, "assembled")
    made = steps.assemble(datasets, out, config)
    for line in lines(made):
        print(line, file=sys.stderr)
    for split, counts in made["splits"].items():
        for key, value in counts.items():
            facts.log_metric(f"{split} {key}", value)
    Path(facts.path).write_text(json.dumps(made))
    return out


if __name__ == "__main__":
    compiler.Compiler().compile(assemble, "assemble.yaml")

"""Step 3 as a Kubeflow component."""

from typing import List  # noqa: UP035 - KFP reads this name

from kfp import compiler, dsl

from eolgul.components import image


@dsl.component(base_image=image("assemble"), install_kfp_package=False)
def assemble(
    datasets: List[str],  # noqa: UP006
    workspace: str,
    validation: float,
    calibration: float,
    test: float,
    held_out_sources: List[str],  # noqa: UP006
    seed: int,
    facts: dsl.Output[dsl.Metrics],
) -> str:
    """Merge aligned sources and split them by identity, so that nobody is in two splits.

    Args:
        datasets: Aligned FaceDatasets.
        workspace: Prefix (s3://) under which this run's artifacts go.
        validation: Share of identities that choose the best epoch.
        calibration: Share of identities that set the threshold.
        test: Share of identities the result is measured on.
        held_out_sources: Names of the sources to hold people back from; empty for all.
        seed: Decides who is held back.
        facts: Identities and images of each split.

    Returns:
        The place of the assembled FaceDataset.
    """
    import json
    from pathlib import Path

    from eolgul import steps, storage

    out = storage.join(workspace, "assembled")
    shares = {"validation": validation, "calibration": calibration, "test": test}
    made = steps.assemble(datasets, out, held_out_sources=held_out_sources, seed=seed, **shares)
    for split, counts in made["splits"].items():
        for key, value in counts.items():
            facts.log_metric(f"{split} {key}", value)
    Path(facts.path).write_text(json.dumps(made))
    return out


if __name__ == "__main__":
    compiler.Compiler().compile(assemble, "assemble.yaml")

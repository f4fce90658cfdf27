"""Step 4 as a Kubeflow component."""

from typing import List  # noqa: UP035 - KFP reads this name

from kfp import compiler, dsl

from eolgul.components import image


@dsl.component(base_image=image("train"), install_kfp_package=False)
def train(
    dataset: str,
    workspace: str,
    checkpoints: str,
    recipe: str,
    overrides: List[str],  # noqa: UP006
    device: str,
    workers: int,
    facts: dsl.Output[dsl.Metrics],
) -> str:
    """Train an embedding; a run that was stopped goes on from its last checkpoint.

    Args:
        dataset: The assembled FaceDataset.
        workspace: Prefix (s3://) under which this run's artifacts go.
        checkpoints: Prefix under which checkpoints are kept, by recipe and dataset.
        recipe: Name of the training recipe ("irse50-ms1m-kface", "mobilefacenet-ms1m-kface", "iresnet50-ms1m", "demo", …).
        overrides: Recipe values to change, as "key=value".
        device: "auto", "cpu" or "cuda".
        workers: Processes that decode images.
        facts: Training loss and figures on validation people, of the last epoch.

    Returns:
        The place of the ModelPackage.
    """
    import json
    from pathlib import Path
    from typing import Any

    from eolgul import steps, storage
    from eolgul.train.journal import training_line

    last = {}

    def report(row: dict[str, Any]) -> None:
        training_line(row)
        if "validation" in row:
            last.update(
                {"train_loss": row["train_loss"], **{f"validation {k}": v for k, v in row["validation"].items()}}
            )

    out = storage.join(workspace, "model")
    made = steps.train(
        dataset,
        out,
        recipe=recipe,
        overrides=overrides,
        checkpoints=checkpoints,
        device=device,
        workers=workers,
        report=report,
    )
    for key, value in last.items():
        facts.log_metric(key, value)
    Path(facts.path).write_text(json.dumps(made | last))
    return out


if __name__ == "__main__":
    compiler.Compiler().compile(train, "train.yaml")

"""Step 4 as a Kubeflow component."""

from typing import List  # noqa: UP035 - KFP reads this name

from kfp import compiler, dsl

from eolgul.components import documented, image
from eolgul.train.config import TrainConfig


@dsl.component(base_image=image("train"), install_kfp_package=False)
@documented(TrainConfig)
def train(
    dataset: str,
    workspace: str,
    facts: dsl.Output[dsl.Metrics],
    recipe: str = "mobilefacenet-ms1m-kface",
    overrides: List[str] = [],  # noqa: B006, UP006
    checkpoints: str = "",
    checkpoint_seconds: float = 60.0,
    init: str = "",
    init_color: str = "",
    device: str = "auto",
    gpus: int = 1,
    nodes: int = 1,
    runtime: str = "torch-distributed",
    threads: int = 0,
    workers: int = 2,
    stall_seconds: float = 40.0,
    tensorboard: bool = True,
) -> str:
    """Train a model; a run that was stopped goes on from its last checkpoint.

    Args:
        dataset: The assembled FaceDataset.
        workspace: Prefix (s3://) under which this run's artifacts go.
        facts: Training loss and figures on validation people and on as many training people, of the last epoch.

    Returns:
        The place of the ModelPackage.
    """
    import json
    from pathlib import Path
    from typing import Any

    from eolgul import steps, storage
    from eolgul.train.config import TrainConfig
    from eolgul.train.journal import training_line

    config = TrainConfig.from_parameters(locals())
    last = {}

    def report(row: dict[str, Any]) -> None:
        training_line(row)
        if "validation" in row:
            last.update(
                {"train_loss": row["train_loss"], **{f"validation {k}": v for k, v in row["validation"].items()}}
            )
            last.update({f"training people {k}": v for k, v in (row["training_people"] or {}).items()})

    out = storage.join(workspace, "model")
    made = steps.train(dataset, out, config, report=report)
    for key, value in last.items():
        facts.log_metric(key, value)
    Path(facts.path).write_text(json.dumps(made | last))
    return out


if __name__ == "__main__":
    compiler.Compiler().compile(train, "train.yaml")

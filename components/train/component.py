"""Step 4 as a Kubeflow component."""

from typing import List, NamedTuple  # noqa: UP035 - KFP reads this name

from kfp import compiler, dsl

from eolgul.components import documented, image
from eolgul.train.config import TrainConfig


@dsl.component(base_image=image("train"), install_kfp_package=False)
@documented(TrainConfig)
def train(
    dataset: str,
    workspace: str,
    run: str,
    training_figures: dsl.Output[dsl.Metrics],
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
    stream: bool = False,
    stream_cache: float = 20.0,
    tensorboard: bool = True,
) -> NamedTuple("Outputs", [("model", str), ("uri", str)]):  # type: ignore[valid-type]
    """Train a model; a run that was stopped goes on from its last checkpoint.

    Args:
        dataset: The assembled FaceDataset.
        workspace: Prefix (s3://) of the artifacts, by content, and of what each run made or found.
        run: The run's id.
        training_figures: Training loss and figures on validation people and on as many training people, of the best epoch.

    Returns:
        model: The ModelPackage, as place#sha256:digest.
        uri: Its place alone.
    """
    from eolgul.steps import figures, tasks
    from eolgul.steps.store import Store
    from eolgul.train.config import TrainConfig
    from eolgul.train.journal import TrainingLines

    made = tasks.train_one(Store(workspace, run), dataset, TrainConfig.from_parameters(locals()), TrainingLines())
    figures.log_metrics(training_figures, made["figures"])
    return (made["reference"], made["artifact"])


if __name__ == "__main__":
    compiler.Compiler().compile(train, "train.yaml")

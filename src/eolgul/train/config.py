"""The options of step 4 besides the recipe itself: which recipe, where checkpoints are kept, what the work runs on."""

from __future__ import annotations

from dataclasses import dataclass

from eolgul.config import Config, option
from eolgul.errors import InputError
from eolgul.train.recipe import Recipe, recipe_names

VERSION = 3
"""Of a training's results: raise it when the same inputs and recipe give others. Here, so that a model that was trained before
is found without PyTorch."""


@dataclass(frozen=True)
class TrainConfig(Config):
    """What a training run is started with. What decides the result is in the recipe (`eolgul.train.recipe`)."""

    recipe: str = option("mobilefacenet-ms1m-kface", f"A .toml file or one of {', '.join(recipe_names())}.")
    overrides: tuple[str, ...] = option((), "Recipe keys to change, each as key=value.")
    checkpoints: str | None = option(
        None, "Where checkpoints are kept, by recipe and dataset. Default: beside the model. Path or s3://."
    )
    checkpoint_seconds: float = option(
        60.0,
        "Least seconds between two checkpoints; more where saving would take over 1 % of the time. One more is written after "
        "every epoch.",
        least=0,
        in_recipe=False,
    )
    init: str | None = option(
        None,
        "Fine-tuning: begin with the weights of a ModelPackage, or of a .safetensors, .pth or .pt file. Path or s3://. "
        "The recipe finetune-kface is made for it.",
    )
    init_color: str | None = option(
        None,
        "Fine-tuning: RGB or BGR, the order of colours that a weights file was trained on; a package says it itself.",
    )
    device: str = option("auto", "Device of the training: auto, cpu, cuda or cuda:<number>.")
    gpus: int = option(
        1,
        "GPUs of each machine: with more than one, torchrun starts a process for each (on a CPU, so many processes).",
        least=1,
        most=64,
    )
    nodes: int = option(
        1,
        "Machines: with more than one, a TrainJob of Kubeflow Trainer trains in the cluster that this pod runs in.",
        least=1,
        most=1024,
    )
    runtime: str = option("torch-distributed", "The training runtime of Kubeflow Trainer that the nodes use.")
    threads: int | None = option(None, "Threads of torch. Default: one per core.", least=1)
    workers: int = option(2, "Processes that decode images; with 0 the training process does.", least=0)
    stall_seconds: float = option(
        40.0, "End with an error when a batch is missing and no worker has read an image for this long.", least=1
    )
    stream: bool = option(
        False,
        "Read the images of a dataset in S3 from there as they are needed, instead of fetching all of it before.",
        in_recipe=False,
    )
    stream_cache: float = option(
        20.0,
        "stream: gigabytes of this machine's disk for images that were read once; 0 for none.",
        least=0,
        in_recipe=False,
    )
    tensorboard: bool = option(True, "Write TensorBoard's event files beside metrics.jsonl.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.init_color not in (None, "RGB", "BGR"):
            raise InputError(f"init_color {self.init_color!r}: expected RGB or BGR")
        if self.init_color and not self.init:
            raise InputError(f"init_color {self.init_color}: is only for --init")
        if not self.stream and self.stream_cache != 20.0:
            raise InputError(f"stream_cache {self.stream_cache:g}: is only for stream")
        if self.nodes == 1 and self.runtime != "torch-distributed":
            raise InputError(f"runtime {self.runtime}: is only for several nodes")
        if self.workers == 0 and self.stall_seconds != 40.0:
            raise InputError(f"stall_seconds {self.stall_seconds:g}: is only for worker processes, but workers is 0")

    def load_recipe(self) -> Recipe:
        """Read the recipe with its overrides. Raises InputError for an unknown recipe or key, or a wrong value."""
        return Recipe.load(self.recipe, self.overrides)

"""The command line that torchrun and a TrainJob start: the same options as in this process, and no second launch."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from eolgul import steps
from eolgul.cli.main import app
from eolgul.errors import InputError
from eolgul.kubeflow.trainjob import Nodes, Trainer
from eolgul.train.config import TrainConfig
from eolgul.train.launch import on_nodes, torchrun, words

OTHERS: dict[str, Any] = {
    "recipe": "demo",
    "overrides": ("epochs=3", "batch_size=8"),
    "checkpoints": "s3://eolgul/checkpoints",
    "checkpoint_seconds": 7.5,
    "init": "s3://eolgul/model#sha256:abc",
    "init_color": "BGR",
    "device": "cpu",
    "threads": 3,
    "workers": 5,
    "stall_seconds": 9.0,
    "stream": True,
    "stream_cache": 3.5,
    "tensorboard": False,
}
LAUNCH: dict[str, Any] = {"gpus": 2, "nodes": 3, "runtime": "mine"}


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, TrainConfig]]:
    """What `eolgul train` hands to its step."""
    calls: list[tuple[str, str, TrainConfig]] = []

    def train(dataset: str, out: str, config: TrainConfig, **rest: object) -> dict[str, Any]:
        calls.append((dataset, out, config))
        return {}

    monkeypatch.setattr(steps, "train", train)
    return calls


@pytest.mark.parametrize("values", [{}, OTHERS])
def test_the_command_line_gives_the_same_options(
    values: dict[str, Any], taken: list[tuple[str, str, TrainConfig]]
) -> None:
    config = TrainConfig(**values, **LAUNCH)
    result = CliRunner().invoke(app, words("-data", "out", config))
    assert result.exit_code == 0, result.output
    assert taken == [("-data", "out", TrainConfig(**values))]


def test_every_option_is_tried() -> None:
    """A new option of the training must reach the processes too."""
    default = TrainConfig()
    assert {item.name for item in fields(TrainConfig)} == set(OTHERS) | set(LAUNCH)
    assert all(value != getattr(default, name) for name, value in {**OTHERS, **LAUNCH}.items())


def test_no_launch_within_a_launch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(InputError, match="gpus 2: torchrun has started this process already"):
        torchrun("data", str(tmp_path), TrainConfig(gpus=2))


class Cluster:
    """Stands in for the TrainJob's cluster: keeps what it is asked for."""

    def __init__(self) -> None:
        self.jobs: list[Nodes] = []

    def run(self, job: Nodes) -> None:
        self.jobs.append(job)


@pytest.fixture
def in_a_cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    made = Cluster()
    monkeypatch.setattr(Trainer, "here", lambda say: made)
    return made


@pytest.mark.parametrize(("device", "gpus"), [("auto", 4), ("cpu", 0)])
def test_several_machines_get_the_same_words(in_a_cluster: Cluster, device: str, gpus: int) -> None:
    config = TrainConfig(recipe="demo", overrides=("epochs=3",), gpus=4, nodes=2, device=device, runtime="mine")
    on_nodes("s3://b/data#sha256:1", "s3://b/model", config)
    (job,) = in_a_cluster.jobs
    assert (job.nodes, job.processes, job.gpus, job.runtime) == (2, 4, gpus, "mine")
    assert job.command == words("s3://b/data#sha256:1", "s3://b/model", config)
    assert "--nodes" not in job.command and "--gpus" not in job.command


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"dataset": "data"}, "data: the dataset must be in S3"),
        ({"out": "model"}, "model: the model must be in S3"),
        ({"init": "weights"}, "weights: init must be in S3"),
        ({"checkpoints": "/ck"}, "/ck: checkpoints must be in S3"),
        ({"recipe": "mine.toml"}, "recipe mine.toml: other machines do not have that file"),
    ],
)
def test_what_other_machines_do_not_have(in_a_cluster: Cluster, values: dict[str, str], says: str) -> None:
    given = {"dataset": "s3://b/data", "out": "s3://b/model", "recipe": "demo", **values}
    dataset, out = given.pop("dataset"), given.pop("out")
    with pytest.raises(InputError, match=says):
        on_nodes(dataset, out, TrainConfig(nodes=2, **given))  # type: ignore[arg-type]
    assert not in_a_cluster.jobs


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"gpus": 0}, "gpus 0: expected 1 to 64"),
        ({"nodes": 0}, "nodes 0"),
        ({"runtime": "x"}, "only for several nodes"),
    ],
)
def test_launches_that_are_none(values: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        TrainConfig(**values)

"""Training on several processes of this machine: `torchrun` starts `eolgul train` once per GPU."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import IO, Any

from eolgul import storage
from eolgul.config import offered
from eolgul.errors import InputError, printable
from eolgul.kubeflow.logs import first_refusal
from eolgul.kubeflow.trainjob import Nodes, Trainer
from eolgul.train.config import TrainConfig
from eolgul.train.recipe import recipe_names
from eolgul.workers import usable_cpus

_ALONE = TrainConfig()
_LAUNCH: dict[str, Any] = {"gpus": _ALONE.gpus, "nodes": _ALONE.nodes, "runtime": _ALONE.runtime}
_STOP = 60.0  # seconds that torchrun's processes have to end after SIGTERM; torchrun itself kills them after 30
# torchrun, which ends (and its processes with it) when this process does, even by SIGKILL.
_TORCHRUN = """
import runpy
from eolgul.workers import end_with_parent
end_with_parent()
runpy.run_module("torch.distributed.run", run_name="__main__", alter_sys=True)
"""


def is_launched() -> bool:
    """Whether torchrun (or another launcher with its variables) has started this process."""
    return "RANK" in os.environ


def words(dataset: str, out: str, config: TrainConfig) -> list[str]:
    """The command line of `eolgul train` for these options, without those of the launch itself.

    Args:
        dataset: The assembled FaceDataset.
        out: Where the ModelPackage goes.
        config: The options; those that have their default are left out.
    """
    config = replace(config, **_LAUNCH)
    options: list[str] = []
    for item in offered(TrainConfig):
        value, flag = getattr(config, item.name), item.name.replace("_", "-")
        if value == item.default:
            continue
        if item.name == "overrides":
            options += [word for one in value for word in ("--set", one)]
        elif isinstance(value, bool):
            options.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            options += [f"--{flag}", str(value)]
    # A place may begin with a dash; an option's value may, too, but follows its flag.
    return ["train", *options, "--", dataset, out]


def torchrun(
    dataset: str, out: str, config: TrainConfig, *, command: Sequence[str] = ("-m", "eolgul")
) -> dict[str, Any]:
    """Train on `config.gpus` processes of this machine and return the facts that the first one prints.

    The processes speak on stderr as one would. They end with this process, and when it is interrupted.

    Args:
        dataset: The assembled FaceDataset.
        out: Where the ModelPackage goes.
        config: The options.
        command: What torchrun starts, before the words of `eolgul train`.

    Raises:
        InputError: The training failed, with the sentence of the process that failed first.
    """
    if is_launched():
        raise InputError(f"gpus {config.gpus}: torchrun has started this process already; leave gpus out")
    each = max(1, usable_cpus() // config.gpus)
    environment = {"OMP_NUM_THREADS": str(each)} | os.environ | {"PYTHONSAFEPATH": "1"}
    launcher = ["-c", _TORCHRUN, "--standalone", "--nproc-per-node", str(config.gpus)]
    process = subprocess.Popen(
        [sys.executable, *launcher, *command, *words(dataset, out, config)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace", env=environment,
    )  # fmt: skip
    assert process.stdout is not None and process.stderr is not None
    said: deque[str] = deque(maxlen=2000)
    printed: deque[str] = deque(maxlen=100)
    readers = [
        threading.Thread(target=_pass_on, args=(process.stderr, said), daemon=True),
        threading.Thread(target=_pass_on, args=(process.stdout, printed, False), daemon=True),
    ]
    for reader in readers:
        reader.start()
    try:
        status = process.wait()
    finally:
        _stop(process)
        for reader in readers:
            reader.join(5)
    if status:
        raise InputError(
            f"training on {config.gpus} processes failed: {first_refusal(said) or f'torchrun ended with status {status}'}"
        )
    for line in reversed(printed):
        with contextlib.suppress(ValueError):
            facts = json.loads(line)
            if isinstance(facts, dict):
                return facts
    raise InputError(f"training on {config.gpus} processes ended without a result")


def on_nodes(dataset: str, out: str, config: TrainConfig, say: Callable[[str], None] | None = None) -> None:
    """Train on `config.nodes` machines of the cluster that this pod runs in; returns when the package is at `out`.

    Args:
        dataset: The assembled FaceDataset, in S3.
        out: Where the ModelPackage goes, in S3.
        config: The options. `device` cpu asks for no GPU.
        say: Called with each line of the first node's log. Default: print on stderr.

    Raises:
        InputError: A place or the recipe is one that other machines do not have, this is not a pod, the cluster
            refuses the TrainJob, or the training failed.
    """
    if is_launched():
        raise InputError(f"nodes {config.nodes}: torchrun has started this process already; leave nodes out")
    places = {"the dataset": dataset, "the model": out, "init": config.init, "checkpoints": config.checkpoints}
    for what, place in places.items():
        if place and not storage.is_s3(place):
            raise InputError(
                f"{place}: {what} must be in S3 (s3://bucket/key) to be the same for {config.nodes} machines"
            )
    if config.recipe not in recipe_names():
        raise InputError(
            f"recipe {config.recipe}: other machines do not have that file; expected one of {', '.join(recipe_names())}, "
            "with overrides"
        )
    trainer = Trainer.here(say or _on_stderr)
    gpus = 0 if config.device == "cpu" else config.gpus
    trainer.run(Nodes(words(dataset, out, config), config.nodes, config.gpus, gpus, config.runtime))


def _on_stderr(line: str) -> None:
    print(printable(line), file=sys.stderr, flush=True)


def _pass_on(stream: IO[str], kept: deque[str], show: bool = True) -> None:
    """Keep the lines of a stream, and show them on stderr."""
    for line in stream:
        kept.append(line.rstrip("\n"))
        if show:
            print(line, end="", file=sys.stderr, flush=True)


def _stop(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(_STOP)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

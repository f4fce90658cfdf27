"""What only a real launcher and a real compiler show: `torchrun` on two processes, and `torch.compile`."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.places import TESTS
from support.training import PlainNet, tiny

from eolgul.errors import InputError
from eolgul.model.package import ModelPackage
from eolgul.train import backbones
from eolgul.train.config import TrainConfig
from eolgul.train.launch import torchrun, words
from eolgul.train.loop import train

WITH_PLAIN = """
from eolgul.cli import main
from eolgul.train import backbones
from support.training import PlainNet
backbones.BACKBONES["plain"] = PlainNet
main()
"""


def test_two_processes_give_one_package(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """What `--gpus 2` does on a CPU: torchrun over gloo; the first process packages, the images are all seen once."""
    overrides = [
        "backbone=plain",
        "embedding_size=32",
        "batch_size=12",
        "epochs=2",
        "precision=fp32",
        "warmup_epochs=0",
    ]
    config = TrainConfig(recipe="demo-full", overrides=tuple(overrides), gpus=2)
    script = tmp_path / "eolgul_with_a_small_network.py"
    script.write_text(WITH_PLAIN)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", str(TESTS) + os.pathsep + os.environ.get("PYTHONPATH", ""))

    def curve(out: Path, digest: str) -> dict[str, object]:
        assert ModelPackage.open(out).digest == digest
        first: dict[str, object] = json.loads((out / "training.json").read_text())["curve"][0]
        return first

    facts = torchrun(str(toy), str(tmp_path / "two"), config, command=(str(script),))
    together = curve(tmp_path / "two", facts["digest"])
    assert "epoch 2: loss" in capfd.readouterr().err  # the processes speak as one would
    done = subprocess.run(
        [sys.executable, str(script), *words(str(toy), str(tmp_path / "one"), config)],
        capture_output=True, text=True, timeout=1200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("{")]
    alone = curve(tmp_path / "one", json.loads(line)["digest"])
    assert together.keys() == alone.keys()
    assert together["train_loss"] == pytest.approx(alone["train_loss"], rel=1e-3)  # the network has no batch norm


REFUSING = """
import os
from eolgul.errors import InputError
from eolgul.train import loop
if os.environ["RANK"] == "0":
    def refuse(*args):
        raise InputError("the first process refuses")
    loop.Clock = refuse
"""


def test_when_one_process_refuses_the_other_ends_with_a_sentence(toy: Path, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    script = tmp_path / "refusing.py"
    script.write_text(REFUSING + WITH_PLAIN)
    overrides = ["backbone=plain", "embedding_size=32", "batch_size=12", "epochs=1", "precision=fp32"]
    words = ["train", str(toy), str(tmp_path / "out"), "--recipe", "demo-full"]
    words += [word for one in overrides for word in ("--set", one)]
    started = [
        subprocess.Popen(
            [sys.executable, str(script), *words],
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(TESTS), "RANK": rank,
                 "WORLD_SIZE": "2", "LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in ("0", "1")
    ]  # fmt: skip
    said = [process.communicate(timeout=300)[1] for process in started]
    assert [process.returncode for process in started] == [2, 2], said
    assert "the first process refuses" in said[0]
    assert "process 1 of 2: another process of this run ended" in " ".join(said[1].split())
    assert not any("Traceback" in text for text in said)


def test_a_refusal_of_the_processes_is_one_sentence(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    config = TrainConfig(recipe="demo-full", overrides=("batch_size=13",), gpus=2)
    with pytest.raises(InputError, match=r"training on 2 processes failed: .*batch_size") as caught:
        torchrun(str(toy), str(tmp_path / "out"), config)
    assert "another process" not in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile on a CPU needs g++")
def test_a_compiled_network_learns_the_same(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without dropout, whose random numbers a compiled network draws in another way."""
    monkeypatch.setitem(backbones.BACKBONES, "plain", PlainNet)
    made = [
        train(toy, tmp_path / name, recipe=tiny("backbone=plain", "epochs=2", f"compile={name}"))
        for name in ("true", "false")
    ]
    one, other = (load_file(package.path / "model.safetensors") for package in made if package is not None)
    assert one.keys() == other.keys()  # no trace of the wrapper in the names
    for name in one:
        assert torch.allclose(one[name], other[name], rtol=1e-3, atol=1e-4), name

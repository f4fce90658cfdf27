"""Training on two machines that share nothing but S3: the same model as on one, also when both are lost in between."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.places import TESTS
from support.training import TINY

from eolgul import storage
from eolgul.errors import InputError
from eolgul.train.distributed import joined

# Every process is a copy of one that has imported everything, which takes most of the time.
SCRIPT = """
import json
import os
import sys
import tempfile
from pathlib import Path

from eolgul import storage
from eolgul.cli.main import main
from eolgul.train import backbones
from eolgul.train.loop import train
from support.training import TinyNet, tiny

backbones.BACKBONES["tiny"] = TinyNet


def some_steps(dataset, checkpoints):
    out = Path(tempfile.gettempdir()) / "model"
    assert train(Path(dataset), out, recipe=tiny("epochs=2"), checkpoints=checkpoints, max_steps=8, workers=0) is None


def run(disks, port, words):
    children = []
    for number, disk in enumerate(disks):
        child = os.fork()
        if child:
            children.append(child)
            continue
        same = disks.count(disk) > 1
        Path(disk).mkdir(exist_ok=True)
        os.environ |= {
            "RANK": str(number), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
            "LOCAL_RANK": str(number if same else 0), "GROUP_RANK": str(0 if same else number),
            "EOLGUL_S3_CACHE": disk + "/cache",
        }
        tempfile.tempdir = disk
        storage.forget_settings()
        status = 1
        try:
            if words[0] == "some-steps":
                some_steps(*words[1:])
            else:
                sys.argv = ["eolgul", *words]
                main()
            status = 0
        except SystemExit as ended:
            status = ended.code or 0
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    assert all(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0 for child in children)


for disks, port, words in json.loads(sys.argv[1]):
    run(disks, port, words)
    print("--", flush=True)
"""


def free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def test_two_machines_are_lost_and_two_others_go_on(toy: Path, tmp_path: Path, s3: str) -> None:
    data, place = f"{s3}/machines/data", f"{s3}/machines"
    storage.publish(toy, data)
    options = [
        "--recipe",
        "demo-full",
        *(word for one in [*TINY, "epochs=2"] for word in ("--set", one)),
        "--workers",
        "0",
    ]
    one, a, b, c, d = (str(tmp_path / name) for name in ("one", "a", "b", "c", "d"))
    phases = [
        ([one, one], free_port(), ["train", *options, data, str(tmp_path / "alone")]),
        ([a, b], free_port(), ["some-steps", str(toy), f"{place}/checkpoints"]),
        ([c, d], free_port(), ["train", *options, "--checkpoints", f"{place}/checkpoints", data, f"{place}/model"]),
    ]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(phases)],
        env=environment, capture_output=True, text=True, timeout=1200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    alone, steps, together = (part.strip().splitlines() for part in done.stdout.split("--\n")[:3])
    assert len(alone) == len(together) == 1 and not steps  # the first process of all speaks
    assert json.loads(together[0])["artifact"] == f"{place}/model"
    one_model = load_file(tmp_path / "alone" / "model.safetensors")
    model = load_file(storage.fetch(f"{place}/model") / "model.safetensors")
    assert one_model.keys() == model.keys()
    assert all(one_model[name].equal(model[name]) for name in model)
    # An epoch has six steps. Eight were done by the machines that were lost, which report nothing here: the others do not
    # make them again.
    said = [line.partition(":")[0] for line in done.stderr.splitlines() if line.startswith("epoch ")]
    assert said == ["epoch 1", "epoch 2", "epoch 2"]
    (run,) = storage.list_names(f"{place}/checkpoints")
    assert any(name.endswith(".1") for name in storage.list_names(f"{place}/checkpoints/{run}"))


@pytest.mark.parametrize("variable", ["GROUP_RANK", "LOCAL_RANK"])
def test_a_launchers_variable_that_is_no_number(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, "x")
    with pytest.raises(InputError, match=f"{variable}.* must be"), joined(torch.device("cpu")):
        pass

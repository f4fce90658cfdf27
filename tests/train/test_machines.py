"""Training on two machines that share nothing but S3: the same model as on one, also when both are lost in between."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file
from support.places import TESTS
from support.training import TINY

from eolgul import storage

SCRIPT = """
import os
import sys
from pathlib import Path

from eolgul.train import backbones
from support.training import TinyNet, tiny

backbones.BACKBONES["tiny"] = TinyNet
if sys.argv[1] == "some-steps":
    from eolgul.train.loop import train
    _, _, dataset, checkpoints = sys.argv
    made = train(Path(dataset), Path(os.environ["TMPDIR"]) / "model", recipe=tiny("epochs=2"), checkpoints=checkpoints,
                 max_steps=8, workers=0)
    assert made is None
else:
    from eolgul.cli.main import main
    main()
"""


def run(script: Path, disks: list[Path], *words: str) -> list[str]:
    """One process on each disk, as torchrun starts them with one process per machine; what they print on stdout."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    started = []
    for number, disk in enumerate(disks):
        disk.mkdir(exist_ok=True)
        same_disk = disks.count(disk) > 1
        environment = {
            **os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")]),
            "OMP_NUM_THREADS": "1", "RANK": str(number), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
            "LOCAL_RANK": str(number if same_disk else 0), "GROUP_RANK": str(0 if same_disk else number),
            "TMPDIR": str(disk), "HOME": str(disk), "EOLGUL_S3_CACHE": str(disk / "cache"),
        }  # fmt: skip
        started.append(
            subprocess.Popen([sys.executable, str(script), *words], env=environment, text=True,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        )  # fmt: skip
    said = [process.communicate(timeout=600) for process in started]
    assert [process.returncode for process in started] == [0, 0], [err[-2000:] for _, err in said]
    return [out for out, _ in said]


def test_two_machines_are_lost_and_two_others_go_on(toy: Path, tmp_path: Path, s3: str) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    data, place = f"{s3}/machines/data", f"{s3}/machines"
    storage.publish(toy, data)
    options = ["--recipe", "demo", *(word for one in [*TINY, "epochs=2"] for word in ("--set", one)), "--workers", "0"]
    disks = [tmp_path / name for name in ("one", "a", "b", "c", "d")]

    together = run(script, [disks[0]] * 2, "train", *options, data, str(tmp_path / "one-machine"))
    assert sum(out.count("digest") for out in together) == 1

    run(script, disks[1:3], "some-steps", str(toy), f"{place}/checkpoints")
    assert not storage.exists(f"{place}/model")
    out = run(script, disks[3:], "train", *options, "--checkpoints", f"{place}/checkpoints", data, f"{place}/model")
    assert "digest" in out[0] and not out[1]
    one = load_file(tmp_path / "one-machine" / "model.safetensors")
    two = load_file(storage.fetch(f"{place}/model") / "model.safetensors")
    assert one.keys() == two.keys()
    assert all(one[name].equal(two[name]) for name in one)
    # The checkpoint of the first eight steps was read, not made again: an epoch has six steps.
    assert any(name.endswith(".1") for name in storage.list_names(next_folder(f"{place}/checkpoints")))


def next_folder(place: str) -> str:
    """The folder of the one run below a place of checkpoints."""
    (name,) = storage.list_names(place)
    return storage.join(place, name)


@pytest.mark.parametrize("variable", ["GROUP_RANK", "LOCAL_RANK"])
def test_a_launchers_variable_that_is_no_number(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from eolgul.errors import InputError
    from eolgul.train.distributed import joined

    monkeypatch.setenv(variable, "x")
    with pytest.raises(InputError, match=f"{variable}.* must be"), joined(torch.device("cpu")):
        pass

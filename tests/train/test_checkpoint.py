"""A run killed at any moment, on any number of processes, ends as one that was never stopped; damage is passed over."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support.places import ROOT, TESTS

from eolgul import storage
from eolgul.artifact import list_files
from eolgul.errors import InputError
from eolgul.train.checkpoint import Checkpoints
from eolgul.train.loop import train
from eolgul.train.recipe import Recipe

RECIPE = "r" * 64
OPTIONS = ["backbone=tiny", "embedding_size=16", "batch_size=12", "learning_rate=0.05", "scale=16.0", "precision=fp32",
           "margin_warmup_epochs=0", "warmup_epochs=0", "ema=0.5"]  # fmt: skip
# Runs training in this process again and again, each time killed by SIGKILL at a moment of its own: forking a warm
# parent takes milliseconds, starting Python and torch takes seconds.
KILLER = """
import os, random, signal, sys, time
from pathlib import Path
import torch
torch.set_num_threads(1)
from support.training import TinyNet
from eolgul.train import backbones
backbones.BACKBONES["tiny"] = TinyNet
from eolgul.train.loop import train
from eolgul.train.recipe import Recipe
toy, folder, options = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]
recipe, lots, kills = Recipe.load("demo-full", options), random.Random(7), 0

def child(stop_after):
    pid = os.fork()
    if pid == 0:
        made = train(toy, folder / "model", recipe=recipe, checkpoint_seconds=0.0, workers=1)
        os._exit(0 if made else 1)
    end = time.monotonic() + stop_after
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return status
        time.sleep(0.001)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None

while True:
    status = child(lots.uniform(0.02, 0.9) if kills < 24 else 600)
    if status is not None:
        break
    kills += 1
print(kills, status)
"""


def tiny(*overrides: str) -> Recipe:
    return Recipe.load("demo-full", [*OPTIONS, *overrides])


def run(argv: Sequence[str], **environment: str) -> str:
    done = subprocess.run([sys.executable, *argv], check=False, capture_output=True, text=True, timeout=300, cwd=ROOT,
                          env=os.environ | {"PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1"} | environment)  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.process
def test_killed_at_twenty_moments_ends_bit_identical(toy: Path, tmp_path: Path) -> None:
    """A checkpoint after every step, so that about half the kills fall into the writing of one."""
    options = [*OPTIONS, "epochs=16"]
    whole = train(toy, tmp_path / "whole" / "model", recipe=Recipe.load("demo-full", options), workers=1)
    folder = tmp_path / "killed"
    kills, status = run(["-c", KILLER, str(toy), str(folder), *options]).split()
    assert (int(kills) >= 20, status) == (True, "0")
    assert whole is not None
    one, other = load_file(whole.path / "model.safetensors"), load_file(folder / "model" / "model.safetensors")
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert (folder / "model" / "manifest.json").read_bytes() == (whole.path / "manifest.json").read_bytes()


# Every process of a run is forked from a warm parent, with the variables that torchrun sets.
RANKS = """
import json, os, socket, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from support.training import PlainNet
from eolgul.train import backbones
backbones.BACKBONES["plain"] = PlainNet
from eolgul.train.loop import train
from eolgul.train.recipe import Recipe
toy, folder, options = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]

def ranks(size, out, steps=None):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    children = []
    for rank in range(size):
        pid = os.fork()
        if pid == 0:
            os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            made = train(toy, out, recipe=Recipe.load("demo-full", options), max_steps=steps, workers=1)
            os._exit(0 if (made is None) == (steps is not None) else 1)
        children.append(pid)
    assert all(os.waitpid(pid, 0)[1] == 0 for pid in children)

ranks(1, folder / "one" / "model")
ranks(2, folder / "mixed" / "model", 5)
ranks(1, folder / "mixed" / "model", 6)
ranks(2, folder / "mixed" / "model")
"""


@pytest.mark.process
@pytest.mark.parametrize(
    ("options", "noise"),
    [
        ([], 1e-4),
        (["head=adaface", "centers=2", "clip_norm=0.5", "optimizer=adamw", "learning_rate=0.002"], 1e-3),
        (["sample=0.7", "accumulation=2"], 0.3),  # the ranks draw other centres than one process does
    ],
)
def test_two_processes_then_one_then_two(toy: Path, tmp_path: Path, options: list[str], noise: float) -> None:
    """As one process all the way: the same images in the same steps, and (without batch norm) the same losses."""
    run(["-c", RANKS, str(toy), str(tmp_path), *OPTIONS, "backbone=plain", "epochs=3", *options])
    one, mixed = (
        json.loads((tmp_path / name / "model" / "training.json").read_text())["curve"] for name in ("one", "mixed")
    )
    assert one[-1]["train_loss"] < one[0]["train_loss"]
    for alone, together in zip(one, mixed, strict=True):
        assert together["train_loss"] == pytest.approx(alone["train_loss"], rel=noise)
        assert together["validation"]["loss"] == pytest.approx(alone["validation"]["loss"], rel=10 * noise)


def state(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "network.a": torch.randn(3, 4, generator=generator),
        "network.n": torch.tensor(seed),
        "network.c": torch.randn(4, 3, 2, 2, generator=generator).to(memory_format=torch.channels_last),
    }


def empty() -> dict[str, torch.Tensor]:
    return {name: torch.zeros_like(value) for name, value in state(0).items()}


def fill(uri: str, count: int) -> Checkpoints:
    saved = Checkpoints(uri, recipe=RECIPE, keep=2)
    for number in range(1, count + 1):
        saved.save(state(number), {"step": number}, {"w": torch.full((2,), float(number))} if number % 2 else None)
    saved.wait()
    return saved


def whole(uri: str) -> tuple[Any, bool, float, list[str]]:
    saved, read = Checkpoints(uri, recipe=RECIPE, keep=2), empty()
    progress = saved.load(read)
    same = progress is not None and all(torch.equal(read[key], value) for key, value in state(progress["step"]).items())
    return progress, same, float(saved.best()["w"][0]), saved.warnings


def test_the_newest_are_kept_and_come_back(tmp_path: Path) -> None:
    fill(str(tmp_path / "c"), 7)
    assert whole(str(tmp_path / "c")) == ({"step": 7}, True, 7.0, [])
    assert len(list((tmp_path / "c").glob("slot-*"))) == 3  # two kept, one to write the next to


@pytest.mark.parametrize("damage", ["cut", "flip", "gone", "best"])
def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(tmp_path: Path, damage: str) -> None:
    place = tmp_path / "c"
    fill(str(place), 5)
    newest = json.loads((place / "checkpoints.json").read_text())["checkpoints"][0]
    file = place / newest["name"] / "__0_0.distcp"
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-100])
    elif damage == "flip":
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    elif damage == "gone":
        file.unlink()
    else:
        (place / newest["best"]["name"] / "best.safetensors").write_bytes(b"")
    progress, same, best, warnings = whole(str(place))
    assert (progress, same, best) == ({"step": 4}, True, 3.0)
    assert len(warnings) == 1 and "damaged" in warnings[0] and "the checkpoint before it is used" in warnings[0]


def test_nothing_whole_or_of_another_recipe_is_said(tmp_path: Path) -> None:
    fill(str(tmp_path), 2)
    with pytest.raises(InputError, match="another recipe"):
        Checkpoints(str(tmp_path), recipe="s" * 64)
    for file in tmp_path.glob("*/__0_0.distcp"):
        file.write_bytes(b"")
    with pytest.raises(InputError, match=r"damaged.*no other checkpoint is whole; delete"):
        whole(str(tmp_path))
    (tmp_path / "checkpoints.json").write_text("{")
    with pytest.raises(InputError, match="not a list of checkpoints"):
        whole(str(tmp_path))


@pytest.mark.process
def test_a_run_says_that_it_fell_back_and_ends_the_same(toy: Path, tmp_path: Path) -> None:
    straight = train(toy, tmp_path / "a" / "model", recipe=tiny("epochs=3"))
    out = tmp_path / "b" / "model"
    train(toy, out, recipe=tiny("epochs=3"), max_steps=7)
    train(toy, out, recipe=tiny("epochs=3"), max_steps=3)
    (index,) = (tmp_path / "b").glob("checkpoints/*/checkpoints.json")
    newest = json.loads(index.read_text())["checkpoints"][0]["name"]
    (index.parent / newest / ".metadata").write_bytes(b"")
    rows: list[dict[str, Any]] = []
    made = train(toy, out, recipe=tiny("epochs=3"), report=rows.append)
    assert [row for row in rows if "damaged" in row.get("warning", "")]
    assert straight is not None and made is not None and made.digest == straight.digest


def test_a_hostile_checkpoint_is_not_executed(tmp_path: Path) -> None:
    """Not even when its sha256 is in the list: the index is read by an unpickler that builds nothing else."""
    saved = fill(str(tmp_path / "c"), 1)
    mark = tmp_path / "ran"

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, (f"touch {mark}",)

    index = tmp_path / "c" / "checkpoints.json"
    slot = tmp_path / "c" / json.loads(index.read_text())["checkpoints"][0]["name"]
    for hostile in (pickle.dumps(Evil()), pickle.dumps({"state_dict_metadata": Evil()}), b"cos\nsystem\n."):
        (slot / ".metadata").write_bytes(hostile)
        listed = json.loads(index.read_text())
        listed["checkpoints"][0]["files"] = list_files(slot)
        index.write_text(json.dumps(listed))
        with pytest.raises(InputError, match="not readable"):
            whole(saved.uri)
        assert not mark.exists()


def test_checkpoints_in_s3(toy: Path, tmp_path: Path, s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Written in the background, read by another machine (nothing of this one's disk left), damage passed over."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    uri = f"{s3}/checkpoints/run"
    fill(uri, 5)
    for folder in tmp_path.glob("eolgul-checkpoints-*"):
        folder.rename(tmp_path / "elsewhere")
    assert whole(uri) == ({"step": 5}, True, 5.0, [])
    name = json.loads(storage.read_bytes(f"{uri}/checkpoints.json") or b"")["checkpoints"][0]["name"]
    storage.write_bytes(f"{uri}/{name}/__0_0.distcp", b"cut off")
    for folder in tmp_path.glob("eolgul-checkpoints-*"):
        folder.rename(tmp_path / "elsewhere too")
    progress, same, _, warnings = whole(uri)
    assert (progress, same, len(warnings)) == ({"step": 4}, True, 1)
    straight = train(toy, tmp_path / "a" / "model", recipe=tiny("epochs=2"))
    out = tmp_path / "b" / "model"
    assert train(toy, out, recipe=tiny("epochs=2"), checkpoints=f"{s3}/ck", max_steps=7) is None
    for folder in tmp_path.glob("eolgul-checkpoints-*"):
        folder.rename(tmp_path / f"away-{folder.name}")
    made = train(toy, out, recipe=tiny("epochs=2"), checkpoints=f"{s3}/ck")
    assert straight is not None and made is not None and made.digest == straight.digest

"""A run killed at any moment, on any number of processes, ends as one that was never stopped; damage is passed over."""

from __future__ import annotations

import errno
import json
import os
import pickle
import subprocess
import sys
import threading
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
from eolgul.train import checkpoint
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
                          env=os.environ | {"PYTHONPATH": f"{TESTS}:{ROOT / 'src'}", "OMP_NUM_THREADS": "1"} | environment)  # fmt: skip
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


# Two processes, forked from a warm parent; the second argument says what they do.
BESIDE = (
    RANKS.partition("\nranks(1,")[0].replace("def ranks", "def of_training")
    + """
import random, signal, threading, time
from torch.distributed.tensor import DTensor, Shard, init_device_mesh
from eolgul.train import checkpoint
from eolgul.train.checkpoint import Checkpoints
from eolgul.train.distributed import joined

def start(work):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    children = []
    for rank in range(2):
        pid = os.fork()
        if pid == 0:
            os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            try:
                work(rank)
                os._exit(0)
            except BaseException as error:
                print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
                os._exit(3)
        children.append(pid)
    return children

def slow(rank):
    write, go_on = checkpoint._write_tensors, threading.Event()
    def slowly(*args):
        assert go_on.wait(60)
        write(*args)
    checkpoint._write_tensors = slowly
    with joined(torch.device("cpu")) as world:
        mesh = init_device_mesh("cpu", (2,))
        saved = Checkpoints(str(folder / "c"), recipe="r", world=world)
        whole = torch.arange(20.0).reshape(10, 2)
        own = DTensor.from_local(whole[5 * rank : 5 * rank + 5].clone(), mesh, [Shard(0)])
        live = {"network.w": torch.ones(3), "head.weight": own}
        saved.save(live, {"step": 1}, None)
        for value in live.values():  # the training goes on: it changes the tensors, and its processes talk to one another
            value.zero_()
        assert world.collect(rank) == [0, 1] and not (folder / "c" / "checkpoints.json").exists()
        go_on.set()
        saved.wait()
        world.wait()
        again = Checkpoints(str(folder / "c"), recipe="r", world=world)
        assert again.load(live) == {"step": 1}
        assert torch.equal(live["head.weight"].full_tensor(), whole) and torch.equal(live["network.w"], torch.ones(3))
        saved.close()

def full(rank):
    write = checkpoint._write_tensors
    def no_room(*args):
        if rank == 1:
            raise OSError(28, "No space left on device")
        write(*args)
    checkpoint._write_tensors = no_room
    with joined(torch.device("cpu")) as world:
        saved = Checkpoints(str(folder / "c"), recipe="r", world=world)
        saved.save({"network.w": torch.ones(3)}, {"step": 1}, None)
        saved.wait()

def learn(rank):
    recipe = Recipe.load("demo-full", options[1:])
    train(toy, folder / "model", recipe=recipe, checkpoint_seconds=0.0, workers=1)

def killed():
    lots = random.Random(5)
    for kill in range(6):
        children = start(learn)
        time.sleep(lots.uniform(0.3, 2.5))
        for pid in children:
            os.kill(pid, signal.SIGKILL)
        [os.waitpid(pid, 0) for pid in children]

what = options[0]
if what == "killed":
    killed()
print(*(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in start({"slow": slow, "full": full}.get(what, learn))))
"""
)


@pytest.mark.process
def test_two_processes_go_on_while_a_checkpoint_is_written(toy: Path, tmp_path: Path) -> None:
    assert run(["-c", BESIDE, str(toy), str(tmp_path), "slow"]).split() == ["0", "0"]


@pytest.mark.process
def test_where_one_of_two_processes_cannot_write_both_end(toy: Path, tmp_path: Path) -> None:
    assert run(["-c", BESIDE, str(toy), str(tmp_path), "full"]).split() == ["3", "3"]
    assert not (tmp_path / "c" / "checkpoints.json").exists()


@pytest.mark.process
def test_two_processes_killed_at_six_moments_end_as_two_that_were_not(toy: Path, tmp_path: Path) -> None:
    options = [*OPTIONS, "backbone=plain", "epochs=8"]
    for name in ("killed", "whole"):
        assert run(["-c", BESIDE, str(toy), str(tmp_path / name), name, *options]).split()[-2:] == ["0", "0"]
    one, other = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("killed", "whole"))
    assert all(torch.equal(one[name], other[name]) for name in one)


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


def test_training_goes_on_while_a_checkpoint_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`save` returns before anything is written, and what is written is what was there when it was called."""
    go_on, write = threading.Event(), checkpoint._write_tensors

    def slowly(*args: Any, **options: Any) -> None:
        assert go_on.wait(60)
        write(*args, **options)

    monkeypatch.setattr(checkpoint, "_write_tensors", slowly)
    uri = str(tmp_path / "c")
    saved, live, best = Checkpoints(uri, recipe=RECIPE), state(1), {"w": torch.full((2,), 1.0)}
    progress = {"step": 1, "curve": []}
    saved.save(live, progress, best)
    assert not (tmp_path / "c" / "checkpoints.json").exists()
    for value in (*live.values(), *best.values()):
        value.zero_()
    progress["step"] = 9
    go_on.set()
    saved.wait()
    assert whole(uri) == ({"step": 1, "curve": []}, True, 1.0, [])
    saved.save(state(2), {"step": 2}, None)  # into the memory of the one before
    saved.close()
    assert whole(uri) == ({"step": 2}, True, 1.0, [])


def test_a_failed_write_is_an_error_at_the_next_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any, **options: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    fill(str(tmp_path / "c"), 1)
    saved = Checkpoints(str(tmp_path / "c"), recipe=RECIPE)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "_write_tensors", full)
        saved.save(state(2), {"step": 2}, None)
        with pytest.raises(OSError, match="No space left"):
            saved.save(state(3), {"step": 3}, None)
    assert whole(str(tmp_path / "c"))[0] == {"step": 1}
    saved.save(state(4), {"step": 4}, None)
    saved.wait()
    assert whole(str(tmp_path / "c"))[0] == {"step": 4}


def test_checkpoints_take_one_percent_of_the_time_at_most() -> None:
    assert checkpoint.pause(60.0, 0.1) == 60.0
    assert checkpoint.pause(60.0, 2.5) == 250.0
    assert checkpoint.pause(0.0, 2.5) == 0.0


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

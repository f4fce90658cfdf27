"""A batch that is lost, for want of shared memory or of a living worker, ends training with a sentence."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from support.places import TESTS
from support.training import tiny, write_assembled

from eolgul.dataset import FaceDataset
from eolgul.errors import InputError
from eolgul.train import loader
from eolgul.train.data import TrainingData
from eolgul.train.loop import train

TRAIN = """
import sys
from eolgul.cli import main
from eolgul.train import backbones, data, loader
from support.training import TinyNet
backbones.BACKBONES["tiny"] = TinyNet
{changes}
main()
"""
NO_CHECK = "data.check_shared_memory = lambda *sizes: None"
NO_SHARE = "data.share = lambda tensors: None"


def large_batches(tmp_path: Path) -> Path:
    """Two training people with 120 pictures each, for batches of 100: 3.8 MB."""
    colours = {"red": (200, 60, 60), "green": (60, 200, 60), "cyan": (60, 200, 200), "violet": (170, 60, 200)}
    return write_assembled(
        tmp_path / "many", colours, np.random.default_rng(1), validation=("cyan", "violet"), images=120
    )


def in_small_memory(
    tmp_path: Path, megabytes: int, *options: str, changes: str = "", status: int = 2
) -> tuple[str, float]:
    """What `eolgul train` prints where /dev/shm has `megabytes`, and the seconds it took; it must exit with `status`."""
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-m", "true"], check=False).returncode:
        pytest.skip("a private /dev/shm needs unshare and the right to mount")
    script = tmp_path / "train_tiny.py"
    script.write_text(TRAIN.format(changes=changes))
    words = [
        "train",
        str(large_batches(tmp_path)),
        str(tmp_path / "out"),
        "--recipe",
        "demo-full",
        "--device",
        "cpu",
        *options,
    ]
    for override in ("backbone=tiny", "embedding_size=16", "batch_size=100", "epochs=1", "precision=fp32"):
        words += ["--set", override]
    begun = time.monotonic()
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", f'mount -t tmpfs -o size={megabytes}m tmpfs /dev/shm && exec "$@"', "sh",
         sys.executable, str(script), *words],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([*sys.path, str(TESTS)]),
             "COLUMNS": "1000"},
        capture_output=True, text=True, timeout=180, check=False,
    )  # fmt: skip
    assert done.returncode == status, done.stderr[-3000:]
    assert (tmp_path / "out").exists() == (status == 0)
    return " ".join(done.stderr.split()), time.monotonic() - begun


def test_too_little_shared_memory_is_refused_before_the_start(tmp_path: Path) -> None:
    said, _ = in_small_memory(tmp_path, 4)
    assert "/dev/shm: 4.2 MB free, but 2 workers x 3 batches of 3.8 MB need 30.1 MB; use fewer workers" in said
    assert "workers=0" in said
    assert "Traceback" not in said


def test_shared_memory_that_fills_up_later_is_reported_by_the_worker(tmp_path: Path) -> None:
    said, seconds = in_small_memory(tmp_path, 4, changes=NO_CHECK)
    assert "/dev/shm: a worker cannot hand over a batch (unable to allocate shared memory" in said
    assert seconds < 60


def test_a_batch_lost_on_its_way_ends_the_run_by_itself(tmp_path: Path) -> None:
    """As PyTorch loses it: the error is printed in the worker's background thread and nobody receives it."""
    said, seconds = in_small_memory(tmp_path, 4, "--stall-seconds", "10", changes=f"{NO_CHECK}\n{NO_SHARE}")
    assert "no training batch arrived and none of the 2 workers read an image for 10 s" in said
    assert seconds < 60


def test_training_fits_in_the_shared_memory_that_the_check_asks_for(tmp_path: Path) -> None:
    in_small_memory(tmp_path, 31, status=0)


def test_without_workers_no_shared_memory_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "_SHARED", Path("/"))
    loader.check_shared_memory(1 << 60, 0)
    with pytest.raises(InputError, match="in each of 2 processes need"):
        loader.check_shared_memory(1 << 60, 4, 2)


def children() -> set[int]:
    """The processes that this one has started."""
    return {int(pid) for file in Path("/proc/self/task").glob("*/children") for pid in file.read_text().split()}


def test_a_killed_worker_ends_training_with_a_sentence(toy: Path, tmp_path: Path) -> None:
    before = children()

    def kill(row: dict[str, object]) -> None:
        for worker in children() - before:
            os.kill(worker, signal.SIGKILL)

    with pytest.raises(InputError, match=r"a worker that prepares training batches .*(Killed|ended).*memory ran out"):
        train(toy, tmp_path / "out", recipe=tiny("epochs=200"), report=kill)


def test_a_worker_killed_while_batches_are_waited_for(toy: Path) -> None:
    training = TrainingData(FaceDataset(toy), tiny("batch_size=2"), workers=2)
    before = children()
    with pytest.raises(
        (InputError, RuntimeError), match="worker"
    ) as failure:  # without its pid if it ends in a hand-over
        for _ in training.batches(0):
            for worker in children() - before:
                os.kill(worker, signal.SIGKILL)
    error = failure.value
    assert isinstance(error, InputError) or (isinstance(error, RuntimeError) and loader.ended_worker(error) is not None)


@pytest.mark.parametrize("error", [ConnectionResetError(104, "reset"), EOFError(), FileNotFoundError(2, "no socket")])
def test_a_worker_that_ends_while_it_hands_a_batch_over_is_a_sentence(error: Exception) -> None:
    """The batch has arrived in the queue, but the process that lends its memory is gone."""

    def batches() -> Iterator[None]:
        raise error
        yield

    progress = loader.Progress(1)
    with pytest.raises(InputError, match="a worker that prepares training batches ended while it handed one over"):
        loader._next(batches(), progress, 1, 1.0, 1.0)


def test_a_hung_read_ends_and_a_slow_one_does_not(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "_POLL", 0.2)
    read = FaceDataset.read

    def slow(dataset: FaceDataset, row: int) -> bytes:
        time.sleep(0.3)
        return read(dataset, row)

    def hung(dataset: FaceDataset, row: int) -> bytes:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as a read from a lost network disk
        time.sleep(600)
        return b""

    training = TrainingData(FaceDataset(toy), tiny("batch_size=10"), workers=2, stall_seconds=1)
    monkeypatch.setattr(FaceDataset, "read", slow)
    assert len(next(iter(training.batches(0))).faces) == 10  # after three seconds, three times the limit
    before, begun = children(), time.monotonic()
    monkeypatch.setattr(FaceDataset, "read", hung)
    with pytest.raises(InputError, match="none of the 2 workers read an image for 1 s"):
        next(iter(training.batches(0)))
    assert time.monotonic() - begun < 20
    assert children() <= before


def test_a_disk_error_of_a_worker_names_the_image(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(dataset: FaceDataset, row: int) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(FaceDataset, "read", broken)
    with pytest.raises(InputError, match=r"toy row \d+: Input/output error$"):
        list(TrainingData(FaceDataset(toy), tiny(), workers=1).batches(0))


KILLED_EARLY = """
import os, sys, time
from eolgul.train import loader

class Slow:
    def __len__(self):
        return 1
    def __getitem__(self, item):
        return item
    def start_worker(self, worker):
        with open(sys.argv[1] + ".new", "w") as file:
            file.write(str(os.getpid()))
        os.rename(sys.argv[1] + ".new", sys.argv[1])
        time.sleep(1)

list(loader.watched(Slow(), loader.Progress(1), workers=1, stall_seconds=30, pin=False))
"""


def ends(pid: int, within: float) -> bool:
    """Whether a process has ended, reaped or not, some seconds from now."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state in "ZX":
            return True
        time.sleep(0.1)
    return False


@pytest.mark.process
def test_a_run_that_is_killed_while_a_worker_starts_leaves_none_behind(tmp_path: Path) -> None:
    """Left behind, it would hold the run's lock and pipes for ever."""
    told = tmp_path / "worker"
    environment = {**os.environ, "PYTHONPATH": f"{TESTS}:{TESTS.parent / 'src'}"}
    with subprocess.Popen([sys.executable, "-c", KILLED_EARLY, str(told)], env=environment) as running:
        while not told.exists():
            assert running.poll() is None
            time.sleep(0.01)
        running.kill()
    worker = int(told.read_text())
    try:
        assert ends(worker, 12)  # a worker looks after its parent every five seconds
    finally:
        if not ends(worker, 0.1):
            os.kill(worker, signal.SIGKILL)

"""The pool of worker processes: order, progress, failures, and no process that outlives its work."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.jobs import double, fail_at_three, kill_itself, note_and_wait

from eolgul.errors import InputError
from eolgul.workers import map_in_order


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_order_and_progress_is_whole(workers: int) -> None:
    seen: list[int] = []
    assert list(map_in_order(double, range(20), workers, seen.append)) == list(range(0, 40, 2))
    assert sorted(seen) == list(range(20))


def test_a_failure_ends_the_wait_for_an_earlier_job() -> None:
    began = time.monotonic()
    with pytest.raises(ZeroDivisionError):
        list(map_in_order(fail_at_three, range(4), 2))
    assert time.monotonic() - began < 30


def test_a_killed_worker_is_a_sentence() -> None:
    with pytest.raises(InputError, match="a worker process was killed"):
        list(map_in_order(kill_itself, range(4), 2))


def test_workers_end_with_a_killed_parent(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from eolgul.workers import map_in_order\n"
        "from support.jobs import note_and_wait\n"
        "if __name__ == '__main__': list(map_in_order(note_and_wait, [Path(sys.argv[1])] * 2, 2))"
    )
    here = Path(__file__).resolve().parent
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(here), *sys.path])}
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], env=environment)
    while len(pids := list(tmp_path.iterdir())) < 2:
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()
    process.wait()
    deadline = time.monotonic() + 20
    while any(Path("/proc", path.name).exists() for path in pids):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_caller_that_stops_leaves_no_process(tmp_path: Path) -> None:
    def stop(count: int) -> None:
        raise KeyboardInterrupt

    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        list(map_in_order(note_and_wait, [tmp_path] * 2, 2, stop))
    assert time.monotonic() - began < 30
    assert not any(Path("/proc", path.name).exists() for path in tmp_path.iterdir())

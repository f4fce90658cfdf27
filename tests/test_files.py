"""A file or a folder is written whole or not at all, by one process at a time, and killed runs leave nothing for ever."""

from __future__ import annotations

import signal
import stat
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from eolgul.errors import InputError
from eolgul.files import atomic_file, atomic_folder, empty_folder, is_unfinished, work_folder, write_atomic


def start(code: str, place: Path) -> subprocess.Popen[str]:
    """A process that writes `place` and says so, then waits to be killed or told to go on."""
    head = "import os, signal, sys; from pathlib import Path; from eolgul.files import *; out = Path(sys.argv[1])\n"
    process = subprocess.Popen(
        [sys.executable, "-c", head + code, str(place)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "begun\n"
    return process


FOLDER = """
with atomic_folder(out) as folder:
    (folder / "half").write_text("half")
    print("begun", flush=True)
    sys.stdin.readline()
"""
FILE = """
with atomic_file(out) as new:
    new.write_text("half")
    print("begun", flush=True)
    sys.stdin.readline()
"""


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


@pytest.mark.process
def test_what_killed_runs_left_of_a_folder_goes_with_the_next_run(tmp_path: Path) -> None:
    for _ in range(2):
        kill(start(FOLDER, tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    with atomic_folder(tmp_path / "out") as folder:
        (folder / "whole").write_text("whole")
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")] == ["out", "out/whole"]


@pytest.mark.process
def test_what_killed_runs_left_of_a_file_goes_with_the_next_run(tmp_path: Path) -> None:
    for _ in range(2):
        kill(start(FILE, tmp_path / "out"))
    assert [is_unfinished(path.name) for path in tmp_path.iterdir()] == [True]
    write_atomic(tmp_path / "out", b"whole")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out").read_bytes() == b"whole"


@pytest.mark.process
def test_a_second_process_is_refused_a_folder_and_the_first_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = start(FOLDER, out)
    try:
        with pytest.raises(InputError, match="out: another process is writing it"), atomic_folder(out):
            pass
    finally:
        process.communicate("\n")
    assert process.returncode == 0 and (out / "half").read_text() == "half"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.process
def test_a_second_writer_of_a_file_waits(tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = start(FILE, out)
    second = threading.Thread(target=write_atomic, args=(out, b"second"))
    second.start()
    time.sleep(0.2)
    assert second.is_alive() and not out.exists()
    process.communicate("\n")
    second.join(20)
    assert out.read_bytes() == b"second"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.process
def test_a_writer_that_waits_for_a_killed_one_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = start(FILE, out)
    second = threading.Thread(target=write_atomic, args=(out, b"second"))
    second.start()
    kill(process)
    second.join(20)
    assert out.read_bytes() == b"second"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_many_writers_of_a_file_leave_one_whole_version(tmp_path: Path) -> None:
    out = tmp_path / "out"
    versions = [bytes([65 + number]) * 10_000 for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda version: write_atomic(out, version), versions * 20))
    assert out.read_bytes() in versions
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.process
def test_many_processes_at_one_folder_never_mix(tmp_path: Path) -> None:
    code = """
print("begun", flush=True)
for number in range(60):
    try:
        with atomic_folder(out) as folder:
            for name in range(5):
                (folder / str(name)).write_text(f"{os.getpid()} {number}")
    except Exception as error:
        assert "another process" in str(error), repr(error)
"""
    processes = [start(code, tmp_path / "out") for _ in range(3)]
    for process in processes:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
    assert len({path.read_text() for path in (tmp_path / "out").iterdir()}) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.process
def test_a_kill_between_the_two_renames_loses_nothing(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with atomic_folder(out) as folder:
        (folder / "old").write_text("old")
    code = """
def kill(self, to):
    os.rename(self, to)
    print("begun", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
Path.rename = kill
with atomic_folder(out) as folder:
    (folder / "new").write_text("new")
"""
    process = start(code, out)
    process.communicate()
    assert process.returncode == -signal.SIGKILL and not out.exists()
    with work_folder(out):
        assert [path.name for path in out.iterdir()] == ["old"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    write_atomic(tmp_path / "out", b"old")
    with pytest.raises(ZeroDivisionError), atomic_file(tmp_path / "out") as new:
        new.write_bytes(b"new")
        raise ZeroDivisionError
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out").read_bytes() == b"old"


def test_a_secret_is_never_readable_by_others(tmp_path: Path) -> None:
    (tmp_path / ".out.new").write_bytes(b"of a killed run")
    (tmp_path / ".out.new").chmod(0o666)
    with atomic_file(tmp_path / "out", mode=0o600, durable=True) as new:
        assert stat.S_IMODE(new.stat().st_mode) == 0o600 and new.stat().st_size == 0
        new.write_bytes(b"secret")
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o600


def test_a_link_in_the_way_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_bytes(b"precious")
    (tmp_path / ".out.new").symlink_to(tmp_path / "precious")
    with pytest.raises(OSError, match="symbolic links"):
        write_atomic(tmp_path / "out", b"x")
    assert (tmp_path / "precious").read_bytes() == b"precious"


def test_work_is_kept_for_the_same_job_only(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for job, before in (("a", []), ("a", ["done"]), ("b", []), ("", []), ("", [])):
        with work_folder(out, job) as folder:
            assert [path.name for path in folder.iterdir() if path.name not in ("lock", "job")] == before
            (folder / "done").write_text("done")
    with work_folder(out, "c") as folder:
        empty_folder(folder)
    assert list(tmp_path.iterdir()) == []


def test_no_folder_can_be_made_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"precious")
    with pytest.raises(InputError, match="no directory can be made there"), atomic_folder(tmp_path / "file" / "out"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["file"]

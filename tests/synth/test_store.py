"""An output is whole or absent, and a killed drawing continues."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pytest

pytest.importorskip("embreex")

from support.drawing import SMALL, files_of

from eolgul.errors import InputError
from eolgul.files import work_folder
from eolgul.synth import draw_kface


@pytest.mark.process
def test_a_stop_of_the_whole_process_group_ends_it(tmp_path: Path) -> None:
    """As `timeout` and a shell's job control stop a command: the workers get the signal too, and end before the parent tells them to."""
    words = [sys.executable, "-m", "eolgul", "synth", str(tmp_path / "cut"), "--people", "50", "--workers", "2"]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    while process.poll() is None and not list(tmp_path.glob(".cut.partial/people/*.npz")):
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGTERM)
    assert process.wait(20) == 128 + signal.SIGTERM


@pytest.mark.process
def test_a_drawing_that_was_killed_goes_on_person_by_person(tmp_path: Path) -> None:
    """With any number of workers, killed or not, a drawing is the same bytes, its truth and its card included."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    draw_kface(whole, people=4, selection=SMALL, workers=1)
    text = " ".join(f"{field}={','.join(names)}" for field, names in asdict(SMALL).items())
    words = [sys.executable, "-m", "eolgul", "synth", str(cut), "--people", "4", "--selection", text, "--workers", "2"]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    while process.poll() is None and not list(tmp_path.glob(".cut.partial/people/*.npz")):
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)  # the workers too: one could finish a person while they are counted
    process.wait()
    time.sleep(0.3)
    (unfinished,) = tmp_path.glob(".cut.partial")
    kept = {p: p.stat().st_mtime_ns for p in (unfinished / "people").glob("*.npz")}
    assert not cut.exists() and 1 <= len(kept) <= 4
    # A truncated record does not count.
    torn = max(kept)
    torn.write_bytes(torn.read_bytes()[:-40])
    seen: list[tuple[int, int]] = []
    drawn = draw_kface(
        cut, people=4, selection=SMALL, workers=1, progress=lambda done, total: seen.append((done, total))
    )
    assert not drawn["cached"] and seen[0] == (4 * len(kept), 16) and seen[-1] == (16, 16)
    assert files_of(cut) == files_of(whole)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cut", "whole"]


def test_two_processes_do_not_draw_the_same_output(tmp_path: Path) -> None:
    with (
        work_folder(tmp_path / "out", "0" * 64),
        pytest.raises(InputError, match="another process"),
        work_folder(tmp_path / "out", "0" * 64),
    ):
        pass
    assert list(tmp_path.iterdir()) == []  # no person is finished, so nothing is kept


def test_foreign_folders_are_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(InputError, match="was not drawn by"):
        draw_kface(tmp_path, people=1, selection=SMALL, workers=1)
    assert (tmp_path / "mine.txt").read_text() == "precious"

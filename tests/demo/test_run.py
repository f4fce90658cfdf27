"""`eolgul demo` on a small scale: drawn raw data, six components, a registry, the service over HTTP."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from eolgul.dataset import FaceDataset
from eolgul.demo.embedded import free_ports

SMALL = ["--people", "14", "--rec-people", "16", "--set", "epochs=8", "--set", "batch_size=16"]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], str]:
    work = tmp_path_factory.mktemp("run") / "demo"
    (port,) = free_ports(1)
    done = subprocess.run(
        [sys.executable, "-m", "eolgul", "demo", "--work", str(work), "--port", str(port), *SMALL],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return work, json.loads(done.stdout.splitlines()[-1]), done.stderr


def cached(work: Path, step: str, name: str) -> Path:
    """The folder of an artifact in the demo's own S3 cache: the one that a step made of that name."""
    (place,) = work.joinpath("cache", "eolgul", "runs", "artifacts", step).glob(f"{name}-{'[0-9a-f]' * 16}")
    return place


def test_a_verdict_comes_over_http_and_the_cache_answers_the_second_time(
    demo: tuple[Path, dict[str, Any], str],
) -> None:
    _, facts, _ = demo
    same1, same2, other1, other2 = facts["verdicts"]
    assert [item["expected"] for item in facts["verdicts"]] == ["same", "same", "different", "different"]
    assert same1["cached"] == [False, False] and other1["cached"] == [True, False]  # the first picture is in both pairs
    assert same2["cached"] == other2["cached"] == [True, True]
    for first, second in ((same1, same2), (other1, other2)):
        assert first["similarity"] == pytest.approx(second["similarity"], abs=1e-6)
        low, high = first["threshold_interval"]
        where = first["similarity"]
        assert first["verdict"] == ("same" if where >= high else "different" if where < low else "undecided")
    assert {item["model"] for item in facts["verdicts"]} == {facts["model"]}
    assert all(item["synthetic"] for item in facts["verdicts"])


def test_the_metrics_moved_by_what_was_asked(demo: tuple[Path, dict[str, Any], str]) -> None:
    moved = demo[1]["metrics_moved"]
    assert moved['eolgul_cache_total{outcome="hit"}'] == 5
    assert moved['eolgul_cache_total{outcome="miss"}'] == 3
    assert sum(value for name, value in moved.items() if name.startswith("eolgul_verdicts_total")) == 4


def test_the_people_verified_were_never_trained_on(demo: tuple[Path, dict[str, Any], str]) -> None:
    work, _, _ = demo
    dataset = FaceDataset(cached(work, "assemble", "assembled"))
    identities, splits = dataset.column("identity"), dataset.column("split")
    people = {name: {i for i, s in zip(identities, splits, strict=True) if s == name} for name in set(splits)}
    assert set(people) == {"train", "validation", "calibration", "test"}
    for (one, here), (other, there) in itertools.combinations(people.items(), 2):
        assert not here & there, (one, other)
    originals = FaceDataset(cached(work, "extract", "kface"))
    by_bytes = {originals.read(row): identity for row, identity in enumerate(originals.column("identity"))}
    shown = {path.name: by_bytes[path.read_bytes()] for path in (work / "pairs").iterdir()}
    assert shown["person-a-1.jpg"] == shown["person-a-2.jpg"] != shown["person-b.jpg"]
    assert {f"kface.{identity}" for identity in shown.values()} <= people["test"]


def test_inputs_are_images_or_reasons_at_every_step(demo: tuple[Path, dict[str, Any], str]) -> None:
    """The tables say it. Shards of what was joined may lie in S3 alone, with the parts that wrote them."""
    work, _, _ = demo
    drawn = len(list((work / "raw" / "kface").rglob("*.jpg")))
    extracted = FaceDataset(cached(work, "extract", "kface"), images=False)
    assert len(extracted) + len(extracted.rejected()) == drawn
    aligned = FaceDataset(cached(work, "align", "kface"), images=False)
    assert len(aligned) + len(aligned.rejected()) == drawn
    assert len(aligned) >= 0.95 * drawn  # MTCNN finds the drawn faces
    rec = FaceDataset(cached(work, "extract", "faces_drawn"), images=False)
    assembled = FaceDataset(cached(work, "assemble", "assembled"), images=False)
    assert len(assembled) == len(aligned) + len(rec)


def test_the_report_is_of_this_model_and_says_synthetic(demo: tuple[Path, dict[str, Any], str]) -> None:
    work, facts, _ = demo
    evaluation = cached(work, "evaluate", "*")
    metrics = json.loads((evaluation / "metrics.json").read_text())
    report = (work / "report.html").read_text()
    assert report == (evaluation / "report.html").read_text()
    assert metrics["model"]["digest"][:12] in report
    assert "synthetic" in report.lower()
    assert {name: figures["synthetic"] for name, figures in metrics["sets"].items()} == {
        "held-out": True,
        "drawn_pairs": True,
    }
    assert facts["threshold"] == metrics["calibration"]["threshold"] == facts["verdicts"][0]["threshold"]
    marked = dict(re.findall(r'data-metric="([^"]+)"[^>]*data-value="([^"]+)"', report))
    assert float(marked["sets.held-out.accuracy.mean"]) == metrics["sets"]["held-out"]["accuracy"]["mean"]


def test_the_progress_lines_tell_what_happens(demo: tuple[Path, dict[str, Any], str]) -> None:
    """The lines of training and evaluation are recognized by their first words: they must not change unnoticed."""
    work, facts, lines = demo
    text = [line.partition("] ")[2].strip() for line in lines.splitlines()]
    for number in range(1, 6):
        assert any(line.startswith(f"{number}/5 ") for line in text), number
    for step in ("extract", "align", "assemble", "train", "evaluate", "promote"):
        assert text.count(step) == 1, step
        assert sum(line.startswith(f"{step}: done in ") for line in text) == 1, step
    for beginning in ("epoch 1", "calibrat", "threshold", "scoring drawn_pairs", "writing", "held-out: ", "Done in "):
        assert any(line.startswith(beginning) for line in text), beginning
    assert [line.split(":")[0] for line in text if " embeddings from the cache" in line] == [
        "two photos of one person, first request",
        "two photos of one person, repeated",
        "photos of two people, first request",
        "photos of two people, repeated",
    ]
    assert f"report    {work / 'report.html'}" in text
    assert facts["page"] is None  # the page has stopped with the service


def test_nothing_is_left_running(demo: tuple[Path, dict[str, Any], str]) -> None:
    assert not still_there(demo[0])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_in_the_middle_leaves_nothing_running(tmp_path: Path, number: signal.Signals) -> None:
    work = tmp_path / "demo"
    process = subprocess.Popen(
        [sys.executable, "-m", "eolgul", "demo", "--work", str(work), "--port", str(free_ports(1)[0]), *SMALL],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "Raw data" in line:
            break
    time.sleep(2)  # the drawing processes run now
    process.send_signal(number)
    rest = process.stderr.read()
    assert process.wait(60) == 128 + number
    assert "Traceback" not in rest
    assert not still_there(work)
    assert not list((work / "raw").glob(".*partial"))


def still_there(work: Path) -> list[bytes]:
    """Command lines of the processes that name `work` in their arguments or environment."""
    found = []
    for entry in Path("/proc").iterdir() if Path("/proc").is_dir() else ():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                words = (entry / "cmdline").read_bytes()
                surroundings = (entry / "environ").read_bytes()
            except OSError:
                continue
            if str(work).encode() in words + surroundings:
                found.append(words)
    return found


def test_a_taken_port_is_reported_before_anything_is_drawn(tmp_path: Path) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = subprocess.run(
            [sys.executable, "-m", "eolgul", "demo", "--work", str(tmp_path / "demo"), "--port", str(port)],
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 2
    assert f"port {port} is in use" in done.stderr
    assert not (tmp_path / "demo").exists()

"""Measure what each task of the pipeline takes beside its step's own work: process, imports, checks, hashing, S3.

It starts SeaweedFS on this machine, writes a small `.rec` of patterns there, and runs the pipeline with KFP's local runner:
once, and once more when everything is made, the second time with an empty cache. A task's overhead is its time less the
seconds that its step took, the reading of its inputs included; of a task that finds all it needs, the whole time is overhead.
Tasks of a loop are averaged. Prints a Markdown table, and the machine's load.

Usage: pipeline_overhead.py
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from datetime import datetime
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
import numpy as np

from eolgul import storage
from eolgul.demo import embedded
from eolgul.formats.insightface import write_rec
from eolgul.images.decode import encode_png

PEOPLE, IMAGES = 40, 4
_EVENT = re.compile(
    r"^(\d\d:\d\d:\d\d\.\d{3}) - INFO - (?:Executing task '(.+)'|Task '(.+)' finished with status SUCCESS)"
)
# The tasks whose artifacts a step's records are; parts of an alignment are named after it.
_TASK = {"extract": "extract", "align": "align", "assemble": "assemble", "train": "train", "evaluate": "evaluate"}


def pattern(person: int, image: int) -> bytes:
    """A 112×112 PNG: coarse squares that are the person's own, with noise that is the image's own."""
    own, other = np.random.default_rng(person), np.random.default_rng((person, image))
    coarse = own.uniform(40, 215, (7, 7, 3)) + other.normal(0, 30, (7, 7, 3))
    return encode_png(np.kron(coarse.clip(0, 255), np.ones((16, 16, 1))).astype(np.uint8))


def run(work: Path, bucket: str) -> tuple[dict[str, list[float]], float]:
    """Run the pipeline with an empty cache; the seconds of its tasks by name, and of the whole command."""
    os.environ["EOLGUL_S3_CACHE"] = str(work / "cache")
    parameters = {
        "workspace": f"{bucket}/w",
        "registry": f"{bucket}/registry",
        "sources": [f"{bucket}/raw/faces"],
        "benchmarks": [],
        "extract_selection": "",
        "assemble_calibration": 0.25,
        "assemble_test": 0.25,
        "train_recipes": ["demo"],
        "train_overrides": ["epochs=2", "batch_size=16", "scale=16.0"],
        "train_workers": 0,
        "evaluate_fmr": 0.01,
    }
    words = [
        f"--param={name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in parameters.items()
    ]
    started = time.monotonic()
    argv = [sys.executable, "-m", "eolgul", "pipeline", "run", "--root", str(work / "kfp"), *words]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    whole = time.monotonic() - started
    if done.returncode:
        sys.exit(done.stderr[-3000:])
    begun: dict[str, list[datetime]] = defaultdict(list)
    seconds: dict[str, list[float]] = defaultdict(list)
    for line in done.stderr.splitlines():
        if found := _EVENT.match(line):
            at, name = datetime.strptime(found[1], "%H:%M:%S.%f"), str(found[2] or found[3])
            if name.startswith("importer"):  # they register what is there, and take no time
                continue
            if found[2]:
                begun[name].append(at)
            else:
                seconds[name].append((at - begun[name].pop(0)).total_seconds())
    return seconds, whole


def own_work(workspace: str) -> dict[str, float]:
    """The seconds of what the only run of a workspace made, by step."""
    (name,) = storage.list_names(storage.join(workspace, "runs"))
    place = storage.join(workspace, "runs", name)
    made: dict[str, float] = defaultdict(float)
    for item in storage.list_names(place):
        entry = json.loads(storage.read_bytes(storage.join(place, item)) or b"{}")
        if not entry["reused"]:
            made[_TASK[entry["step"]]] += float(entry["seconds"] or 0)
    return made


def main() -> None:
    """Measure, and print the table."""
    with tempfile.TemporaryDirectory() as folder, embedded.s3(Path(folder) / "s3", patient=False) as server:
        work = Path(folder)
        os.environ.update(server.environment(work / "cache"))
        storage.forget_settings()
        storage.make_bucket("s3://overhead")
        images = [(person, pattern(person, image)) for person in range(PEOPLE) for image in range(IMAGES)]
        write_rec(work / "faces", images)
        storage.publish(work / "faces", "s3://overhead/raw/faces")
        first, first_whole = run(work / "first", "s3://overhead")
        own = own_work("s3://overhead/w")
        again, again_whole = run(work / "again", "s3://overhead")
        print("| task | whole task | its step | beside it | task that finds everything |\n|---|---|---|---|---|")
        for task, times in first.items():
            took, work_of = sum(times) / len(times), own.get(task, 0.0) / len(times)
            print(f"| {task} | {took:.1f} s | {work_of:.1f} s | {took - work_of:.1f} s "
                  f"| {sum(again[task]) / len(again[task]):.1f} s |")  # fmt: skip
        print(f"| whole command | {first_whole:.0f} s | {sum(own.values()):.0f} s | | {again_whole:.0f} s |")
        load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
        print(f"\n{os.cpu_count()} processors, load over 1, 5 and 15 minutes at the end: {load}")


if __name__ == "__main__":
    main()

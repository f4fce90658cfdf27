"""Every part that handles pictures, in one process and on small data, as the commands run it: a program for `support.sealed`.

    python -m support.chain FOLDER

Extraction, alignment, assembly, training, evaluation, promotion and the compiler of the pipeline; then the service as a
process of its own, and the client. FOLDER holds what `support.runs.draw` made.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

LINGER_S = 8.0  # with its telemetry on, ONNX Runtime looks its collector up some 8 s after the first session


def steps(folder: Path) -> None:
    from eolgul.cli.main import app

    training = ("backbone=resnet_small", "embedding_size=16", "epochs=2", "batch_size=16", "margin=0.2", "scale=16.0")
    commands = [
        ["extract", "faces", "a", "--workers", "1"],
        ["extract", "kface", "b", "--workers", "1"],
        ["extract", "pairs.bin", "c"],
        ["align", "b", "d", "--workers", "1"],
        ["assemble", "a", "d", "--out", "e", "--held-out-sources", "faces", "--test", "0.25", "--calibration", "0.25"],
        ["train", "e", "f", "--recipe", "demo", "--threads", "1", "--workers", "0", "--device", "cpu"]
        + [word for one in training for word in ("--set", one)],
        ["evaluate", "f", "e", "--out", "g", "--benchmark", "c", "--fmr", "0.1", "--quality-images", "0"],
        ["promote", "f", "g", "--registry", "registry", "--force"],
        ["pipeline", "compile", "pipeline.yaml"],
    ]
    os.chdir(folder)
    for command in commands:
        began = time.monotonic()
        app(command, standalone_mode=False)
        print(f"{command[0]}: {time.monotonic() - began:.1f} s", flush=True)


def service(folder: Path) -> None:
    from eolgul.client import Client
    from eolgul.serving import launch
    from support.serving import free_port

    pictures = sorted((folder / "kface").rglob("*.jpg"))
    with launch.running(port=free_port(), registry=str(folder / "registry"), home=folder / "home") as running:
        began = time.monotonic()
        with Client(running.url, api_key=running.key) as client:
            verdict = client.verify(pictures[0].read_bytes(), pictures[1].read_bytes())
        print(f"verdict: {verdict.verdict}", flush=True)
        time.sleep(max(0.0, LINGER_S - (time.monotonic() - began)))


if __name__ == "__main__":
    place = Path(sys.argv[1]).resolve()
    steps(place)
    service(place)

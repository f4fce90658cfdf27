"""Run the pipeline with KFP's local runner and show the lines of its output that matter."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eolgul.demo import embedded
from eolgul.demo.progress import Progress
from eolgul.errors import InputError

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
# KFP's own lines. A step may consist of several tasks: `align-plan`, one `align-part` per part, `align`.
_TASK = re.compile(
    r"(?P<event>Executing task|Task) '(?P<step>extract|align|assemble|train|evaluate|promote)(-\w+)?'"
    r"(?P<finished> finished with status)?"
)
# Lines of training and evaluation that are shown.
_SHOWN = re.compile(r"^(epoch \d|calibrat|threshold|scoring|writing)")
_ERROR = "InputError: "


def run_pipeline(work: Path, arguments: Mapping[str, Any], progress: Progress) -> dict[str, str]:
    """Run the pipeline in a process group of its own; its whole output goes to `work/pipeline.log`.

    Args:
        work: the demo's folder.
        arguments: pipeline parameters by name.
        progress: takes the lines; its `seconds` gets the duration of each step.

    Returns:
        The references of the artifacts that the run made or found, by `<step>-<name>`.

    Raises:
        InputError: a step failed; the message is the step's own.
    """
    log_path = work / "pipeline.log"
    shutil.rmtree(work / "kfp", ignore_errors=True)
    parameters = [f"--param={name}={_text(value)}" for name, value in arguments.items()]
    argv = [sys.executable, "-P", "-m", "eolgul", "pipeline", "run", "--root", str(work / "kfp"), *parameters]
    # PASSIVE: threads wait by sleeping, which costs 5 % on an idle machine and gains a third beside two busy loops
    # (13 → 18 images/s). PYTHONSAFEPATH: the pipeline's child processes import nothing from the working directory.
    environment = {"OMP_WAIT_POLICY": "PASSIVE"} | os.environ | {"PYTHONSAFEPATH": "1"}
    process = subprocess.Popen(
        argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment, start_new_session=True
    )
    reader = PipelineOutput(progress)
    try:
        assert process.stdout is not None
        with log_path.open("w", encoding="utf-8") as log:
            for raw_line in process.stdout:
                line = _COLOURS.sub("", raw_line.decode(errors="replace")).rstrip()
                log.write(line + "\n")
                reader.read(line)
        status = process.wait()
    finally:
        embedded.stop(process, patient=False)
    if status != 0:
        where = f" in {reader.step}" if reader.step else ""
        reason = reader.error or f"exit status {status}"
        raise InputError(f"the pipeline failed{where}: {reason} (the whole output: {log_path})")
    reader.close()
    artifacts: dict[str, str] = json.loads(reader.last)["artifacts"]
    return artifacts


class PipelineOutput:
    """Follow the output of a pipeline run line by line.

    Attributes:
        step: the step that runs, or ran last; "" before the first.
        error: the last input error that a step printed, "" without one.
        last: the last line; of a run that ended well, its JSON line.
    """

    def __init__(self, progress: Progress) -> None:
        self.step, self.error, self.last = "", "", ""
        self._progress = progress
        self._started = self._finished = time.monotonic()

    def read(self, line: str) -> None:
        """Take one line of output, without terminal colours."""
        self.last = line or self.last
        task = _TASK.search(line)
        if task is not None and task["event"] == "Executing task":
            if task["step"] != self.step:
                self.close()
                self.step, self._started = task["step"], time.monotonic()
                self._progress.detail(self.step)
        elif task is not None and task["finished"]:
            self._finished = time.monotonic()
        elif _ERROR in line:
            self.error = line.partition(_ERROR)[2]
        elif _SHOWN.match(line.strip()):
            self._progress.detail(f"  {line.strip()}")

    def close(self) -> None:
        """End the current step: all its tasks have finished."""
        if self.step:
            seconds = self._finished - self._started
            self._progress.seconds[self.step] = seconds
            self._progress.detail(f"{self.step}: done in {seconds:.1f} s")


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)

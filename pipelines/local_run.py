"""Run a pipeline on this machine, with KFP's local runner."""

from __future__ import annotations

import builtins
import contextlib
import io
import os
import re
import sys
import time
import uuid
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from kfp import local

from eolgul.errors import InputError
from eolgul.kubeflow.logs import last_sentence, without_colours
from eolgul.pipelines.catalogue import DEFAULT, runnable
from eolgul.steps.store import references

_FAILED = re.compile(r"Task '([^']+)' finished with status FAILURE")
_KEPT = 5000  # lines; a task's traceback is within the last hundred


def run_local(arguments: dict[str, Any], root: Path, pipeline: str = DEFAULT) -> dict[str, Any]:
    """Run every component on this machine, each in its own process, with KFP's local runner.

    What the runner and the components print goes to stderr: stdout belongs to the command's JSON line.

    Args:
        arguments: The pipeline's parameters.
        root: Where the runner keeps its outputs.
        pipeline: Its name.

    Returns:
        The workspace, the run's id, the references of what it made or found by `<step>-<name>`, and `root`.

    Raises:
        InputError: When a component fails, with the sentence that it said.
    """
    run = f"local-{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:8]}"
    chosen = runnable(pipeline, run)
    os.environ["PYTHONSAFEPATH"] = "1"  # a component's process imports nothing from the working directory
    workspace = str(arguments.get("workspace", chosen.component_spec.inputs["workspace"].default))
    local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(root), raise_on_error=True)
    transcript = Transcript(sys.stderr)
    try:
        with own_print(), contextlib.redirect_stdout(transcript):
            chosen(**arguments)
    except RuntimeError as error:  # KFP's own, after the component's output
        transcript.flush()
        first = str(error).strip().partition("\n")[0]
        said = transcript.sentence() or without_colours(first)
        raise InputError(f"{transcript.failed or 'the pipeline failed'}: {said}") from error
    return {"workspace": workspace, "run": run, "root": str(root), "artifacts": references(workspace, run)}


@contextlib.contextmanager
def own_print() -> Iterator[None]:
    """Leave `print` as it was before.

    KFP's runner replaces it by one that indents, for as long as a task runs. Tasks beside each other put it back in
    another order than they took it, and the last one leaves the indenting one in place.
    """
    before = builtins.print
    try:
        yield
    finally:
        builtins.print = before


class Transcript(io.TextIOBase):
    """A stream that passes lines on without colours and remembers the last ones.

    Attributes:
        failed: The first task that failed, "" before.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._open = stream, ""
        self._lines: deque[str] = deque(maxlen=_KEPT)
        self.failed = ""

    def writable(self) -> bool:
        """True: `print` asks."""
        return True

    def write(self, text: str) -> int:
        """Pass text on, line by line, so that a colour that is cut in two is still seen."""
        *whole, self._open = (self._open + text).split("\n")
        for line in whole:
            self._take(line)
        return len(text)

    def flush(self) -> None:
        """Pass on what is written so far."""
        if self._open:
            self._take(self._open)
            self._open = ""
        self._stream.flush()

    def sentence(self) -> str:
        """What the failed task said."""
        own = [line for line in self._lines if not _FAILED.search(line) and " - ERROR - " not in line]
        return last_sentence(own)

    def _take(self, line: str) -> None:
        line = without_colours(line)
        self._stream.write(f"{line}\n")
        found = _FAILED.search(line)
        if found and not self.failed:
            self.failed = found[1]
        self._lines.append(line)

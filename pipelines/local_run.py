"""Run the pipeline on this machine, with KFP's local runner."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from kfp import local

from eolgul.errors import InputError
from eolgul.pipelines.face_recognition import face_recognition
from eolgul.steps.store import references, runs


def run_local(arguments: dict[str, Any], root: Path) -> dict[str, Any]:
    """Run every component on this machine, each in its own process, with KFP's local runner.

    Args:
        arguments: The pipeline's parameters.
        root: Where the runner keeps its outputs.

    Returns:
        The workspace, the run's id, the references of what it made or found by `<step>-<name>`, and
        `root`. The run is "" when other runs began in the workspace meanwhile.

    Raises:
        InputError: When a component fails; its output has been printed by then.
    """
    os.environ["PYTHONSAFEPATH"] = "1"  # a component's process imports nothing from the working directory
    workspace = str(arguments.get("workspace", face_recognition.component_spec.inputs["workspace"].default))
    before = set(runs(workspace))
    local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(root), raise_on_error=True)
    try:
        face_recognition(**arguments)
    except RuntimeError as error:  # KFP's own, after the component's output
        raise InputError(f"the pipeline failed: {str(error).strip().splitlines()[0]}; its output is above") from error
    new = sorted(set(runs(workspace)) - before)
    run = new[0] if len(new) == 1 else ""  # others that ended meanwhile have records there, too
    return {
        "workspace": workspace,
        "run": run,
        "root": str(root),
        "artifacts": references(workspace, run) if run else {},
    }

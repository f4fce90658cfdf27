"""Run the pipeline on this machine, with KFP's local runner."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from kfp import local

from eolgul.errors import InputError
from eolgul.pipelines.face_recognition import face_recognition


def run_local(arguments: dict[str, Any], root: Path) -> dict[str, Any]:
    """Run every component on this machine, each in its own process, with KFP's local runner.

    Args:
        arguments: The pipeline's parameters.
        root: Where the runner keeps its outputs.

    Raises:
        InputError: When a component fails; its output has been printed by then.
    """
    os.environ["PYTHONSAFEPATH"] = "1"  # a component's process imports nothing from the working directory
    local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(root), raise_on_error=True)
    try:
        face_recognition(**arguments)
    except RuntimeError as error:  # KFP's own, after the component's output
        raise InputError(f"the pipeline failed: {str(error).strip().splitlines()[0]}; its output is above") from error
    return {"workspace": arguments["workspace"], "root": str(root)}

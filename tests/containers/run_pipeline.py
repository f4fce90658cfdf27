"""Run a pipeline whose tasks are containers: run_pipeline.py '<JSON of a run>'; prints what `eolgul pipeline run` prints.

KFP's local runner compiles the pipeline, and makes each task's command of the `command` and `args` in that document. Here they
run in the task's own image, with the document's variables, and nothing of this machine but the folder of the run's outputs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from kfp.local import status, subprocess_task_handler
from support.containers import Engine

_GIVEN = ("EOLGUL_S3_ENDPOINT", "EOLGUL_S3_ACCESS_KEY", "EOLGUL_S3_SECRET_KEY", "EOLGUL_S3_SECURE")


def _open_to_all(folder: Path) -> None:
    """Kubeflow's volumes belong to the pod's group; here any user may write."""
    for path in (folder, *folder.rglob("*")):
        if path.is_dir():
            path.chmod(0o777)


def main(given: dict[str, Any]) -> None:
    """Replace how a task runs, and run the pipeline."""
    from eolgul.pipelines.images import resolve_images
    from eolgul.pipelines.local_run import run_local

    root, user = Path(given["root"]), int(given["user"])
    engine = Engine.find()
    assert engine is not None

    def run(task: Any) -> status.Status:
        # A local run names no registry; EOLGUL_IMAGES and EOLGUL_IMAGE_PREFIX are of documents that are submitted.
        name = resolve_images()[task.image.rpartition("/")[2].partition(":")[0]]
        image = engine.image(name)
        assert image is not None, f"{name} is not built here"
        assert "pip" not in " ".join(task.full_command[:3]), "a task must not install anything"
        _open_to_all(root)
        begun = time.monotonic()
        variables = {name: os.environ[name] for name in _GIVEN} | task.env_vars
        with engine.run(
            image, task.full_command, user=user, environment=variables, writable=["/scratch"], mounts={root: str(root)},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        ) as process:  # fmt: skip
            assert process.stdout is not None
            for line in process.stdout:
                print(line, end="")
            code = process.wait()
        component = task.full_command[task.full_command.index("--function_to_execute") + 1]
        with (root / "transcript.tsv").open("a") as transcript:
            transcript.write(f"{component}\t{image.name}\t{user}\t{code}\t{time.monotonic() - begun:.1f}\n")
        return status.Status.SUCCESS if code == 0 else status.Status.FAILURE

    subprocess_task_handler.SubprocessTaskHandler.run = run
    subprocess_task_handler.SubprocessTaskHandler.validate_image = lambda self, image: None
    print(json.dumps(run_local(given["parameters"], root)))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))

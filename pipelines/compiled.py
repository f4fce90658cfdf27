"""The pipeline as Kubeflow reads it: compiled, with the user's own images."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml
from kfp import compiler

from eolgul.errors import InputError
from eolgul.files import write_atomic
from eolgul.pipelines.face_recognition import define
from eolgul.pipelines.images import replaced, resolve_images
from eolgul.pipelines.pods import PodSettings


def compile_to(out: Path) -> None:
    """Write the pipeline as YAML.

    Raises:
        InputError: For a file name that KFP does not accept, or when no registry of images is given.
    """
    if out.suffix not in (".yaml", ".yml") or out.is_dir():
        raise InputError(f"{out}: expected a file name that ends in .yaml")
    text = yaml.safe_dump_all(compiled(), sort_keys=True, allow_unicode=True)
    write_atomic(out, text.encode())


def compiled() -> list[dict[str, Any]]:
    """The pipeline's two documents, its specification and what is particular to Kubernetes, with the real images.

    Raises:
        InputError: When no registry of images is given (`eolgul.pipelines.images`).
    """
    images = resolve_images()
    with TemporaryDirectory() as folder:
        file = Path(folder) / "pipeline.yaml"
        compiler.Compiler().compile(define(PodSettings.read()), str(file))
        documents = list(yaml.safe_load_all(file.read_text()))
    for executor in documents[0]["deploymentSpec"]["executors"].values():
        if "container" in executor:
            executor["container"]["image"] = replaced(executor["container"]["image"], images)
    return documents

"""A pipeline as Kubeflow reads it: compiled, with the user's own images."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml
from kfp import compiler

from eolgul.errors import InputError
from eolgul.files import write_atomic
from eolgul.pipelines.catalogue import DEFAULT, definition
from eolgul.pipelines.graph import build
from eolgul.pipelines.images import replaced, resolve_images
from eolgul.pipelines.pods import PodSettings


def compile_to(out: Path, pipeline: str = DEFAULT) -> None:
    """Write a pipeline as YAML.

    Raises:
        InputError: For a file name that KFP does not accept, an unknown pipeline, or when no registry of images is given.
    """
    if out.suffix not in (".yaml", ".yml") or out.is_dir():
        raise InputError(f"{out}: expected a file name that ends in .yaml")
    text = yaml.safe_dump_all(compiled(pipeline), sort_keys=True, allow_unicode=True)
    write_atomic(out, text.encode())


def compiled(pipeline: str = DEFAULT) -> list[dict[str, Any]]:
    """A pipeline's two documents, its specification and what is particular to Kubernetes, with the real images.

    Raises:
        InputError: For an unknown pipeline, or when no registry of images is given (`eolgul.pipelines.images`).
    """
    wanted, images = definition(pipeline), resolve_images()
    with TemporaryDirectory() as folder:
        file = Path(folder) / "pipeline.yaml"
        compiler.Compiler().compile(build(wanted, PodSettings.read()), str(file))
        documents = list(yaml.safe_load_all(file.read_text()))
    for executor in documents[0]["deploymentSpec"]["executors"].values():
        if "container" in executor:
            executor["container"]["image"] = replaced(executor["container"]["image"], images)
    return documents

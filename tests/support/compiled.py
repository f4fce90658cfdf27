"""Compiled pipelines, read: their containers, their graphs, whose image a task runs in."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest

from eolgul.pipelines.compiled import compiled

PREFIX = "registry.example/eolgul"
STEPS = ("extract", "align", "assemble", "train", "evaluate", "promote")
# Whose image a task runs in, where it is not the one of its own name.
IMAGES = {"extract-part": "extract", "align-plan": "align", "align-part": "align", "choose": "evaluate", "measure-others": "evaluate",
          "check": "promote", "roll-back": "promote", "notify": "promote"}  # fmt: skip


def step_of(executor: str) -> str:
    """The step whose image an executor has."""
    name = executor.removeprefix("exec-")
    return IMAGES.get(name, name)


def containers(spec: dict[str, Any]) -> dict[str, Any]:
    """The executors that are pods of ours, by name: importers are not."""
    executors = spec["deploymentSpec"]["executors"]
    return {name: one["container"] for name, one in executors.items() if "container" in one}


def graphs(spec: dict[str, Any]) -> list[dict[str, Any]]:
    """The tasks of the root and of the loops."""
    return [spec["root"]["dag"]["tasks"], *(one["dag"]["tasks"] for one in spec["components"].values() if "dag" in one)]


@cache
def documents(pipeline: str, webhook: str = "") -> tuple[dict[str, Any], dict[str, Any]]:
    """A pipeline's two documents, compiled once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("EOLGUL_IMAGES", raising=False)
        patch.setenv("EOLGUL_IMAGE_PREFIX", PREFIX)
        patch.setenv("EOLGUL_POD_WEBHOOK_SECRET", webhook)
        spec, platform = compiled(pipeline)
    return spec, platform

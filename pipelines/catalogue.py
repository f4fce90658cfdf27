"""The pipelines by their names."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cache
from typing import Any

from eolgul.errors import InputError
from eolgul.pipelines import evaluate_only, face_recognition, promotion, retrain
from eolgul.pipelines.graph import Definition, build

DEFAULT = "face-recognition"
PIPELINES: Mapping[str, Definition] = {
    item.name: item
    for item in (
        face_recognition.DEFINITION,
        evaluate_only.DEFINITION,
        retrain.DEFINITION,
        promotion.PROMOTE,
        promotion.ROLL_BACK,
    )
}


def definition(name: str) -> Definition:
    """The pipeline of a name. Raises InputError for another one."""
    if name not in PIPELINES:
        raise InputError(f"pipeline {name!r}: expected one of {', '.join(PIPELINES)}")
    return PIPELINES[name]


@cache
def declared(name: str) -> Any:
    """A pipeline for KFP's local runner, and the declaration of its parameters. Raises InputError for an unknown name."""
    return face_recognition.face_recognition if name == DEFAULT else build(definition(name))


def runnable(name: str, run: str) -> Any:
    """A pipeline for one run with KFP's local runner. With EOLGUL_WEBHOOK_URL it ends with a notification.

    Args:
        name: The pipeline's name.
        run: The run's id.

    Raises:
        InputError: For an unknown name.
    """
    return build(definition(name), notify=bool(os.environ.get("EOLGUL_WEBHOOK_URL")), run=run)

"""How a run ended, in its tasks' own words: below `outcomes/<run id>/` of the workspace.

KFP (2.17) tells an exit handler only whether its group failed, not which task and why. So each task that fails leaves its
sentence, one that goes well after all removes it, and the last one leaves its result.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from eolgul import storage
from eolgul.artifact import canonical_json
from eolgul.errors import InputError, one_line
from eolgul.steps.places import Facts

_FOLDER, _FAILED, _RESULT = "outcomes", "failed-", "result.json"
_LIMIT = 1000  # characters of a sentence


@dataclass(frozen=True, slots=True)
class Outcome:
    """What is known of a run's end.

    Attributes:
        task: The task that failed; "" when none said so.
        error: Its sentence.
        result: What the run's last task said: the model's digest and whether it is in production; empty before.
    """

    task: str
    error: str
    result: Mapping[str, Any]


@contextmanager
def told(workspace: str, run: str, task: str) -> Iterator[None]:
    """Keep the sentence of what fails in the block; remove that of an earlier attempt when it goes well.

    Args:
        workspace: A path or an `s3://` prefix.
        run: The run's id; "" keeps nothing.
        task: What the task is called.
    """
    place = storage.join(workspace, _FOLDER, run, f"{_FAILED}{task}.json") if run else ""
    try:
        yield
    except Exception as error:
        said = one_line(error, _LIMIT)
        if not isinstance(error, InputError):
            said = f"{type(error).__name__}: {said}"
        with suppress(Exception):  # what failed is the block, and that is what the log ends with
            if place:
                storage.write_bytes(place, canonical_json({"task": task, "error": said}))
        raise
    if place:
        storage.remove_object(place)


def keep_result(workspace: str, run: str, facts: Facts) -> None:
    """Keep what the last task of a run has done: digest, whether it is in production, the reason."""
    wanted = {name: facts[name] for name in ("digest", "promoted", "reason") if name in facts}
    storage.write_bytes(storage.join(workspace, _FOLDER, run, _RESULT), canonical_json(wanted))


def read_outcome(workspace: str, run: str) -> Outcome:
    """What the tasks of a run have left."""
    folder = storage.join(workspace, _FOLDER, run)
    found = {name: _read(storage.join(folder, name)) for name in storage.list_names(folder)}
    failed = next((value for name, value in found.items() if name.startswith(_FAILED)), {})
    return Outcome(str(failed.get("task", "")), str(failed.get("error", "")), found.get(_RESULT, {}))


def _read(place: str) -> dict[str, Any]:
    with suppress(ValueError):
        value = json.loads(storage.read_bytes(place) or b"{}")
        if isinstance(value, dict):
            return value
    return {}

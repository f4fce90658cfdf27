"""Read the figures of an Evaluation folder."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from pydantic import ValidationError

from eolgul.errors import InputError
from eolgul.evaluation.schema import METRICS_FORMAT, Metrics

HELD_OUT: Final = "held-out"  # the name of the set of test people


def read_metrics(evaluation: Path) -> Metrics:
    """Read `metrics.json` of an Evaluation on the local disk.

    Raises:
        InputError: The file is missing, is not JSON, or does not have the figures of this format.
    """
    file = evaluation / "metrics.json"
    try:
        return Metrics.model_validate_json(file.read_bytes())
    except FileNotFoundError as error:
        raise InputError(f"{evaluation}: contains no metrics.json; expected an Evaluation") from error
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror})") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(step) for step in first["loc"])
        problem = f"{place}: {first['msg']}" if place else first["msg"]
        raise InputError(f"{file}: not the metrics of an evaluation, format {METRICS_FORMAT} ({problem})") from error

"""The curve of a model's training, as its package has it."""

from __future__ import annotations

import json
from pathlib import Path

from eolgul.errors import InputError
from eolgul.evaluation.schema import Epoch, Training


def training_curve(package: Path) -> Training | None:
    """Read the losses by epoch from `training.json`; None for a model that was not trained here.

    Raises:
        InputError: The file is malformed.
    """
    file = package / "training.json"
    if not file.is_file():
        return None
    try:
        facts = json.loads(file.read_bytes())
        if not facts.get("curve"):  # imported
            return None
        epochs = [
            Epoch(
                epoch=row["epoch"],
                train=row["train_loss"],
                training_people=(row.get("training_people") or {}).get("loss"),
                validation_people=row["validation"]["loss"],
            )
            for row in facts["curve"]
        ]
        return Training(epochs=epochs, best_epoch=facts["best_epoch"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{file}: expected the curve of a training run ({error!r})") from error

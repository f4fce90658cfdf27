"""Step 6 at the places where its artifacts lie: promote, roll back, choose the reference."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from eolgul.promote.config import PromoteConfig
from eolgul.steps.places import Facts, bring

if TYPE_CHECKING:
    from eolgul.promote.step import Promotion
    from eolgul.registry.signing import SigningKey


def promote(
    model: str,
    evaluation: str,
    registry: str,
    config: PromoteConfig = PromoteConfig(),
    *,
    current_evaluation: str = "",
    reference_evaluation: str = "",
    force: bool = False,
    signing_key: str | None = None,
) -> Facts:
    """Step 6. `signing_key` is a private key's file; None takes the environment's (`signing_key_file`)."""
    from eolgul.promote.step import promote as step

    started = time.monotonic()
    decided = step(
        bring(model),
        bring(evaluation),
        registry,
        config=config,
        current_evaluation=bring(current_evaluation) if current_evaluation else None,
        reference_evaluation=bring(reference_evaluation) if reference_evaluation else None,
        force=force,
        signing_key=_signing_key(signing_key),
    )
    return _decision(registry, decided, started)


def roll_back(registry: str, digest: str, *, signing_key: str | None = None) -> Facts:
    """An earlier model into production again; `digest` may be its beginning, `signing_key` as for `promote`."""
    from eolgul.promote.step import roll_back as step

    started = time.monotonic()
    return _decision(registry, step(registry, digest, signing_key=_signing_key(signing_key)), started)


def choose_reference(registry: str, digest: str) -> Facts:
    """Make a promoted model the registry's reference; `digest` may be its beginning."""
    from eolgul.promote.step import choose_reference as step

    return {"registry": registry, "reference": step(registry, digest)}


def _signing_key(file: str | None) -> SigningKey | None:
    from eolgul.registry.signing import SigningKey

    path = signing_key_file() if file is None else Path(file) if file else None
    return SigningKey.read(path) if path else None


def signing_key_file() -> Path | None:
    """The private key that the environment names: EOLGUL_SIGNING_KEY_FILE, else `key` in EOLGUL_SIGNING_FOLDER.

    A pod has that folder always, and the key in it where the namespace has the Secret.
    """
    file, folder = os.environ.get("EOLGUL_SIGNING_KEY_FILE", ""), os.environ.get("EOLGUL_SIGNING_FOLDER", "")
    if file:
        return Path(file)
    return Path(folder) / "key" if folder and (Path(folder) / "key").is_file() else None


def _decision(registry: str, decided: Promotion, started: float) -> Facts:
    from eolgul.registry.store import model_uri

    return {
        "artifact": model_uri(registry, decided.digest),
        "digest": decided.digest,
        "promoted": decided.promoted,
        "reason": decided.reason,
        "reasons": list(decided.reasons),
        "seconds": round(time.monotonic() - started, 3),
    }

"""Step 6 at the places where its artifacts lie: promote, roll back, choose the reference."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING

from eolgul import storage
from eolgul.errors import InputError, one_line
from eolgul.promote.config import PromoteConfig
from eolgul.steps.places import Facts, bring, card_of, place_of, reference

if TYPE_CHECKING:
    from eolgul.promote.step import Promotion
    from eolgul.registry.signing import SigningKey

_BEGINNING = re.compile(r"[0-9a-f]{8,64}")  # of a digest; fewer digits may be the name of a folder


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
    run: str = "",
) -> Facts:
    """Step 6. `signing_key` is a private key's file; None takes the environment's (`signing_key_file`).

    `run` is the id of the run, for the Model Registry. One that refuses the model is an InputError; the model is in production
    then, and the same call registers it.
    """
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
    made = _decision(registry, decided, started)
    if decided.promoted and config.model_registry:
        made["registered"] = _register(made, evaluation, config, run)
    return made


def _register(made: Facts, evaluation: str, config: PromoteConfig, run: str) -> str:
    from eolgul.evaluation.reader import read_metrics
    from eolgul.kubeflow.model_registry import Entry, register
    from eolgul.steps.figures import evaluation_figures

    assert config.model_registry
    figures = evaluation_figures(read_metrics(bring(evaluation)))
    entry = Entry(str(made["digest"]), str(made["artifact"]), one_line(made["reason"]), figures, run)
    return register(config.model_registry, config.registered_as, entry)


def roll_back(registry: str, digest: str, *, reason: str = "", signing_key: str | None = None) -> Facts:
    """An earlier model into production again.

    `digest` may be its beginning, `previous` or `production`; `reason` goes to the history; `signing_key` as for `promote`.
    """
    from eolgul.promote.step import roll_back as step

    started = time.monotonic()
    made = step(registry, digest, reason=reason, signing_key=_signing_key(signing_key))
    return _decision(registry, made, started)


def find_model(model: str, registry: str) -> str:
    """The reference of a model that a person names.

    Args:
        model: A ModelPackage's place or reference; `production` or `reference` of the registry; the digest of a model that
            was promoted there, or its beginning; or the place of an `.onnx` file, which is returned as it is.
        registry: The registry.

    Raises:
        InputError: There is no such model.
    """
    from eolgul.promote.step import promoted_digest
    from eolgul.registry.store import model_uri, read_production, read_reference

    if model in ("production", "reference"):
        production = read_production(registry)
        digest = read_reference(registry) if model == "reference" else production.digest if production else None
        if digest is None:
            raise InputError(f"{registry}: has no model in production yet" if model == "production"
                             else f"{registry}: has no reference model yet")  # fmt: skip
        return reference(model_uri(registry, digest), digest)
    if _BEGINNING.fullmatch(model):
        digest = promoted_digest(registry, model)
        return reference(model_uri(registry, digest), digest)
    if place_of(model).endswith(".onnx"):
        if not storage.exists(model):
            raise InputError(f"{model}: nothing there")
        return model
    card = card_of(model)
    if card.kind != "ModelPackage":
        raise InputError(f"{model}: is a {card.kind}, expected a ModelPackage")
    return reference(place_of(model), card.digest)


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

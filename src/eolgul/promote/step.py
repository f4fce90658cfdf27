"""Step 6: compare a candidate with the model in production, and publish it when it is better.

Promotion is one atomic replacement of the registry's pointer, and so is the return to an earlier model.
Memory: figures and the names of the people that models have learned from; no data set is opened.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from eolgul import storage
from eolgul.artifact import CARDS, Artifact, open_artifact, seal, writing
from eolgul.errors import InputError, one_line
from eolgul.evaluation.compare import Decision, acceptable, behind, better
from eolgul.evaluation.people_file import FILE as PEOPLE_FILE
from eolgul.evaluation.people_file import read_people
from eolgul.evaluation.reader import read_metrics
from eolgul.evaluation.scores_file import read_scores
from eolgul.model.package import ModelPackage
from eolgul.promote.config import PromoteConfig
from eolgul.registry.signing import SigningKey
from eolgul.registry.store import (
    HISTORY,
    Production,
    checked_digest,
    download,
    model_uri,
    point,
    read_production,
    read_reference,
    remember,
    signature_uri,
    write_reference,
)

PREVIOUS = "previous"  # stands for the digest of the model that was in production before
PRESENT = "production"  # stands for the digest of the model that is in production
VERSION = 1  # of the results: raise it when the same inputs and recipe give others
_EVALUATION_FILES = ("metrics.json", "report.html", "scores.parquet", PEOPLE_FILE, CARDS["Evaluation"])


@dataclass(frozen=True, slots=True)
class Promotion:
    """The decision of `promote`. `digest` is the candidate's as it is, or would be, published."""

    promoted: bool
    digest: str
    reasons: tuple[str, ...]

    @property
    def reason(self) -> str:
        """All reasons as one sentence."""
        return f"{'promoted' if self.promoted else 'not promoted'}: {'; '.join(self.reasons)}"


def promote(
    model: Path,
    evaluation: Path,
    registry: str,
    *,
    config: PromoteConfig = PromoteConfig(),
    current_evaluation: Path | None = None,
    reference_evaluation: Path | None = None,
    force: bool = False,
    signing_key: SigningKey | None = None,
) -> Promotion:
    """Publish `model` with its `evaluation`, and point production at it when it is good enough.

    The first model must beat chance (`acceptable`); a later one must beat the model in production on the same held-out
    data beyond doubt (`better`, a paired bootstrap), and may not fall behind the registry's reference (`behind`): the
    first model, until another is chosen. A tie keeps the current model. Every candidate must meet the requirements of
    `config`. Every decision goes to `history.jsonl`.

    Args:
        model: A ModelPackage.
        evaluation: Its Evaluation.
        registry: A folder or an S3 prefix.
        config: The options.
        current_evaluation: Production's model measured on the candidate's data; needed where production's own evaluation
            was made from other data.
        reference_evaluation: The same of the reference model, where that is another model than production's.
        force: Promote in spite of the comparison; the reasons say so.
        signing_key: Signs the published model before the pointer changes, also one that is in production already.

    Raises:
        InputError: The evaluation is of another model, two evaluations cannot be compared, or the service does not align
            faces as the model saw them.
    """
    package = ModelPackage.open(model)
    package.check_served()
    measured = open_artifact(evaluation, "Evaluation", check="sha256")
    if package.artifact.reference not in measured.card["inputs"]:
        raise InputError(f"{evaluation}: evaluates another model than {package.digest[:12]}")
    if "calibration.json" not in measured.card["files"]:
        raise InputError(f"{evaluation}: has no calibration.json; evaluate with the dataset the model learned from")
    missing = sorted(set(_EVALUATION_FILES) - {CARDS["Evaluation"]} - set(measured.card["files"]))
    if missing:
        raise InputError(f"{evaluation}: has no {missing[0]}: it was made by an older version; evaluate again")
    learned_from = [item for item in package.artifact.card["inputs"] if item["kind"] == "FaceDataset"]
    if any(item not in measured.card["inputs"] for item in learned_from) and not _overlap_is_known(evaluation):
        raise InputError(
            f"{evaluation}: made from another dataset than the model learned from; the model may have seen its test people"
        )
    production = read_production(registry)
    with TemporaryDirectory() as scratch:
        final = _with_evaluation(package, measured, Path(scratch) / "model")
        if production is not None and production.digest == final.digest:
            _sign(registry, final.digest, signing_key)
            _remember_again(registry, production)
            return Promotion(True, final.digest, ("this model is in production already",))
        try:
            given = {"current": current_evaluation, "reference": reference_evaluation}
            decision = _decide(measured, registry, production, given, config)
        except InputError as error:
            if not force:
                raise
            decision = Decision(False, [str(error)])
        reasons = tuple(decision.reasons)
        if force and not decision.promote:
            reasons += ("promoted by force, against the comparison",)
        promoted = decision.promote or force
        if promoted:
            _publish(final, model_uri(registry, final.digest))
    now = datetime.now(UTC).isoformat(timespec="seconds")
    if promoted and read_production(registry) != production and not force:
        raise InputError(
            f"{registry}: another model was promoted in the meantime; promote again to compare with that model"
        )
    if promoted:
        _sign(registry, final.digest, signing_key)
        if read_reference(registry) is None:
            write_reference(registry, production.digest if production else final.digest)
        point(registry, Production(final.digest, now, production.digest if production else None, reasons))
    made = Promotion(promoted, final.digest, reasons)
    _remember(registry, made, now, production.digest if production else None)
    return made


def roll_back(registry: str, digest: str, *, reason: str = "", signing_key: SigningKey | None = None) -> Promotion:
    """Point production at an earlier model again, without a comparison.

    The model is downloaded and every file checked first. The decision goes to `history.jsonl`.

    Args:
        registry: A folder or an S3 prefix.
        digest: The model's digest or the beginning of it; `previous`: the model that was in production before; `production`: the
            one that is, which a new key can sign.
        reason: Why, in a person's words.
        signing_key: Signs the model, also one that is in production already; needed for an unsigned model where serving
            trusts only signed ones.

    Raises:
        InputError: No model of that digest was ever promoted here, several match, or its files are damaged.
    """
    production = read_production(registry)
    earlier = earlier_digest(registry, digest)
    there = production is not None and production.digest == earlier
    if not there or signing_key is not None:
        download(registry, earlier)
        _sign(registry, earlier, signing_key)
    if there:
        said = f"; signed with the key {signing_key.key_id}" if signing_key else ""
        said += "; the reason is not recorded, since the pointer stays" if reason else ""
        return Promotion(True, earlier, (f"this model is in production already{said}",))
    now = datetime.now(UTC).isoformat(timespec="seconds")
    against = production.digest if production else None
    reasons = (f"rolled back from {against[:12]}" if against else "rolled back", *([reason] if reason else []))
    point(registry, Production(earlier, now, against, reasons))
    made = Promotion(True, earlier, reasons)
    _remember(registry, made, now, against)
    return made


def _remember(registry: str, made: Promotion, now: str, against: str | None) -> None:
    """Add a decision to the history; `against` is the model that was in production."""
    remember(registry, {"time": now, "promoted": made.promoted, "digest": made.digest, "reasons": list(made.reasons),
                         "reason": made.reason, "against": against})  # fmt: skip


def earlier_digest(registry: str, digest: str) -> str:
    """The digest of the model to roll back to, which is given as `roll_back` takes it.

    Raises:
        InputError: No model of that digest was ever promoted here, several match, or none was there before.
    """
    if digest not in (PREVIOUS, PRESENT):
        return promoted_digest(registry, digest)
    production = read_production(registry)
    if digest == PRESENT:
        if production is None:
            raise InputError(f"{registry}: no model has been promoted yet")
        return production.digest
    if production is None or production.previous is None:
        found = "no model is in production" if production is None else "its first model is in production"
        raise InputError(f"{registry}: {found}, so there is none before it")
    return production.previous


def _remember_again(registry: str, production: Production) -> None:
    """Add to the history what a promotion that was killed behind the pointer did not add."""
    if production.digest not in _promoted(registry):
        made = Promotion(True, production.digest, production.reasons)
        _remember(registry, made, production.promoted_at, production.previous)


def _promoted(registry: str) -> set[str]:
    """The digests of all models that were ever promoted."""
    where = storage.join(registry, HISTORY)
    try:
        entries = [json.loads(line) for line in (storage.read_bytes(where) or b"").splitlines()]
        return {checked_digest(entry["digest"]) for entry in entries if entry["promoted"]}
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{where}: expected one JSON object per line with digest and promoted ({one_line(error)})"
        ) from error


def promoted_digest(registry: str, beginning: str) -> str:
    """Return the one digest among those ever promoted that has this beginning.

    Raises:
        InputError: None has, or several have.
    """
    digests = _promoted(registry)
    matching = sorted(digest for digest in digests if beginning and digest.startswith(beginning))
    if len(matching) != 1:
        known = ", ".join(digest[:12] for digest in sorted(digests)) or "none"
        raise InputError(
            f"{registry}: {len(matching)} promoted models have a digest that begins with {beginning!r}, "
            f"expected one of {known}"
        )
    return matching[0]


def _sign(registry: str, digest: str, key: SigningKey | None) -> None:
    if key is not None:
        storage.write_bytes(signature_uri(registry, digest), key.sign(digest))


def _with_evaluation(package: ModelPackage, evaluation: Artifact, out: Path) -> Artifact:
    """Write the package that is served: the trained one plus its calibration and evaluation, with its own digest."""
    card = package.artifact.card
    with writing(out) as folder:
        for name in card["files"]:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(package.path / name, folder / name)
        shutil.copyfile(evaluation.path / "calibration.json", folder / "calibration.json")
        (folder / "evaluation").mkdir(exist_ok=True)
        for name in _EVALUATION_FILES:
            shutil.copyfile(evaluation.path / name, folder / "evaluation" / name)
        sealed = seal(
            folder,
            "ModelPackage",
            step="promote",
            version=VERSION,
            recipe=card["recipe"],
            inputs=[package.artifact.reference, evaluation.reference],
            contents=package.artifact.contents,
            synthetic=package.artifact.synthetic or evaluation.synthetic,
        )
    return Artifact(out, sealed.kind, sealed.card, sealed.digest)


def _decide(
    candidate: Artifact,
    registry: str,
    production: Production | None,
    given: Mapping[str, Path | None],
    config: PromoteConfig,
) -> Decision:
    """Compare with the models in the registry and with the requirements; every reason against is named.

    `given`: the evaluation of production's model ("current") and of the reference model ("reference") on the
    candidate's data, where one was made for this.
    """
    if production is None:
        for place in given.values():
            if place is not None:
                raise InputError(f"{place}: is for a comparison, but no model is in production in {registry}")
        decisions = [acceptable(read_metrics(candidate.path))]
    else:
        reference = read_reference(registry) or production.digest
        current = _evaluation_of(registry, production.digest, candidate, given["current"], "current")
        decisions = [better(candidate.path, current)]
        if reference != production.digest:
            current = _evaluation_of(registry, reference, candidate, given["reference"], "reference")
        elif given["reference"] is not None:
            raise InputError(f"{given['reference']}: the reference model is production's; one evaluation is for both")
        decisions.append(behind(candidate.path, current, config.reference_margin))
    figures = read_metrics(candidate.path)
    for requirement in config.requirements():
        met, sentence = requirement.check(figures)
        decisions.append(Decision(met, [sentence]))
    against = [reason for decision in decisions if not decision.promote for reason in decision.reasons]
    if against:
        return Decision(False, list(dict.fromkeys(against)))
    return Decision(True, list(dict.fromkeys(reason for decision in decisions for reason in decision.reasons)))


_ROLES = {"current": "model in production", "reference": "reference model"}


def _evaluation_of(registry: str, digest: str, candidate: Artifact, given: Path | None, role: str) -> Path:
    """The evaluation of a model of the registry on the candidate's data: the one given, or its own."""
    package = download(registry, digest)
    own = package.path / "evaluation"
    if given is None:
        if _comparable(own, candidate.card):
            return own
        raise InputError(
            f"the {_ROLES[role]} ({digest[:12]}) was evaluated on other data, or by an older version; evaluate it on the "
            f"candidate's data and give that as the {role} evaluation"
        )
    other = open_artifact(given, "Evaluation")
    whose = "production's" if role == "current" else "the reference model"
    if package.artifact.reference not in other.card["inputs"]:
        raise InputError(f"{given}: evaluates another model than {whose} {digest[:12]}")
    if _data(other.card) != _data(candidate.card):
        raise InputError(f"{given}: made from other data than {candidate.path}")
    return given


def _open_card(evaluation: Path) -> dict[str, Any]:
    """Read the card of an evaluation inside a package."""
    file = evaluation / CARDS["Evaluation"]
    try:
        card: dict[str, Any] = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: expected the card of an evaluation") from error
    return card


def needed_evaluations(evaluation: Path, registry: str) -> dict[str, str]:
    """Which models of the registry `promote` needs to be measured on this evaluation's data first, by their role.

    Returns:
        {"current" or "reference": digest}; "reference" only where that is another model than production's.
    """
    production = read_production(registry)
    if production is None:
        return {}
    roles = {"current": production.digest}
    reference = read_reference(registry)
    if reference is not None and reference != production.digest:
        roles["reference"] = reference
    card = open_artifact(evaluation, "Evaluation").card
    return {
        role: digest
        for role, digest in roles.items()
        if not _comparable(download(registry, digest).path / "evaluation", card)
    }


def choose_reference(registry: str, digest: str) -> str:
    """Make a model that was promoted here the reference that no later one may fall behind; returns its digest.

    Args:
        registry: A folder or an S3 prefix.
        digest: The model's digest or the beginning of it.

    Raises:
        InputError: No model of that digest was ever promoted here, several match, or its files are damaged.
    """
    chosen = promoted_digest(registry, digest)
    download(registry, chosen)
    write_reference(registry, chosen)
    reason = f"{chosen[:12]} is the reference now"
    remember(registry, {"time": datetime.now(UTC).isoformat(timespec="seconds"), "promoted": False, "digest": chosen,
                         "reasons": [reason], "reason": reason, "against": None})  # fmt: skip
    return chosen


def _comparable(own: Path, candidate: Mapping[str, Any]) -> bool:
    """Whether production's own evaluation was made from the candidate's data and has what this version compares."""
    if _data(_open_card(own)) != _data(candidate):
        return False
    try:
        read_metrics(own)
        read_scores(own)
        read_people(own)
    except InputError:
        return False  # by an older version
    return True


def _data(card: Mapping[str, Any]) -> list[Any]:
    """Return the inputs, except the model, and the options of an evaluation.

    People left out because the model learned from them are not another data set: the comparison is on the others.
    """
    recipe = {name: value for name, value in card["recipe"].items() if name != "unseen_only"}
    return [[item for item in card["inputs"] if item["kind"] != "ModelPackage"], recipe]


def _overlap_is_known(evaluation: Path) -> bool:
    """Whether an evaluation says of all its people whether its model learned from them."""
    audit = read_metrics(evaluation).audit
    return audit is not None and audit.known == "all"


def _publish(model: Artifact, uri: str) -> None:
    if storage.is_s3(uri):
        storage.publish(model.path, uri)
        return
    with writing(Path(uri)) as folder:
        shutil.copytree(model.path, folder, dirs_exist_ok=True)

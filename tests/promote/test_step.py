"""Promotion: the better model wins, a worse one or a tie does not, and what is published is what was measured."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from support.registry import OTHER_DATA, audited, benchmarked, evaluation, history, model

from eolgul.errors import InputError
from eolgul.model.package import ModelPackage
from eolgul.promote.config import PromoteConfig
from eolgul.promote.step import choose_reference, needed_evaluations, promote, roll_back
from eolgul.registry.store import (
    Production,
    download,
    model_uri,
    point,
    read_production,
    read_reference,
    write_reference,
)


@pytest.fixture(params=["folder", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "folder":
        return str(tmp_path / "registry")
    return f"{request.getfixturevalue('s3')}/registry-{tmp_path.name}"


def test_first_better_worse_tie(place: str, tmp_path: Path) -> None:
    a, b = model(tmp_path / "a", 1), model(tmp_path / "b", 2)
    first = promote(a, evaluation(tmp_path / "ea", a, fnmr=0.2), place)
    assert first.promoted
    served = download(place, first.digest)
    assert (served.path / "calibration.json").read_text() == json.dumps({"threshold": 0.4, "for": "ea"})
    assert (served.path / "model.onnx").read_bytes() == (a / "model.onnx").read_bytes()
    assert served.artifact.synthetic  # the evaluation was made on drawn people, and the package says so

    for fnmr in (0.3, 0.2):  # worse, and a tie
        kept = promote(b, evaluation(tmp_path / f"eb{fnmr}", b, fnmr=fnmr), place)
        assert not kept.promoted
        assert any("not lower" in reason for reason in kept.reasons)
        production = read_production(place)
        assert production is not None and production.digest == first.digest

    second = promote(b, evaluation(tmp_path / "eb", b, fnmr=0.1), place)
    production = read_production(place)
    assert second.promoted and production is not None
    assert (production.digest, production.previous) == (second.digest, first.digest)
    assert download(place, first.digest).digest == first.digest  # the old one stays, to roll back to
    assert [entry["promoted"] for entry in history(place)] == [True, False, False, True]


def test_a_promotion_that_was_killed_behind_the_pointer_is_in_the_history(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, a, b = str(tmp_path / "registry"), model(tmp_path / "a", 1), model(tmp_path / "b", 2)
    first = promote(a, evaluation(tmp_path / "ea", a, fnmr=0.2), place)
    measured = evaluation(tmp_path / "eb", b, fnmr=0.1)
    with monkeypatch.context() as patch:
        patch.setattr("eolgul.promote.step.remember", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            promote(b, measured, place)
    assert len(history(place)) == 1
    for _ in range(2):  # the task again, and once more
        second = promote(b, measured, place)
    production, (_, entry) = read_production(place), history(place)
    assert production is not None
    assert (entry["promoted"], entry["digest"], entry["against"]) == (True, second.digest, first.digest)
    assert (entry["time"], entry["reasons"]) == (production.promoted_at, list(production.reasons))
    assert roll_back(place, first.digest).promoted and roll_back(place, second.digest).promoted


def test_a_model_no_better_than_chance_is_not_even_the_first(tmp_path: Path) -> None:
    a = model(tmp_path / "a", 1)
    kept = promote(a, evaluation(tmp_path / "ea", a, fnmr=0.9, auc_low=0.48), str(tmp_path / "registry"))
    assert not kept.promoted
    assert read_production(str(tmp_path / "registry")) is None
    forced = promote(a, tmp_path / "ea", str(tmp_path / "registry"), force=True)
    assert forced.promoted and "force" in forced.reasons[-1]


def test_figures_of_another_model_promote_nothing(tmp_path: Path) -> None:
    a, b = model(tmp_path / "a", 1), model(tmp_path / "b", 2)
    with pytest.raises(InputError, match="evaluates another model"):
        promote(b, evaluation(tmp_path / "ea", a, fnmr=0.1), str(tmp_path / "registry"))
    assert not (tmp_path / "registry").exists()


@pytest.mark.parametrize("force", [False, True])
def test_an_evaluation_without_a_threshold_promotes_nothing(tmp_path: Path, force: bool) -> None:
    """Benchmarks alone give no calibration, and serving would have no verdict to give: not even force helps."""
    a = model(tmp_path / "a", 1)
    place, measured = str(tmp_path / "registry"), evaluation(tmp_path / "ea", a, fnmr=0.1)
    (measured / "calibration.json").unlink()
    card = json.loads((measured / "evaluation.json").read_bytes())
    del card["files"]["calibration.json"]
    (measured / "evaluation.json").write_text(json.dumps(card))
    with pytest.raises(InputError, match=r"has no calibration\.json; evaluate with the dataset"):
        promote(a, measured, place, force=force)
    assert not (tmp_path / "registry").exists()


def test_an_evaluation_of_an_older_version_is_made_again(tmp_path: Path) -> None:
    """A candidate's is refused in a sentence; production's is named among those that are needed."""
    a, place = model(tmp_path / "a", 1), str(tmp_path / "registry")
    measured = evaluation(tmp_path / "ea", a, fnmr=0.1)
    first = promote(a, measured, place)
    (measured / "people.parquet").unlink()
    card = json.loads((measured / "evaluation.json").read_bytes())
    del card["files"]["people.parquet"]
    (measured / "evaluation.json").write_text(json.dumps(card))
    with pytest.raises(
        InputError, match=r"ea: has no people\.parquet: it was made by an older version; evaluate again"
    ):
        promote(a, measured, place)
    b = model(tmp_path / "b", 2)
    candidate = evaluation(tmp_path / "eb", b, fnmr=0.05)
    assert needed_evaluations(candidate, place) == {}
    served = Path(model_uri(place, first.digest))
    (served / "evaluation" / "people.parquet").write_bytes(b"of another form")
    digest = hashlib.sha256(b"of another form").hexdigest()
    manifest = json.loads((served / "manifest.json").read_bytes())
    manifest["files"]["evaluation/people.parquet"] = {"size": 15, "sha256": digest}
    text = json.dumps(manifest)
    older = served.with_name(hashlib.sha256(text.encode()).hexdigest())
    served.rename(older)
    (older / "manifest.json").write_text(text)
    point(place, Production(older.name, "2026-01-01T00:00:00+00:00", None, ()))
    write_reference(place, older.name)
    assert needed_evaluations(candidate, place) == {"current": older.name}
    with pytest.raises(InputError, match="or by an older version"):
        promote(b, candidate, place)


def test_figures_from_other_data_are_not_compared(tmp_path: Path) -> None:
    place = str(tmp_path / "registry")
    a, b = model(tmp_path / "a", 1), model(tmp_path / "b", 2, OTHER_DATA)
    first = promote(a, evaluation(tmp_path / "ea", a, fnmr=0.2), place)
    candidate = evaluation(tmp_path / "eb", b, fnmr=0.1, data=OTHER_DATA)
    assert needed_evaluations(candidate, place) == {"current": first.digest}
    with pytest.raises(InputError, match="evaluated on other data"):
        promote(b, candidate, place)
    production = download(place, first.digest).path
    with pytest.raises(InputError, match="other data than"):
        wrong = evaluation(tmp_path / "wrong", production, fnmr=0.2)
        promote(b, candidate, place, current_evaluation=wrong)
    with pytest.raises(InputError, match="another model than production"):
        promote(b, candidate, place, current_evaluation=candidate)
    current = evaluation(tmp_path / "current", production, fnmr=0.05, data=OTHER_DATA)
    assert not promote(b, candidate, place, current_evaluation=current).promoted
    current = evaluation(tmp_path / "current2", production, fnmr=0.15, data=OTHER_DATA)
    assert promote(b, candidate, place, current_evaluation=current).promoted


def test_an_evaluation_of_production_is_for_a_comparison(tmp_path: Path) -> None:
    a = model(tmp_path / "a", 1)
    measured, registry = evaluation(tmp_path / "ea", a, fnmr=0.1), str(tmp_path / "registry")
    with pytest.raises(InputError, match="ea: is for a comparison, but no model is in production"):
        promote(a, measured, registry, current_evaluation=measured)
    assert read_production(registry) is None
    assert promote(a, measured, registry).promoted
    b = model(tmp_path / "b", 2)
    with pytest.raises(InputError, match="evaluates another model than production's"):
        promote(b, evaluation(tmp_path / "eb", b, fnmr=0.05), registry, current_evaluation=tmp_path / "eb")


def test_the_same_model_again_changes_nothing(tmp_path: Path) -> None:
    place = str(tmp_path / "registry")
    a = model(tmp_path / "a", 1)
    first = promote(a, evaluation(tmp_path / "ea", a, fnmr=0.2), place)
    again = promote(a, tmp_path / "ea", place)
    assert again.promoted and again.digest == first.digest
    assert len(history(place)) == 1


def test_a_model_that_was_changed_after_its_promotion_is_not_loaded(tmp_path: Path) -> None:
    place = str(tmp_path / "registry")
    a = model(tmp_path / "a", 1)
    first = promote(a, evaluation(tmp_path / "ea", a, fnmr=0.2), place)
    weights = Path(model_uri(place, first.digest)) / "model.onnx"
    data = bytearray(weights.read_bytes())
    data[200] ^= 1
    weights.write_bytes(data)
    with pytest.raises(InputError, match=r"model\.onnx.*sha256"):
        download(place, first.digest)


@pytest.mark.parametrize("pointer", [b"{", b"[]", b'{"digest": "../../etc"}', b'{"digest": 5, "promoted_at": ""}'])
def test_a_malformed_pointer_is_said(tmp_path: Path, pointer: bytes) -> None:
    (tmp_path / "production.json").write_bytes(pointer)
    with pytest.raises(InputError, match=r"production\.json"):
        read_production(str(tmp_path))


def test_the_served_package_opens_and_its_digest_is_its_manifests(tmp_path: Path) -> None:
    place = str(tmp_path / "registry")
    a = model(tmp_path / "a", 1)
    first = promote(a, evaluation(tmp_path / "ea", a, fnmr=0.2), place)
    folder = Path(model_uri(place, first.digest))
    assert hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest() == first.digest
    assert ModelPackage.open(folder).digest == first.digest


def test_a_model_measured_on_other_people_than_it_was_held_back_from_is_refused(tmp_path: Path) -> None:
    """Another split of the same people: its test people may be this model's training people."""
    a = model(tmp_path / "a", 1)
    with pytest.raises(InputError, match="another dataset than the model learned from"):
        promote(a, evaluation(tmp_path / "ea", a, fnmr=0.1, data=OTHER_DATA), str(tmp_path / "registry"))
    assert not (tmp_path / "registry").exists()


def test_force_gets_past_a_broken_production_model(tmp_path: Path) -> None:
    place = str(tmp_path / "registry")
    a, b = model(tmp_path / "a", 1), model(tmp_path / "b", 2)
    first = promote(a, evaluation(tmp_path / "ea", a, fnmr=0.2), place)
    (Path(model_uri(place, first.digest)) / "model.onnx").unlink()
    candidate = evaluation(tmp_path / "eb", b, fnmr=0.3)
    with pytest.raises(InputError, match=r"model\.onnx"):
        promote(b, candidate, place)
    assert promote(b, candidate, place, force=True).promoted


@pytest.mark.parametrize("whose", ["candidate", "current model"])
def test_figures_of_people_that_a_model_learned_from_promote_nothing(tmp_path: Path, whose: str) -> None:
    """Neither side may have learned from the people measured; left out, they are counted in the reasons."""
    place = str(tmp_path / "registry")
    a, b = model(tmp_path / "a", 1), model(tmp_path / "b", 2, OTHER_DATA)
    first = promote(a, evaluation(tmp_path / "ea", a, fnmr=0.3), place)
    candidate = evaluation(tmp_path / "eb", b, fnmr=0.1, data=OTHER_DATA)
    current = evaluation(tmp_path / "current", download(place, first.digest).path, fnmr=0.3, data=OTHER_DATA)
    audited(candidate, people_in_training=3 if whose == "candidate" else 0)
    audited(current, people_in_training=3 if whose == "current model" else 0)
    kept = promote(b, candidate, place, current_evaluation=current)
    assert not kept.promoted and f"the {whose} learned from 3 of the 200 held-out people" in kept.reasons[0]
    assert history(place)[-1]["reasons"] == list(kept.reasons)
    for measured in (candidate, current):
        audited(measured, people_in_training=3, left_out=True)
    done = promote(b, candidate, place, current_evaluation=current)
    assert done.promoted
    assert f"3 of the 200 held-out people are left out of the {whose}'s figures: it learned from them" in done.reasons


def test_a_model_may_be_measured_on_other_data_when_its_past_is_known(tmp_path: Path) -> None:
    a = model(tmp_path / "a", 1)
    measured = evaluation(tmp_path / "ea", a, fnmr=0.1, data=OTHER_DATA)
    audited(measured, people_in_training=0)
    assert promote(a, measured, str(tmp_path / "registry")).promoted


def test_an_unknown_past_is_among_the_reasons(tmp_path: Path) -> None:
    a = model(tmp_path / "a", 1)
    done = promote(a, evaluation(tmp_path / "ea", a, fnmr=0.1), str(tmp_path / "registry"))
    assert "what the candidate learned from is unknown: it may have seen the held-out people" in done.reasons


def test_small_losses_do_not_add_up(tmp_path: Path) -> None:
    """Each candidate is better on held-out people and loses a little elsewhere: together they may not lose much."""
    place = str(tmp_path / "registry")
    models = [model(tmp_path / f"m{number}", number) for number in range(4)]
    first = promote(models[0], benchmarked(tmp_path, models[0], fnmr=0.4, wrong=0), place)
    assert first.promoted and read_reference(place) == first.digest
    second = promote(models[1], benchmarked(tmp_path, models[1], fnmr=0.3, wrong=1), place)
    assert second.promoted and "lfw accuracy" in second.reason and read_reference(place) == first.digest
    # Of 200 pairs one more wrong is no sure loss against production, and 0.5 % against it; 1.5 % against the first.
    third = promote(models[2], benchmarked(tmp_path, models[2], fnmr=0.2, wrong=3), place)
    assert not third.promoted
    assert third.reasons[0] == "lfw accuracy is 0.015 worse than the reference model's, more than the margin 0.01"
    assert history(place)[-1]["reason"] == third.reason and third.reason.startswith(f"not promoted: {third.reasons[0]}")
    wider = PromoteConfig(reference_margin=0.02)
    assert promote(models[2], tmp_path / "e2", place, config=wider).promoted


def test_another_reference_can_be_chosen(tmp_path: Path) -> None:
    place = str(tmp_path / "registry")
    models = [model(tmp_path / f"m{number}", number) for number in range(3)]
    promote(models[0], benchmarked(tmp_path, models[0], fnmr=0.4, wrong=0), place)
    second = promote(models[1], benchmarked(tmp_path, models[1], fnmr=0.3, wrong=1), place)
    with pytest.raises(InputError, match="0 promoted models"):
        choose_reference(place, "feed")
    assert choose_reference(place, second.digest[:10]) == second.digest == read_reference(place)
    assert promote(models[2], benchmarked(tmp_path, models[2], fnmr=0.2, wrong=3), place).promoted
    assert any("is the reference now" in entry["reason"] for entry in history(place))


def test_the_reference_is_judged_on_the_candidates_people(tmp_path: Path) -> None:
    place = str(tmp_path / "registry")
    a, b, c = model(tmp_path / "a", 1), model(tmp_path / "b", 2), model(tmp_path / "c", 3, OTHER_DATA)
    first = promote(a, evaluation(tmp_path / "ea", a, fnmr=0.3), place)
    second = promote(b, evaluation(tmp_path / "eb", b, fnmr=0.2), place)
    candidate = evaluation(tmp_path / "ec", c, fnmr=0.1, data=OTHER_DATA)
    assert needed_evaluations(candidate, place) == {"current": second.digest, "reference": first.digest}
    current = evaluation(tmp_path / "current", download(place, second.digest).path, fnmr=0.2, data=OTHER_DATA)
    with pytest.raises(InputError, match=r"the reference model .* was evaluated on other data"):
        promote(c, candidate, place, current_evaluation=current)
    assert read_production(place).digest == second.digest  # type: ignore[union-attr]
    with pytest.raises(InputError, match="another model than the reference model"):
        promote(c, candidate, place, current_evaluation=current, reference_evaluation=current)
    reference = evaluation(tmp_path / "reference", download(place, first.digest).path, fnmr=0.05, data=OTHER_DATA)
    kept = promote(c, candidate, place, current_evaluation=current, reference_evaluation=reference)
    assert not kept.promoted and "held-out FNMR is 0.05 worse than the reference model's" in kept.reason
    reference = evaluation(tmp_path / "reference2", download(place, first.digest).path, fnmr=0.3, data=OTHER_DATA)
    assert promote(c, candidate, place, current_evaluation=current, reference_evaluation=reference).promoted


def test_a_registry_of_an_older_version_gets_its_current_model_as_reference(tmp_path: Path) -> None:
    place = str(tmp_path / "registry")
    a, b = model(tmp_path / "a", 1), model(tmp_path / "b", 2)
    first = promote(a, evaluation(tmp_path / "ea", a, fnmr=0.3), place)
    (tmp_path / "registry" / "reference.json").unlink()
    assert promote(b, evaluation(tmp_path / "eb", b, fnmr=0.1), place).promoted
    assert read_reference(place) == first.digest
    (tmp_path / "registry" / "reference.json").write_text("{}")
    with pytest.raises(InputError, match=r"reference\.json"):
        read_reference(place)


@pytest.mark.parametrize(
    ("requirement", "reason"),
    [
        ("fnmr<=0.1", "held-out fnmr is 0.2: fnmr<=0.1 is required"),
        ("fnmr<=0.9@fmr=1e-6", "held-out fnmr at FMR 1e-06 is unknown"),
        ("accuracy>=0.5@set=lfw", "lfw accuracy is unknown: the evaluation has the sets held-out"),
        ("people_in_training<=0", "held-out people in training is unknown"),
        ("auc>=0.99", "held-out auc is 0.95: auc>=0.99 is required"),
    ],
)
def test_a_first_model_must_meet_the_requirements(tmp_path: Path, requirement: str, reason: str) -> None:
    a, place = model(tmp_path / "a", 1), str(tmp_path / "registry")
    measured = evaluation(tmp_path / "ea", a, fnmr=0.2)
    config = PromoteConfig(require=(requirement, "accuracy>=0.8"))
    kept = promote(a, measured, place, config=config)
    assert not kept.promoted and reason in kept.reason and "accuracy>=0.8" not in kept.reason
    assert read_production(place) is None and history(place)[-1]["reason"] == kept.reason
    assert promote(a, measured, place, config=PromoteConfig(require=("fnmr <= 0.2", "auc>=0.9"))).promoted
    assert "held-out fnmr is 0.2: fnmr <= 0.2 is met" in history(place)[-1]["reasons"]

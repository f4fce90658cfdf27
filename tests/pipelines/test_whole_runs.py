"""Whole runs of the pipeline with two candidates on small data in S3: undisturbed, killed in every step, twice at once.

The undisturbed run always runs. The two others take as many minutes as it takes half ones, and run where EOLGUL_WHOLE_RUNS
is set; what they show of single steps is in `tests/steps`, `tests/train` and `tests/promote`, too.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.runs import Made, Raw, events, noted, start, write_raw

from eolgul import storage
from eolgul.artifact import open_artifact
from eolgul.registry.store import read_production
from eolgul.steps import bring
from eolgul.steps.store import references, runs

longer = pytest.mark.skipif(not os.environ.get("EOLGUL_WHOLE_RUNS"), reason="takes minutes; set EOLGUL_WHOLE_RUNS=1")
# Which component's process is killed when; both of a loop's two are.
KILLS = ("check:write", "extract:parts", "align_part:parts", "align:align", "assemble:assemble", "train:epoch",
         "evaluate:evaluate", "evaluate:audit", "choose:compared", "promote:published", "promote:pointed")  # fmt: skip
LOOPS = ("align_part", "train", "evaluate")


@dataclass(frozen=True, slots=True)
class Ran:
    """A run that ended well: where its workspace `w` and its `registry` lie, and its folder."""

    place: str
    folder: Path

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    @property
    def said(self) -> dict[str, dict[str, str]]:
        """The JSON line."""
        found: dict[str, dict[str, str]] = json.loads((self.folder / "out.json").read_text())
        return found


@dataclass(frozen=True, slots=True)
class Runs:
    """Where runs on the same raw data begin."""

    s3: str
    folder: Path
    raw: Raw

    def run(self, place: str, *names: str, kills: tuple[str, ...] = ()) -> list[Ran]:
        """Run at once in one workspace, and wait for the end of all."""
        all_of_them = [Ran(f"{self.s3}/whole-runs/{place}", self.folder / name) for name in names]
        begun = [
            start(self.raw.parameters(f"{run.place}/w", f"{run.place}/registry"), run.folder, kills=kills)
            for run in all_of_them
        ]
        ended = [process.wait() for process in begun]
        failed = [run.log[-6000:] for run, status in zip(all_of_them, ended, strict=True) if status]
        assert not failed, "\n".join(failed)
        return all_of_them


@pytest.fixture(scope="module")
def runs_of(tmp_path_factory: pytest.TempPathFactory, s3: str) -> Runs:
    folder = tmp_path_factory.mktemp("whole-runs")
    return Runs(s3, folder, write_raw(folder / "raw", f"{s3}/whole-runs/raw"))


@pytest.fixture(scope="module")
def whole(runs_of: Runs) -> Ran:
    """The undisturbed run."""
    (run,) = runs_of.run("whole", "whole")
    return run


def made_by(place: str) -> dict[str, dict[str, Made]]:
    """What each run of a place's workspace has made or found."""
    return {run: noted(f"{place}/w", run) for run in runs(f"{place}/w")}


def check_same(run: Ran, whole: Ran) -> None:
    """A run ended with the artifacts of the undisturbed one, each of them whole, and nothing is being made any more."""
    (expected,) = made_by(whole.place).values()
    for found in made_by(run.place).values():
        assert {name: one.digest for name, one in found.items()} == {name: one.digest for name, one in expected.items()}
    for reference in {ref for key in runs(f"{run.place}/w") for ref in references(f"{run.place}/w", key).values()}:
        open_artifact(bring(reference), check="sha256")
    assert not storage.list_names(f"{run.place}/w/parts")
    left = storage.list_names(
        f"{run.place}/w/making"
    )  # a killed check's object, which another check removes in an hour
    assert all(name.startswith("check-") for name in left) and len(left) <= 1, left
    one, other = read_production(f"{run.place}/registry"), read_production(f"{whole.place}/registry")
    assert one is not None and other is not None and one.digest == other.digest


def test_the_winner_is_chosen_and_the_losers_figures_stay(whole: Ran) -> None:
    place, folder = whole.place, whole.folder
    (found,) = made_by(place).values()
    assert whole.said["artifacts"].keys() == found.keys()
    (table,) = folder.glob("kfp/*/choose/candidates")
    text = table.read_text()
    head, _, *rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
    assert head == ["figure", "weak", "**strong** (chosen)"]
    figures = {name: (float(weak), float(strong)) for name, weak, strong in rows}
    assert "strong beats weak: " in text
    assert figures["held_out_fnmr"][0] > figures["held_out_fnmr"][1]
    assert {"pairs_auc", "threshold", "held_out_accuracy"} <= figures.keys()
    production = read_production(f"{place}/registry")
    assert production is not None
    served = open_artifact(bring(f"{place}/registry/models/{production.digest}"), check="sha256")
    made = {found["train-strong"].digest, found["evaluate-strong"].digest}
    assert made <= {production.digest, *(item["digest"] for item in served.card["inputs"])}, served.card["inputs"]
    assert "in production" in next(iter(folder.glob("kfp/*/promote/decision"))).read_text()
    reports = [path.read_text() for path in folder.glob("kfp/*/*/evaluate/evaluation_report")]
    assert len(reports) == 2 and all(report.startswith("<!doctype html>") for report in reports)
    assert found.keys() >= {"audit-weak", "audit-strong", "train-weak", "evaluate-weak"}


@longer
def test_killed_in_every_step_and_gone_on_with_on_an_empty_machine(runs_of: Runs, whole: Ran) -> None:
    (run,) = runs_of.run("killed", "killed", kills=KILLS)
    killed = Counter(events(run.folder, "killed"))
    assert killed == {kill: 1 + kill.startswith(LOOPS) for kill in KILLS}
    check_same(run, whole)

    # What was whole is not made again: whole once each, and begun twice only where the process was killed within.
    assert Counter(events(run.folder, "whole")) == Counter(events(whole.folder, "whole"))
    begun = Counter(events(run.folder, "begun"))
    assert {name for name, times in begun.items() if times == 1} == {"extract-kface", "extract-pairs"}, begun
    assert set(begun.values()) <= {1, 2}, begun
    went_on = [int(count) for count in re.findall(r"going on from (\d+) finished parts", run.log)]
    assert sum(count >= 2 for count in went_on) >= 3, went_on  # the extraction, two parts of the alignment
    epochs = Counter(re.findall(r"epoch (\d+): loss", run.log))  # two and three of them
    assert epochs.pop("1") <= 2 and epochs == {"2": 2, "3": 1}, epochs  # the first may be killed before its line

    history = (storage.read_bytes(f"{run.place}/registry/history.jsonl") or b"").splitlines()
    production = read_production(f"{run.place}/registry")
    assert production is not None
    (entry,) = (json.loads(line) for line in history)
    assert (entry["promoted"], entry["digest"]) == (True, production.digest)


@longer
def test_the_same_run_twice_at_once(runs_of: Runs, whole: Ran) -> None:
    one, two = runs_of.run("twice", "one", "two")
    check_same(one, whole)
    assert len(made_by(one.place)) == 2
    made = Counter(name for run in (one, two) for name in events(run.folder, "whole"))
    assert made == Counter(events(whole.folder, "whole"))  # once, by one of the two
    assert one.said["run"] != two.said["run"] and one.said["artifacts"] == two.said["artifacts"]

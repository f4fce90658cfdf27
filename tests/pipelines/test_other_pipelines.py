"""The pipelines beside face-recognition with KFP's local runner, on a world of 28 coloured people: one after another, as in life.

The tests build on each other's registry: a model is promoted, measured, retrained, and production goes back.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support.components import run_component
from support.evaluation import face, write_benchmark, write_model
from support.places import ROOT
from support.webhook import Webhook, webhook

from eolgul import steps
from eolgul.align.config import AlignConfig
from eolgul.artifact import open_artifact
from eolgul.assemble.config import AssembleConfig
from eolgul.components.evaluate.others import measure_others
from eolgul.components.promote.check import check
from eolgul.dataset import FaceDataset
from eolgul.errors import InputError
from eolgul.evaluate.config import EvaluateConfig
from eolgul.extract.config import ExtractConfig
from eolgul.formats.insightface import write_bin, write_rec
from eolgul.registry.store import read_production
from eolgul.steps import bring, lookup, outcome, tasks
from eolgul.steps.store import Store, references
from eolgul.train.config import TrainConfig

pytestmark = pytest.mark.process
FIRST, NEW = range(28), range(28, 42)
FMR = 0.05
ONE_EPOCH = ("epochs=1", "batch_size=16", "margin_warmup_epochs=0.5")


def draw(folder: Path, people: range) -> str:
    """A `.rec` of aligned faces."""
    write_rec(folder, [(label, face(person, image, 20.0)) for label, person in enumerate(people) for image in range(6)])
    return str(folder)


@dataclass
class World:
    """What an earlier run has left in a workspace, and the registry."""

    folder: Path
    benchmarks: list[str]
    dataset: str
    model: str
    evaluation: str
    server: Webhook

    @property
    def places(self) -> dict[str, str]:
        return {"workspace": str(self.folder / "ws"), "registry": str(self.folder / "registry")}

    def run(self, pipeline: str, **words: Any) -> tuple[int, dict[str, Any], str]:
        """Run a pipeline: exit code, the JSON line, the last line of stderr."""
        given = {**self.places, **words}
        texts = [f"{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in given.items()]
        argv = [sys.executable, "-P", "-m", "eolgul", "pipeline", "run", "--pipeline", pipeline, "--root",
                str(self.folder / "kfp"), *(word for text in texts for word in ("--param", text))]  # fmt: skip
        environment = {**os.environ, "EOLGUL_WEBHOOK_URL": self.server.address}
        done = subprocess.run(argv, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        (self.folder / f"{pipeline}.log").write_text(done.stderr)
        return done.returncode, json.loads(done.stdout) if done.stdout else {}, done.stderr.splitlines()[-1]

    def output(self, pipeline: str, task: str, name: str) -> Path:
        """A file that a task of the pipeline's last run has left."""
        found = sorted(
            (self.folder / "kfp").glob(f"{pipeline}-2*/**/{task}/{name}"), key=lambda path: path.stat().st_mtime
        )
        return found[-1]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("world")
    store, quiet = Store(str(folder / "ws"), "earlier"), lambda _: None
    first = draw(folder / "first", FIRST)
    extracted, _ = tasks.extract_all(store, [first], [], ExtractConfig())
    dataset = tasks.assemble_all(store, [extracted[0]["reference"]], AssembleConfig())["reference"]
    config = TrainConfig(recipe="demo", overrides=ONE_EPOCH, device="cpu", workers=0, threads=1)
    model = tasks.train_one(store, dataset, config)["reference"]
    aligned = str(write_benchmark(folder / "lfw", name="lfw", pairs=40))
    measured = EvaluateConfig(fmr=FMR, threads=1)
    evaluation = tasks.evaluate_one(store, model, dataset, [], measured, quiet)["reference"]
    pairs = [face(person, image, 20.0) for pair in range(20) for person, image in
             ((60 + pair, 0), (60 + pair if pair % 2 else 90 + pair, 1))]  # fmt: skip
    write_bin(folder / "raw.bin", pairs, [pair % 2 == 1 for pair in range(20)])
    with webhook() as server:
        yield World(folder, [aligned, str(folder / "raw.bin")], dataset, model, evaluation, server)


def test_a_model_and_its_evaluation_are_promoted(world: World) -> None:
    code, said, last = world.run("promote", model=world.model, evaluation=world.evaluation)
    assert code == 0, last
    production = read_production(world.places["registry"])
    assert production is not None
    assert "Promoted" in world.output("promote", "promote", "decision").read_text()
    (sent,) = world.server.messages
    assert (sent["pipeline"], sent["state"], sent["model"], sent["promoted"]) == (
        "promote", "SUCCEEDED", production.digest, True,
    )  # fmt: skip
    assert "the outcome was sent to 127.0.0.1 (204)" in (world.folder / "promote.log").read_text()
    # Another time, with production's model measured on the same data: nothing changes.
    assert lookup.data_of(world.evaluation, world.places["workspace"]) == (world.dataset, [])
    assert said["artifacts"] == {}


def test_production_is_measured_on_raw_and_aligned_benchmarks(world: World) -> None:
    code, said, last = world.run("evaluate-only", benchmarks=world.benchmarks, align_parts=1, evaluate_pictures=False)
    assert code == 0, last
    production = read_production(world.places["registry"])
    assert production is not None
    (evaluation,) = (place for name, place in said["artifacts"].items() if name.startswith("evaluate-"))
    metrics = tasks.metrics_of(evaluation)
    assert metrics.model.digest == production.digest and list(metrics.sets) == ["lfw", "raw"]
    assert metrics.calibration is None  # a benchmark chooses no threshold
    report = world.output("evaluate-only", "evaluate", "evaluation_report")
    assert report.read_text() == (bring(evaluation) / "report.html").read_text()
    assert "raw" in world.output("evaluate-only", "extract", "extract_table").read_text()
    assert world.server.messages[-1]["state"] == "SUCCEEDED"


def test_new_people_are_trained_on_beside_the_earlier_ones(world: World) -> None:
    production = read_production(world.places["registry"])
    assert production is not None
    new = draw(world.folder / "new", NEW)
    code, said, last = world.run(
        "retrain", dataset=world.dataset, sources=[new], benchmarks=world.benchmarks[:1], align_parts=1,
        train_overrides=["epochs=2", "batch_size=16"], train_device="cpu", train_workers=0, train_threads=1,
        evaluate_fmr=FMR, evaluate_pictures=False,
    )  # fmt: skip
    assert code == 0, last
    made = references(world.places["workspace"], said["run"])
    now = FaceDataset(bring(made["assemble-assembled"]))
    before = FaceDataset(bring(world.dataset))
    splits = [dict(zip(one.column("identity"), one.column("split"), strict=True)) for one in (before, now)]
    assert {name.partition(".")[0] for name in splits[1]} == {"first", "new"}
    assert splits[0].items() <= splits[1].items()  # whoever was trained on is not held out now
    trained = open_artifact(bring(made["train-finetune-kface"]), "ModelPackage")
    assert {"kind": "ModelPackage", "digest": production.digest} in trained.card["inputs"]
    sent = world.server.messages[-1]
    assert (sent["pipeline"], sent["state"]) == ("retrain", "SUCCEEDED") and sent["promoted"] in (True, False)


def test_production_goes_back_and_the_history_says_why(world: World) -> None:
    registry = world.places["registry"]
    before = read_production(registry)
    assert before is not None
    other = write_model(world.folder / "other", learned=bring(world.dataset))
    place = str(world.folder / "other-evaluation")
    steps.evaluate(str(other), world.dataset, [], place, EvaluateConfig(fmr=FMR, threads=1, pictures=False))
    assert steps.promote(str(other), place, registry, force=True)["promoted"]
    code, _, last = world.run("roll-back", reason="the new one is slow")
    assert code == 0, last
    now = read_production(registry)
    assert now is not None and now.digest == before.digest
    history = [json.loads(line) for line in (Path(registry) / "history.jsonl").read_text().splitlines()]
    assert history[-1]["digest"] == before.digest and history[-1]["reasons"][-1] == "the new one is slow"
    assert "the new one is slow" in world.output("roll-back", "roll-back", "decision").read_text()
    assert world.server.messages[-1]["model"] == before.digest


def test_a_failed_run_is_reported_with_the_task_and_its_sentence(world: World) -> None:
    code, _, last = world.run("roll-back", to="0123456789")
    assert code == 2 and last.startswith("eolgul: check: ") and "begins with '0123456789'" in last
    sent = world.server.messages[-1]
    assert (sent["state"], sent["task"], sent["model"]) == ("FAILED", "check", None)
    assert last == f"eolgul: check: {sent['error']}"


def test_a_webhook_that_fails_does_not_fail_the_run(world: World) -> None:
    world.server.answers = [404]
    code, _, last = world.run("roll-back", to=str(read_production(world.places["registry"]).digest))  # type: ignore[union-attr]
    world.server.answers = [204]
    assert code == 0, last
    assert "the notification was not sent: 127.0.0.1 answers 404" in (world.folder / "roll-back.log").read_text()


@pytest.mark.parametrize(
    ("pipeline", "words", "says"),
    [
        ("retrain", {"assemble_seed": 1}, "assemble_seed 1: the data set was assembled with 0; people that models"),
        (
            "retrain",
            {"assemble_held_out_sources": ["new"]},
            "assemble_held_out_sources ['new']: the data set was assembled",
        ),
        ("retrain", {"sources": []}, "sources: names no source of new people"),
        ("retrain", {"dataset": "first"}, "not an eolgul artifact"),
        ("retrain", {"train_init": "nothing.pth"}, "nothing.pth: nothing there"),
        (
            "retrain",
            {"train_recipes": ["irse50-ms1m-kface"]},
            "trains irse50, but the weights of train_init production",
        ),
        ("evaluate-only", {"model": "deadbeef"}, "0 promoted models have a digest that begins with 'deadbeef'"),
        ("evaluate-only", {"model": "nothing.onnx"}, "nothing.onnx: nothing there"),
        (
            "evaluate-only",
            {"evaluate_contract": "insightface"},
            "evaluate_contract insightface: is only for an .onnx file",
        ),
        ("evaluate-only", {"evaluate_fmr": 0.01}, "fmr 0.01: is only for an evaluation with a DATASET"),
        ("evaluate-only", {"evaluate_audit": True}, "evaluate_audit: is only for a ModelPackage with a dataset"),
        ("evaluate-only", {"benchmarks": []}, "there is nothing to measure on"),
        ("promote", {"model": "@dataset"}, "is a FaceDataset, expected a ModelPackage"),
        ("promote", {"evaluation": "@model"}, "is a ModelPackage, expected an Evaluation"),
        ("promote", {"promote_require": ["great"]}, "great"),
        ("promote", {"benchmarks": ["x"]}, "benchmarks: are for a dataset, and none is given"),
        (
            "roll-back",
            {"to": "previous", "registry": "nowhere"},
            "no model is in production, so there is none before it",
        ),
    ],
)
def test_the_first_task_finds_what_is_wrong(
    world: World, tmp_path: Path, pipeline: str, words: dict[str, Any], says: str
) -> None:
    own = {"@dataset": world.dataset, "@model": world.model, "first": str(world.folder / "first"),
           "nowhere": str(tmp_path)}  # fmt: skip
    right: dict[str, dict[str, Any]] = {
        "retrain": {"dataset": world.dataset, "sources": [str(world.folder / "first")], "train_init": "production",
                    "train_recipes": ["finetune-kface"]},
        "evaluate-only": {"model": "production", "benchmarks": world.benchmarks},
        "promote": {"model": world.model, "evaluation": world.evaluation},
        "roll-back": {},
    }  # fmt: skip
    given = {name: own.get(value, value) if isinstance(value, str) else value for name, value in words.items()}
    run = {**world.places, **right[pipeline], **given, "pipeline": pipeline, "run": "checked"}
    with pytest.raises(InputError) as raised:
        run_component(check, tmp_path / "out", **run)
    assert says in str(raised.value)
    assert outcome.read_outcome(run["workspace"], "checked").error == str(raised.value)


def test_few_new_people_may_all_be_trained_on(world: World, tmp_path: Path) -> None:
    """Holding back from the earlier sources alone is the earlier split."""
    run = {**world.places, "pipeline": "retrain", "run": "r", "dataset": world.dataset, "train_init": "production",
           "sources": [str(world.folder / "first")], "train_recipes": ["finetune-kface"]}  # fmt: skip
    ran = run_component(check, tmp_path / "out", **run, assemble_held_out_sources=["first"])
    production = read_production(world.places["registry"])
    assert production is not None and ran.outputs["model"].endswith(f"#sha256:{production.digest}")
    assert ran.outputs["sources"] == [*lookup.parents(world.dataset, ""), str(world.folder / "first")]


def test_an_onnx_file_is_measured_with_its_contract(world: World, tmp_path: Path) -> None:
    onnx = bring(world.model) / "model.onnx"
    copy = tmp_path / "network.onnx"
    copy.write_bytes(onnx.read_bytes())
    ran = run_component(
        check, tmp_path / "out", **world.places, pipeline="evaluate-only", run="r", model=str(copy),
        benchmarks=world.benchmarks[:1],
    )  # fmt: skip
    assert ran.outputs == {"sources": [], "model": str(copy), "uri": str(copy), "pod_gpus": "1", "parts": ["1/1"]}
    store, quiet = Store(world.places["workspace"], "r"), lambda _: None
    figures = []
    for contract in ("insightface", "insightface-noflip"):
        made = tasks.evaluate_one(
            store, str(copy), "", world.benchmarks[:1], EvaluateConfig(contract=contract, threads=1), quiet
        )
        assert not made["reused"] and tasks.metrics_of(made["reference"]).model.kind == "OnnxRecognizer"
        figures.append(made["digest"])
    assert figures[0] != figures[1]  # another contract is another measurement


def test_production_is_measured_on_the_candidates_data_and_in_its_way(world: World, tmp_path: Path) -> None:
    """The data are found in the workspace by the digests on the evaluation's card."""
    store, quiet = Store(world.places["workspace"], "others"), lambda _: None
    _, (benchmark,) = tasks.extract_all(store, [], [world.benchmarks[1]], ExtractConfig())
    config = EvaluateConfig(fmr=0.1, threads=1, pictures=False, seed=3)
    other = str(write_model(tmp_path / "other", seed=5, learned=bring(world.dataset)))
    made = tasks.evaluate_one(store, other, world.dataset, [benchmark["reference"]], config, quiet)
    words = {"evaluation": made["reference"], "dataset": "", "benchmarks": [], **world.places, "run": "others"}
    ran = run_component(measure_others, tmp_path / "out", **words, threads=1)
    assert ran.outputs["reference_evaluation"] == ""
    card = open_artifact(bring(ran.outputs["current_evaluation"])).card
    production = read_production(world.places["registry"])
    assert production is not None and {"kind": "ModelPackage", "digest": production.digest} in card["inputs"]
    theirs = open_artifact(bring(made["reference"])).card
    assert card["inputs"][1:] == theirs["inputs"][1:] and len(card["inputs"]) == 3
    assert card["recipe"] == theirs["recipe"] | {"unseen_only": True}
    assert read_production(world.places["registry"]) == production
    elsewhere = {**words, "workspace": str(tmp_path / "empty")}
    (tmp_path / "copy").symlink_to(bring(made["reference"]))
    with pytest.raises(
        InputError, match=r"was made from the data set .* expected it in the workspace where it was made"
    ):
        run_component(measure_others, tmp_path / "out2", **{**elsewhere, "evaluation": str(tmp_path / "copy")})


def test_data_sets_are_handed_on_by_extraction_in_their_order(world: World) -> None:
    store = Store(world.places["workspace"], "order")
    (ready,) = lookup.parents(world.dataset, world.places["workspace"])
    first, measured = tasks.extract_all(
        store, [ready, str(world.folder / "first")], [world.benchmarks[1], world.benchmarks[0]],
        ExtractConfig(),
    )  # fmt: skip
    assert first[0]["reference"] == ready and first[0]["reused"]
    assert first[1]["digest"] == first[0]["digest"]  # made before, from the same photos
    assert [one["pairs"] for one in measured] == [20, 40]
    aligned = tasks.align_all(store, [ready], AlignConfig())
    assert aligned[0]["reference"] == ready
    with pytest.raises(InputError, match="is a ModelPackage, expected a raw source or a FaceDataset"):
        tasks.extract_all(store, [world.model], [], ExtractConfig())

"""Whole runs of the pipeline on small data in S3, with KFP's local runner in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from eolgul import storage
from eolgul.formats.insightface import write_bin, write_rec
from eolgul.formats.synthetic import mark_of
from eolgul.synth import draw_kface
from support.evaluation import face
from support.places import ROOT, TESTS

SELECTION = "resolutions=Middle accessories=S001 lights=L1 expressions=E01 cameras=C6-C8"
REC_PEOPLE = 40
_RECIPE = """backbone = "resnet_small"
embedding_size = {size}
batch_size = 16
scale = 16.0
margin = 0.2
epochs = {epochs}
learning_rate = {rate}
schedule = "cosine"
precision = "fp32"
"""


@dataclass(frozen=True, slots=True)
class Raw:
    """Raw data in S3, and two recipes: one hardly learns."""

    place: str
    weak: Path
    strong: Path

    def parameters(self, workspace: str, registry: str) -> dict[str, object]:
        """The parameters of a run, both recipes as its candidates."""
        return {
            "workspace": workspace,
            "registry": registry,
            "sources": [f"{self.place}/faces", f"{self.place}/kface"],
            "benchmarks": [f"{self.place}/pairs.bin"],
            "extract_selection": SELECTION,
            "extract_workers": 1,
            "align_workers": 1,
            "assemble_held_out_sources": ["faces"],
            "assemble_validation": 0.15,
            "assemble_calibration": 0.25,
            "assemble_test": 0.25,
            "train_recipes": [str(self.weak), str(self.strong)],
            "train_workers": 0,
            "train_threads": 1,
            "train_device": "cpu",
            "evaluate_fmr": 0.01,
            "evaluate_threads": 1,
            "evaluate_pictures": False,
            "evaluate_audit": True,
        }


def draw(folder: Path) -> None:
    """Draw a K-FACE tree, and write a `.rec` and a `.bin` of patterns that a tiny network tells apart in seconds."""
    draw_kface(folder / "kface", people=2, selection=SELECTION, images_per_person=None, workers=1)
    write_rec(
        folder / "faces", [(person, face(person, image, 45)) for person in range(REC_PEOPLE) for image in range(4)]
    )
    images, same = [], []
    for pair in range(20):
        one, other = 1000 + pair, 1000 + pair if pair % 2 else 2000 + pair
        images += [face(one, 0, 45), face(other, 1, 45)]
        same.append(one == other)
    write_bin(folder / "pairs.bin", images, same)
    for made in (folder / "faces", folder / "pairs.bin"):
        mark_of(made).write_text('{"synthetic": true}')


def write_raw(folder: Path, place: str) -> Raw:
    """Draw the data of a run, copy it to S3, and write two recipes."""
    draw(folder)
    for made in sorted(folder.rglob("*")):
        if made.is_file():
            storage.write_bytes(f"{place}/{made.relative_to(folder)}", made.read_bytes())
    for name, epochs, rate, size in (("weak", 2, 0.0001, 3), ("strong", 3, 0.05, 32)):
        (folder / f"{name}.toml").write_text(_RECIPE.format(epochs=epochs, rate=rate, size=size))
    return Raw(place, folder / "weak.toml", folder / "strong.toml")


# As `eolgul pipeline run`, but a failed task is tried again, as on a cluster. KFP keeps its settings for a process's life.
_RUN = """
import json, sys
from pathlib import Path
from kfp.dsl import PipelineTask
cache = PipelineTask.set_caching_options
def try_again(task, enable_caching):
    pod = task.component_spec.implementation.container is not None  # no loop, no importer
    return cache(task.set_retry(3, backoff_duration="1s") if pod else task, enable_caching)
PipelineTask.set_caching_options = try_again
from eolgul.pipelines.local_run import run_local
print(json.dumps(run_local(json.loads(sys.argv[1]), Path(sys.argv[2]))))
"""


def start(parameters: dict[str, object], folder: Path, *, kills: Sequence[str] = ()) -> subprocess.Popen[str]:
    """Start a run whose tasks have a machine each (`support/pods/sitecustomize.py`), for every attempt another one.

    Args:
        parameters: Of the pipeline.
        folder: A new folder, which gets `log`, `out.json`, `kfp` and the machines' disks (`pods`).
        kills: Which components end themselves when, `<component>:<moment>`.
    """
    (folder / "pods").mkdir(parents=True)
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(TESTS / "support" / "pods"), str(ROOT / "src")]),
        "EOLGUL_TEST_PODS": str(folder / "pods"),
        "EOLGUL_TEST_KILLS": " ".join(kills),
        "ORT_DISABLE_TELEMETRY": "1",
    }
    argv = [sys.executable, "-c", _RUN, json.dumps(parameters), str(folder / "kfp")]
    with (folder / "out.json").open("w") as out, (folder / "log").open("w") as log:
        return subprocess.Popen(argv, cwd=ROOT, env=environment, stdout=out, stderr=log, text=True)


def events(folder: Path, what: str) -> list[str]:
    """What was `killed` (as `<component>:<moment>`), `begun` or `whole` in a run, in order."""
    found = [json.loads(line) for line in (folder / "pods" / "events.jsonl").read_text().splitlines()]
    named = (f"{one['component']}:{one[what]}" if what == "killed" else one[what] for one in found if what in one)
    return [str(name) for name in named]


@dataclass(frozen=True, slots=True)
class Made:
    """What a run noted of one artifact: its key in the store, its digest, and whether it was there before."""

    key: str
    digest: str
    reused: bool


def noted(workspace: str, run: str) -> dict[str, Made]:
    """What a run has made or found, by `<step>-<name>`."""
    place = storage.join(workspace, "runs", run)
    found = {}
    for name in storage.list_names(place):
        entry = json.loads(storage.read_bytes(storage.join(place, name)) or b"{}")
        found[name.removesuffix(".json")] = Made(entry["key"], entry["digest"], entry["reused"])
    return found

"""Alignment in parts, with KFP's local runner: two tasks beside each other and a merge give what one run gives."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from support.datasets import make_dataset
from support.places import ROOT

from eolgul import steps, storage
from eolgul.align.config import AlignConfig
from eolgul.align.step import align
from eolgul.artifact import open_artifact
from eolgul.config import offered
from eolgul.dataset import FaceDataset
from eolgul.steps import bring, reference
from eolgul.steps.store import references
from eolgul.synth import draw_kface

PEOPLE = 400
OPTIONS = {f"align_{item.name}": item.default for item in offered(AlignConfig) if item.name != "part"} | {
    "align_workers": 1
}
# KFP's local runner needs a process of its own: it keeps its settings for good.
RUN = """
import json, sys
from kfp import local
from eolgul.pipelines.graph import Definition, alignment, build
words = json.loads(sys.argv[1])
words |= {"k8s_data_cpu": "1", "k8s_data_memory": "1Gi", "k8s_tolerations": [], "k8s_node_selector": {}}
local.init(local.SubprocessRunner(use_venv=False), pipeline_root=sys.argv[2], raise_on_error=True)
outputs = build(Definition("align", "Align", alignment))(**words).outputs
print("OUTPUTS" + json.dumps(outputs))
"""


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two shards' worth of small pictures in K-FACE's conditions; some people's last is dark."""
    folder = tmp_path_factory.mktemp("parts")
    draw_kface(folder / "kface", people=2, selection="resolutions=Middle accessories=S001 lights=L1-L3 expressions=E01 "
               "cameras=C7", images_per_person=None)  # fmt: skip
    drawn = []
    for picture in sorted((folder / "kface").rglob("*.jpg")):
        with Image.open(picture) as image:
            small = image.resize((image.width // 2, image.height // 2))
            buffer = io.BytesIO()
            small.save(buffer, "JPEG", quality=95)
            drawn.append((buffer.getvalue(), small.size))
    assert len(drawn) == 6
    dark = io.BytesIO()
    Image.new("RGB", drawn[0][1], "#101214").save(dark, "JPEG")
    with make_dataset(folder / "in", step="test", recipe={}, inputs=[], synthetic=True) as writer:
        writer.describe(name="small", identities_known=True, aligned=None)
        for person in range(PEOPLE):
            dark_too = [(dark.getvalue(), drawn[0][1])] if person % 50 == 7 else []
            for number, (data, size) in enumerate([*drawn, *dark_too]):
                facts = {"resolution": "Middle", "camera": "C7", "accessory": "S001", "expression": "E01"}
                writer.add(
                    f"{person:04}/{number}",
                    f"{person:04}",
                    data,
                    extension="jpg",
                    size=size,
                    source="small",
                    facts=facts,
                )
    return folder / "in"


def run(words: dict[str, object], root: Path) -> tuple[subprocess.CompletedProcess[str], dict[str, list[str]]]:
    """`alignment` by itself; what it said, and its outputs."""
    argv = [sys.executable, "-c", RUN, json.dumps(words), str(root)]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    said = [line for line in done.stdout.splitlines() if "OUTPUTS{" in line]  # it may be indented, see `own_print`
    return done, json.loads(said[0].partition("OUTPUTS")[2]) if said else {}


def test_two_parts_beside_each_other_give_what_one_run_gives(pictures: Path, tmp_path: Path) -> None:
    whole = align(pictures, tmp_path / "whole", AlignConfig(anchor="rig"))
    with make_dataset(tmp_path / "ready", step="test", recipe={}, inputs=[], synthetic=True) as writer:
        writer.describe(name="ready", identities_known=True, aligned="arcface-112-v1")
        face = FaceDataset(tmp_path / "whole").read(0)
        writer.add("p/0", "p", face, extension="png", size=(112, 112), source="ready")
    ready = str(tmp_path / "ready")
    words = {
        "datasets": [str(pictures)],
        "benchmarks": [ready],  # aligned already: handed on
        "workspace": str(tmp_path / "run"),
        "run": "first",
        "align_parts": 2,
        **OPTIONS,
        "align_anchor": "rig",
    }
    done, outputs = run(words, tmp_path / "kfp")
    assert outputs, (done.stdout + done.stderr)[-6000:]
    assert outputs["benchmarks"] == [reference(ready, open_artifact(Path(ready)).digest)], done.stdout[-3000:]
    made = references(str(tmp_path / "run"), "first")
    assert outputs["datasets"] == [made["align-small"]]
    parts = [open_artifact(bring(made[f"align-small-part-{at}-of-2"])) for at in (1, 2)]
    assert all(part.contents["images"] > 20 for part in parts)  # each had something to do
    merged = open_artifact(bring(made["align-small"]), check="sha256")
    assert merged.digest == whole.digest
    assert merged.contents["images"] == sum(part.contents["images"] for part in parts) >= 6 * PEOPLE
    assert merged.contents["rejected"] == PEOPLE // 50  # what the camera did not see, no anchor makes a face of


def test_parts_and_their_merge_in_s3(pictures: Path, tmp_path: Path, s3: str) -> None:
    """As machines do that share nothing but the bucket."""
    config = AlignConfig(min_face_size=100, min_eyes=1)  # nearly nothing to do
    places = [f"{s3}/parts/{at}-of-2/in" for at in (1, 2)]
    for at, place in enumerate(places, 1):
        steps.align(str(pictures), place, replace(config, part=f"{at}/2"))
        shutil.rmtree(Path(os.environ["EOLGUL_S3_CACHE"]) / "tests")
    merged = steps.align(str(pictures), f"{s3}/merged/in", config, merge=places)
    assert merged["digest"] == align(pictures, tmp_path / "whole", config).digest
    assert "shards" not in storage.list_names(f"{s3}/merged/in")  # which are those of the parts
    assert open_artifact(bring(f"{s3}/merged/in"), check="sha256").digest == merged["digest"]


def test_no_part_at_all_is_refused_with_a_sentence(tmp_path: Path) -> None:
    words: dict[str, Any] = {
        "datasets": [],
        "benchmarks": [],
        "workspace": str(tmp_path),
        "run": "first",
        "align_parts": 0,
        **OPTIONS,
    }
    done, outputs = run(words, tmp_path / "kfp")
    assert done.returncode != 0 and not outputs
    assert "align_parts 0: expected 1 or more" in done.stdout + done.stderr

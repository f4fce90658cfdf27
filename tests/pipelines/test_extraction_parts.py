"""Extraction in parts, with KFP's local runner: tasks beside each other and what puts them together give what one run gives."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from support.places import ROOT

from eolgul import storage
from eolgul.artifact import open_artifact
from eolgul.config import offered
from eolgul.extract.config import ExtractConfig
from eolgul.formats.insightface import write_bin, write_rec
from eolgul.steps import bring, tasks
from eolgul.steps.store import Store, references

# KFP's local runner needs a process of its own: it keeps its settings for good.
RUN = """
import json, sys
from kfp import local
from eolgul.pipelines.graph import Definition, build, extraction
words = json.loads(sys.argv[1])
words |= {"k8s_data_cpu": "1", "k8s_data_memory": "1Gi", "k8s_tolerations": [], "k8s_node_selector": {}}
local.init(local.SubprocessRunner(use_venv=False), pipeline_root=sys.argv[2], raise_on_error=True)
outputs = build(Definition("extract", "Extract", extraction))(**words).outputs
print("OUTPUTS" + json.dumps(outputs))
"""
OPTIONS: dict[str, object] = {
    f"extract_{item.name}": ([] if item.default == () else "" if item.default is None else item.default)
    for item in offered(ExtractConfig)
    if item.name not in ("share", "pairs")
} | {"extract_depth": 0, "extract_max_identities": 0, "extract_max_images_per_identity": 0, "extract_workers": 1,
     "extract_benchmark_pairs": [], "extract_benchmark_selection": "", "extract_benchmark_identities": ""}  # fmt: skip


def picture(seed: int) -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise((112, 112), 60 + seed).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], str]:
    """A `.rec`, identity folders, and a `.bin`."""
    folder = tmp_path_factory.mktemp("sources")
    some = [picture(seed) for seed in range(10)]
    write_rec(folder / "rec", [(number // 4, some[number % 10]) for number in range(40)])
    for number in range(12):
        file = folder / "people" / f"p{number // 3}" / f"{number}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(some[number % 10])
    write_bin(
        folder / "lfw.bin", [some[number % 10] for number in range(40)], [number % 2 == 0 for number in range(20)]
    )
    return [str(folder / "rec"), str(folder / "people")], str(folder / "lfw.bin")


def test_parts_beside_each_other_give_what_one_run_gives(sources: tuple[list[str], str], tmp_path: Path) -> None:
    learned, measured = tasks.extract_all(Store(str(tmp_path / "one")), sources[0], [sources[1]], ExtractConfig())
    words = {"parts": ["1/2", "2/2"], "sources": sources[0], "benchmarks": [sources[1]], "run": "first",
             "workspace": str(tmp_path / "run"), **OPTIONS}  # fmt: skip
    argv = [sys.executable, "-c", RUN, json.dumps(words), str(tmp_path / "kfp")]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    said = [line for line in done.stdout.splitlines() if "OUTPUTS{" in line]
    assert said, (done.stdout + done.stderr)[-6000:]
    outputs = json.loads(said[0].partition("OUTPUTS")[2])
    digests = [one["digest"] for one in (*learned, *measured)]
    assert [place.rpartition(":")[2] for name in ("datasets", "benchmarks") for place in outputs[name]] == digests
    made = references(str(tmp_path / "run"), "first")
    assert {f"extract-{name}-part-{at}-of-2" for name in ("rec", "people") for at in (1, 2)} < set(made)
    assert not any("lfw" in name and "part" in name for name in made)


def test_parts_in_s3_move_no_shard(sources: tuple[list[str], str], tmp_path: Path, s3: str) -> None:
    config = ExtractConfig(shard_bytes=20_000, workers=1)
    one, _ = tasks.extract_all(Store(str(tmp_path / "one")), sources[0], [], config)
    store = Store(f"{s3}/extraction-parts", "first")
    assert tasks.extract_part_of(store, sources[0], replace(config, share="1/1")) == ["", ""]
    parts = [tasks.extract_part_of(store, sources[0], replace(config, share=f"{at}/3")) for at in (1, 2, 3)]
    learned, _ = tasks.extract_all(store, sources[0], [], config, parts=parts)
    assert [facts["digest"] for facts in learned] == [facts["digest"] for facts in one]
    for facts in learned:
        assert "shards" not in storage.list_names(facts["artifact"])
        assert open_artifact(bring(facts["reference"]), check="sha256").contents["images"] > 0
    # What is there is not made again, not even in parts.
    assert tasks.extract_part_of(store, sources[0], replace(config, share="1/3")) == ["", ""]

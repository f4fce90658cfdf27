"""K-FACE's published protocol as a pipeline: train without the test's people, measure on theirs with a pair list."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.components import run_component

from eolgul.components.align.component import align
from eolgul.components.extract.component import extract
from eolgul.dataset import FaceDataset
from eolgul.errors import InputError
from eolgul.formats.insightface import write_bin, write_rec
from eolgul.steps import bring
from eolgul.synth import draw_kface

CONDITIONS = "resolutions=Middle accessories=S001 lights=L1 expressions=E01 cameras=C6-C8"


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five drawn people in K-FACE's tree, two of whom the protocol tests on, with two pair lists; a .rec and a .bin."""
    raw = tmp_path_factory.mktemp("protocol")
    draw_kface(raw / "kface", people=5, selection=CONDITIONS, images_per_person=None)
    people = sorted(path.name for path in (raw / "kface" / "Middle_Resolution").iterdir())
    (raw / "test-people.txt").write_text("\n".join(people[3:]) + "\n")
    one, two = people[3:]
    base = "S001/L1/E01"
    (raw / "kface.Q1.txt").write_text(
        f"{one}/{base}/C6.jpg {one}/{base}/C7.jpg 1\n{two}/{base}/C6.jpg {two}/{base}/C8.jpg 1\n" * 5
        + f"{one}/{base}/C6.jpg {two}/{base}/C7.jpg 0\n{one}/{base}/C7.jpg {two}/{base}/C8.jpg 0\n" * 5
    )
    (raw / "kface.Q2.txt").write_text(
        f"{one}/{base}/C8.jpg {one}/{base}/C7.jpg 1\n{one}/{base}/C8.jpg {two}/{base}/C7.jpg 0\n" * 10
    )
    picture = (raw / "kface" / "Middle_Resolution" / one / base / "C7.jpg").read_bytes()
    write_rec(raw / "faces", [(0, picture), (1, picture)], height=230, width=346)
    write_bin(raw / "lfw.bin", [picture] * 4, [True, False])
    return raw


def test_kfaces_protocol_is_a_run_of_the_pipeline(raw: Path, tmp_path: Path) -> None:
    test_people = str(raw / "test-people.txt")
    ran = run_component(
        extract,
        tmp_path / "extract",
        sources=[str(raw / "kface"), str(raw / "faces")],
        benchmarks=[str(raw / "lfw.bin"), str(raw / "kface")],
        workspace=str(tmp_path / "run"),
        run="first",
        selection="T1",
        without_identities=test_people,
        verify=True,
        benchmark_pairs=[str(raw / "kface.Q1.txt"), str(raw / "kface.Q2.txt")],
        benchmark_selection="protocol-test",
        benchmark_identities=test_people,
    )
    datasets, benchmarks = ran.outputs["datasets"], ran.outputs["benchmarks"]
    opened = [FaceDataset(bring(place)) for place in (*datasets, *benchmarks)]
    assert [one.artifact.contents["name"] for one in opened] == [
        "kface", "faces", "lfw", "kface-kface_Q1", "kface-kface_Q2"
    ]  # fmt: skip
    assert [len(one) for one in opened] == [9, 2, 4, 6, 6]
    assert ran.metadata["extract_counts"] == {"images": 11.0, "identities": 5.0, "rejected": 0.0}

    ran = run_component(
        align,
        tmp_path / "align",
        datasets=datasets[:1],
        benchmarks=benchmarks[1:],
        workspace=str(tmp_path / "run"),
        run="first",
        min_score=0.6,
        anchor="rig",
    )
    aligned, measured = ran.outputs["datasets"], ran.outputs["benchmarks"]
    learned = set(FaceDataset(bring(aligned[0])).column("identity"))
    tested = [FaceDataset(bring(place)) for place in measured]
    assert len(learned) == 3
    assert all(set(dataset.column("identity")) == set(Path(test_people).read_text().split()) for dataset in tested)
    assert not learned & set(tested[0].column("identity"))
    assert [(len(dataset.pairs()), dataset.artifact.contents["name"]) for dataset in tested] == [
        (20, "kface-kface_Q1"),
        (20, "kface-kface_Q2"),
    ]
    assert tested[0].artifact.card["recipe"]["thresholds"] == [0.6, 0.7, 0.6]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (
            {"sources": ["lfw.bin"], "without_identities": "test-people.txt"},
            "without_identities .*: is for none of the",
        ),
        ({"sources": ["lfw.bin"], "min_images": 2}, "min_images 2: is for none of the sources"),
        ({"sources": ["faces"], "selection": "T1"}, "selection T1: is for none of the sources"),
        ({"sources": ["kface"], "reader": "mxnet"}, "reader mxnet: is for none of the sources"),
        ({"sources": ["kface"], "part": "1/2"}, "part 1/2: is for none of the sources"),
        ({"sources": ["kface", "faces"], "name": "x"}, "name x: is for one source, but there are 2"),
        ({"sources": ["faces"], "benchmarks": ["kface"]}, "kface has no pairs of its own"),
        ({"sources": ["faces"], "benchmark_pairs": ["kface.Q1.txt"]}, "benchmark_pairs .*: is for none of the benchm"),
        ({"sources": ["faces"], "benchmarks": ["lfw.bin"], "benchmark_selection": "T1"}, "benchmark_selection T1"),
    ],
)
def test_an_option_is_for_a_source_or_refused(raw: Path, tmp_path: Path, given: dict[str, Any], says: str) -> None:
    files = ("without_identities",)
    lists = ("sources", "benchmarks", "benchmark_pairs")
    full = {
        name: [str(raw / item) for item in value] if name in lists else str(raw / value) if name in files else value
        for name, value in given.items()
    }
    with pytest.raises(InputError, match=says):
        run_component(
            extract, tmp_path / "out", **{"benchmarks": [], "workspace": str(tmp_path / "run"), "run": "first"} | full
        )
    assert not (tmp_path / "run" / "artifacts").exists()


def test_a_default_selection_without_a_kface_tree_is_no_error(raw: Path, tmp_path: Path) -> None:
    words = {"sources": [str(raw / "faces")], "benchmarks": [], "workspace": str(tmp_path), "run": "first"}
    (made,) = run_component(extract, tmp_path / "out", selection="original", **words).outputs["datasets"]
    assert FaceDataset(bring(made)).artifact.card["recipe"]["selection"] is None

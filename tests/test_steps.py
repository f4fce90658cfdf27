"""Steps at the places where artifacts lie: from S3 and to S3 they make what they make on the disk."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eolgul import steps, storage
from eolgul.align.config import AlignConfig
from eolgul.artifact import open_artifact
from eolgul.errors import InputError
from eolgul.extract.config import ExtractConfig, source_name
from eolgul.formats.insightface import write_bin, write_rec
from eolgul.pipelines.face_recognition import face_recognition
from eolgul.steps.places import raw as bring_raw
from eolgul.storage.s3 import minio_client
from eolgul.train.config import TrainConfig


def picture(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (8, 8, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    raw = tmp_path_factory.mktemp("raw")
    write_rec(raw / "faces", [(number // 2, picture(number)) for number in range(6)], height=8, width=8)
    (raw / "faces" / "synthetic.json").write_text(json.dumps({"synthetic": True}))
    write_bin(raw / "lfw.bin", [picture(number) for number in range(4)], [True, False])
    (raw / "lfw.bin.synthetic.json").write_text(json.dumps({"synthetic": True}))
    for number in range(3):
        (raw / "photos" / f"p{number}").mkdir(parents=True)
        (raw / "photos" / f"p{number}" / "1.png").write_bytes(picture(number))
    return raw


@pytest.mark.parametrize("name", ["faces", "faces/train.rec", "lfw.bin", "photos"])
def test_s3_and_disk_give_one_digest(s3: str, raw: Path, tmp_path: Path, name: str) -> None:
    """What lies beside a `.rec` or a `.bin` (index, property, synthetic mark) counts there as it does here."""
    place = f"{s3}/steps/{name.replace('/', '-')}"
    storage.publish(raw, f"{place}/raw")
    here = steps.extract(str(raw / name), str(tmp_path / "out"))
    there = steps.extract(f"{place}/raw/{name}", f"{place}/out")
    assert there["digest"] == here["digest"] and there["artifact"] == f"{place}/out"
    assert there["synthetic"] is (name != "photos")
    assert {key: there[key] for key in ("images", "identities", "rejected")} == {
        key: here[key] for key in ("images", "identities", "rejected")
    }
    assert open_artifact(storage.fetch(f"{place}/out"), check="sha256").digest == here["digest"]


@pytest.mark.parametrize("where", ["disk", "s3"])
def test_no_step_writes_over_its_input(s3: str, raw: Path, tmp_path: Path, where: str) -> None:
    base = str(tmp_path) if where == "disk" else f"{s3}/over"
    place, beside = f"{base}/x", f"{base}/beside"
    digest = steps.extract(str(raw / "photos"), place)["digest"]
    for step in (
        lambda: steps.align(place, f"{place}/"),
        lambda: steps.align(place, base),
        lambda: steps.assemble([beside, place], place),
        lambda: steps.train(place, place, TrainConfig(recipe="demo")),
        lambda: steps.evaluate(place, beside, [], place),
        lambda: steps.evaluate(beside, place, [], place),
        lambda: steps.evaluate(beside, beside, [place], place),
        lambda: steps.extract(place, place),
    ):
        with pytest.raises(InputError, match=rf"^{base}\S* is to be written but holds the input {place}; "):
            step()
    assert open_artifact(storage.fetch(place), check="sha256").digest == digest


@pytest.mark.parametrize(
    ("name", "others"),
    [("faces/train.rec", ["faces/train.idx", "faces/property", "faces/synthetic.json"]), ("lfw.bin", ["lfw.bin.synthetic.json"])],
)  # fmt: skip
def test_what_is_gone_from_beside_a_source_is_not_used(s3: str, raw: Path, name: str, others: list[str]) -> None:
    place = f"{s3}/beside/{name}"
    storage.publish(raw, place)
    local = bring_raw(f"{place}/{name}")
    root = local.parents[len(Path(name).parts) - 1]
    assert all((root / other).is_file() for other in others if (raw / other).is_file())
    assert (root / others[-1]).is_file()
    bucket, _, key = place.removeprefix("s3://").partition("/")
    for other in others:
        minio_client().remove_object(bucket_name=bucket, object_name=f"{key}/{other}")
    assert bring_raw(f"{place}/{name}") == local and local.is_file()
    assert not any((root / other).exists() for other in others)
    if name == "lfw.bin":
        assert steps.extract(f"{place}/{name}", f"{place}-out")["synthetic"] is False


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("s3://bucket/raw/faces/train.rec", "faces"),
        ("s3://bucket/raw/faces/", "faces"),
        ("/data/lfw.bin", "lfw"),
        ("/data/my.photos", "my_photos"),
        ("other.rec", "other"),
        (".", "source"),
    ],
)
def test_names_of_sources(source: str, name: str) -> None:
    assert source_name(source) == name


def test_sources_of_one_name_are_refused() -> None:
    def check(*sources: str) -> None:
        steps.check_names([steps.Extraction(source, ExtractConfig(name=source_name(source))) for source in sources])

    check("/a/x", "/a/y")
    with pytest.raises(InputError, match=r"/a/x and /b/x are both called 'x'"):
        check("/a/x", "/b/x")
    with pytest.raises(InputError, match="both called"):
        check("/a/faces/train.rec", "s3://bucket/faces")


def trees(folder: Path) -> tuple[str, str]:
    """A `.rec` and identity folders."""
    write_rec(folder / "faces", [(0, picture(1)), (1, picture(2))], height=8, width=8)
    for name in ("kim", "lee"):
        (folder / "photos" / name).mkdir(parents=True)
        (folder / "photos" / name / "1.jpg").write_bytes(picture(ord(name[0])))
    return str(folder / "faces"), str(folder / "photos")


def test_a_selection_for_no_kface_is_refused_unless_it_is_the_pipelines_default(tmp_path: Path) -> None:
    sources = trees(tmp_path)
    default = face_recognition.component_spec.inputs["extract_selection"].default
    assert default == steps.PIPELINE_SELECTION
    learned, _ = steps.plan_extraction(sources, [], ExtractConfig(selection=default))
    assert [one.config.selection for one in learned] == [None, None]
    with pytest.raises(InputError, match=r"selection T1: is for none of the sources \(rec, folders\)"):
        steps.plan_extraction(sources, [], ExtractConfig(selection="T1"))
    with pytest.raises(
        InputError, match="benchmark_selection T1: is for none of the benchmarks, expected a K-FACE tree"
    ):
        steps.plan_extraction(
            sources[:1], sources[1:], ExtractConfig(), benchmark_pairs=["pairs.txt"], benchmark_selection="T1"
        )


def test_a_list_for_several_sources_has_to_match_in_one(tmp_path: Path) -> None:
    sources = trees(tmp_path)
    for name, unmatched in (("kim", [1, 0]), ("nobody", [1, 1])):
        (tmp_path / "people.txt").write_text(f"{name}\n")
        config = ExtractConfig(without_identities=str(tmp_path / "people.txt"))
        learned, _ = steps.plan_extraction(sources, [], config)
        facts = [steps.extract(one.source, str(tmp_path / f"{name}-{one.config.name}"), one.config) for one in learned]
        assert [fact["without_identities_unmatched"] for fact in facts] == unmatched
        if 0 in unmatched:
            steps.check_lists(learned, facts)
            continue
        with pytest.raises(InputError, match=r"people\.txt: none of its 1 names is an identity of any source"):
            steps.check_lists(learned, facts)
    # One source alone is told at once.
    with pytest.raises(InputError, match="none of its 1 names is an identity of"):
        steps.extract(sources[0], str(tmp_path / "alone"), config)


def test_options_of_an_alignment_are_for_one_of_its_datasets_at_least(tmp_path: Path) -> None:
    _, photos = trees(tmp_path)
    steps.extract(photos, str(tmp_path / "set"))
    for config, says in (
        (AlignConfig(which="annotated"), "which annotated: is only"),
        (AlignConfig(anchor="rig"), "anchor rig: is only"),
    ):
        with pytest.raises(InputError, match=says):
            steps.check_alignment([str(tmp_path / "set")], config)
    steps.check_alignment([str(tmp_path / "set")], AlignConfig(which="center"))

"""The rarer sources through extraction: lists, carrays, K-FACE's published protocol, mxnet's reader; from disk and S3."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.carrays import write_carray

from eolgul import steps, storage
from eolgul.dataset import FaceDataset
from eolgul.errors import InputError
from eolgul.extract.config import ExtractConfig
from eolgul.extract.kinds import detect_kind
from eolgul.extract.step import extract
from eolgul.formats.insightface import write_rec
from eolgul.formats.kface import PRESETS, Condition
from eolgul.formats.lst import Row, write_lst
from eolgul.formats.mxnet_reader import mxnet_python
from eolgul.formats.recordio import RecordReader


def picture(seed: int, size: tuple[int, int] = (112, 112)) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1] // 8 + 1, size[0] // 8 + 1, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize(size).save(buffer, "JPEG")
    return buffer.getvalue()


def listed(folder: Path) -> Path:
    """A list with a box and landmarks, a label that is none, a path that leads out and one that leads nowhere."""
    for name in ("a/1.jpg", "a/2.jpg", "b/1.jpg"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(picture(len(name)))
    points = tuple(float(number) for number in range(10))
    rows = [
        Row("a/1.jpg", 7, False, (1.0, 2.0, 3.0, 4.0), points),
        Row("a/2.jpg", 7, False),
        Row("b/1.jpg", 3, True),
        Row("b/1.jpg", 0.5, False),
        Row("../out.jpg", 1, False),
        Row("b/none.jpg", 3, False),
    ]
    write_lst(folder / "train.lst", rows)
    return folder / "train.lst"


def test_a_list(tmp_path: Path) -> None:
    source = listed(tmp_path / "raw")
    assert detect_kind(source) == "lst"
    dataset = FaceDataset(extract(source, tmp_path / "out").path)
    assert dataset.column("identity") == ["000007", "000007", "000003"]
    assert dataset.column("landmarks") == [[float(number) for number in range(10)], None, None]
    assert dataset.column("landmark_source") == ["annotated", None, None]
    assert dataset.read(1) == (tmp_path / "raw" / "a" / "2.jpg").read_bytes()
    assert [row["reason"] for row in dataset.rejected()] == ["unknown_identity", "bad_name", "unreadable"]
    before = dataset.artifact.card["inputs"]
    text = source.read_text()
    source.write_text(text.replace("\t3\n", "\t4\n"))
    assert extract(source, tmp_path / "again").card["inputs"] != before


def test_a_carray_is_a_benchmark(tmp_path: Path) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (40, 112, 112, 3), np.uint8)
    same = [number % 2 == 0 for number in range(20)]
    write_carray(tmp_path / "agedb_30", pixels, same, 7)
    assert detect_kind(tmp_path / "agedb_30") == "carrays"
    made = extract(tmp_path / "agedb_30", tmp_path / "out", ExtractConfig(verify=True))
    dataset = FaceDataset(made.path)
    pairs = dataset.pairs()
    assert pairs.same.tolist() == same and pairs.fold.tolist() == [number // 2 for number in range(20)]
    assert made.contents["aligned"] == "arcface-112-v1" and made.contents["identities_known"] is False
    for row in range(40):
        stored = np.asarray(Image.open(io.BytesIO(dataset.read(row))))
        assert (stored == pixels[row]).all()


def test_kfaces_published_protocol(tmp_path: Path) -> None:
    """Train on T1 without the test's people, test on theirs with a pair list: nobody is on both sides."""
    people = ("19062421", "19062422", "19062423")
    cameras = ("C4", "C7", "C11")
    for number, (person, camera) in enumerate((person, camera) for person in people for camera in cameras):
        path = tmp_path / "kface" / Condition("Low", "S001", "L1", "E01", camera).path(person)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(number, (173, 115)))
    (tmp_path / "test.txt").write_text("19062422\n19062423\n")
    base = "S001/L1/E01"
    (tmp_path / "Q1.txt").write_text(
        f"19062422/{base}/C4.jpg 19062422/{base}/C7.jpg 1\n" * 10
        + f"19062422/{base}/C4.jpg 19062423/{base}/C7.jpg 0\n" * 19
        + f"19062422/{base}/C4.jpg 19062423/{base}/C5.jpg 0\n"
    )
    conditions = "resolutions=Low accessories=S001 lights=L1 expressions=E01 cameras=C4-C10"
    train = extract(
        tmp_path / "kface",
        tmp_path / "train",
        ExtractConfig(selection=conditions, without_identities=str(tmp_path / "test.txt")),
    )
    assert FaceDataset(train.path).column("image_id") == [
        f"19062421/Low_S001_L1_E01_{camera}" for camera in ("C4", "C7")
    ]
    test = extract(
        tmp_path / "kface",
        tmp_path / "test",
        ExtractConfig(
            selection="resolutions=Low", identities=str(tmp_path / "test.txt"), pairs=str(tmp_path / "Q1.txt")
        ),
    )
    dataset = FaceDataset(test.path)
    assert set(dataset.column("identity")) == {"19062422", "19062423"} and len(dataset) == 6
    ids, pairs = dataset.column("image_id"), dataset.pairs()
    assert [(ids[a], ids[b], bool(same)) for a, b, same in zip(pairs.left, pairs.right, pairs.same, strict=True)] == [
        *[("19062422/Low_S001_L1_E01_C4", "19062422/Low_S001_L1_E01_C7", True)] * 10,
        *[("19062422/Low_S001_L1_E01_C4", "19062423/Low_S001_L1_E01_C7", False)] * 19,
    ]
    assert test.contents["pairs_lost"] == 1
    assert len(PRESETS["T1"]) == 7 and len(PRESETS["T2"]) == 2 * 9 * 7 and len(PRESETS["T4"]) == 6 * 29 * 3 * 20
    with pytest.raises(InputError, match="they name no resolution"):
        extract(
            tmp_path / "kface",
            tmp_path / "no",
            ExtractConfig(selection="resolutions=Low,High", pairs=str(tmp_path / "Q1.txt")),
        )


def test_options_that_a_kind_would_not_hear_are_refused(tmp_path: Path) -> None:
    write_rec(tmp_path / "faces", [(0, picture(1))])
    (tmp_path / "list.txt").write_text("a\n")
    refused: list[tuple[dict[str, Any], str]] = [
        ({"identities": str(tmp_path / "list.txt")}, "none of its 1 names"),
        ({"identity_from": "(?P<identity>.*)"}, "identity_from"),
        ({"pairs": str(tmp_path / "list.txt")}, "pairs"),
        ({"reader": "other"}, "reader"),
    ]
    for options, says in refused:
        with pytest.raises(InputError, match=says):
            extract(tmp_path / "faces", tmp_path / "out", ExtractConfig(**options))
    listed(tmp_path / "raw")
    refused = [({"part": "1/2"}, "part"), ({"reader": "mxnet"}, "reader")]
    for options, says in refused:
        with pytest.raises(InputError, match=says):
            extract(tmp_path / "raw", tmp_path / "out", ExtractConfig(**options))
    assert not (tmp_path / "out").exists()


@pytest.mark.process
def test_mxnets_reader_gives_the_same_artifact(tmp_path: Path) -> None:
    try:
        mxnet_python()
    except InputError as error:
        pytest.skip(str(error))
    magic = b"\x0a\x23\xd7\xce"
    images = [picture(number) for number in range(60)]
    images[7] = images[7] + magic * 3  # behind the end of the JPEG, where it splits the record
    images[8] = b"no image"
    write_rec(tmp_path / "faces", [(number // 4, image) for number, image in enumerate(images)])
    with RecordReader(tmp_path / "faces" / "train.rec") as reader:
        assert sum(1 for _ in reader.scan()) == 1 + 60 + 15
    ours = extract(tmp_path / "faces", tmp_path / "ours", ExtractConfig(shard_bytes=250_000))
    theirs = extract(tmp_path / "faces", tmp_path / "theirs", ExtractConfig(shard_bytes=250_000, reader="mxnet"))
    assert ours.digest == theirs.digest and ours.contents["images"] == 59


def test_without_mxnet_its_reader_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EOLGUL_MXNET_PYTHON", str(tmp_path / "none"))
    write_rec(tmp_path / "faces", [(0, picture(1))])
    with pytest.raises(InputError, match="EOLGUL_MXNET_PYTHON names it"):
        extract(tmp_path / "faces", tmp_path / "out", ExtractConfig(reader="mxnet"))


def test_lists_and_carrays_in_s3(tmp_path: Path, s3: str) -> None:
    """With what belongs to them by name: a list's images, a carray's flags."""
    storage.publish(listed(tmp_path / "raw").parent, f"{s3}/kinds/raw")
    write_carray(tmp_path / "set", np.zeros((4, 112, 112, 3), np.uint8), [True, False])
    storage.publish(tmp_path / "set", f"{s3}/kinds/set")
    storage.publish(tmp_path / "set_list.npy", f"{s3}/kinds/set_list.npy")
    facts = steps.extract(f"{s3}/kinds/raw/train.lst", str(tmp_path / "raw-out"))
    assert (facts["images"], facts["rejected"]) == (3, 3)
    facts = steps.extract(f"{s3}/kinds/set", str(tmp_path / "set-out"))
    assert facts["images"] == 4 and (tmp_path / "set-out" / "pairs.parquet").is_file()

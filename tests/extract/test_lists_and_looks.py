"""Gaps of a `.rec`, lists and pair lists as people hold them, colour order, and faces that are aligned already."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from support.pictures import picture
from typer.testing import CliRunner

from eolgul.cli.main import app
from eolgul.dataset import FaceDataset
from eolgul.errors import InputError
from eolgul.export import export
from eolgul.extract.appearance import NEAR, color_check, template_distance
from eolgul.extract.config import ExtractConfig
from eolgul.extract.step import extract
from eolgul.formats.insightface import read_bin, write_bin, write_rec
from eolgul.formats.recordio import RecordReader, RecordWriter, pack_image
from eolgul.images.decode import decode, encode_png


def insightface(folder: Path, *gone: int, people: int = 14, first: int = 0) -> Path:
    """Three images a person, 42 in all, without the records of these keys; labels from `first` on."""
    write_rec(folder, [(number // 3, picture(number)) for number in range(3 * people)])
    rec = folder / "train.rec"
    with RecordReader(rec) as reader:
        payloads = [bytes(payload) for _, payload in reader.scan()]
    with RecordWriter(rec) as writer:
        for key, payload in enumerate(payloads):
            if key in gone:
                continue
            if first and 0 < key <= 3 * people:
                payload = pack_image(float((key - 1) // 3 + first), payload[24:], id=key)  # noqa: PLW2901
            writer.write(key, payload)
    return folder


@pytest.mark.parametrize("indexed", [True, False])
def test_a_gap_is_a_rejection(tmp_path: Path, indexed: bool) -> None:
    source = insightface(tmp_path / "raw", 5, 20)
    if not indexed:
        (source / "train.idx").unlink()
    made = extract(source, tmp_path / "out")
    assert (made.contents["images"], made.contents["inputs"]) == (40, 42)
    assert [(row["where"], row["reason"]) for row in FaceDataset(made.path).rejected()] == [
        ("train.rec record 5", "missing_record"),
        ("train.rec record 20", "missing_record"),
    ]


def test_parts_reject_every_missing_record_once(tmp_path: Path) -> None:
    gone = (1, 2, 17, 18, 30, 42)
    source = insightface(tmp_path / "raw", *gone)
    whole = FaceDataset(extract(source, tmp_path / "out").path)
    parts = [
        FaceDataset(extract(source, tmp_path / f"part{n}", ExtractConfig(part=f"{n}/4")).path) for n in range(1, 5)
    ]
    assert [image for part in parts for image in part.column("image_id")] == whole.column("image_id")
    lost = [row["where"] for part in parts for row in part.rejected()]
    assert lost == [row["where"] for row in whole.rejected()] == [f"train.rec record {key}" for key in gone]


def test_labels_from_one_are_kept_and_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = insightface(tmp_path / "raw", first=1)
    with caplog.at_level(logging.WARNING):
        made = extract(source, tmp_path / "out")
    assert (made.contents["images"], made.contents["identities"], made.contents["labels_from"]) == (42, 14, 1)
    assert "the labels count from 1 to 14, not from 0" in caplog.text
    assert FaceDataset(made.path).column("identity")[-1] == "000014"
    part = extract(source, tmp_path / "part", ExtractConfig(part="2/2"))
    assert part.contents["labels_from"] == 1 and part.contents["rejected"] == 0


def photos(folder: Path) -> Path:
    for person in ("Ann", "Bob"):
        for number in (1, 2):
            file = folder / person / f"{person}_{number:04}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(picture(number + len(person)))
    return folder


@pytest.mark.parametrize("spelling", ["absolute", "root", "backslash", "dots"])
def test_a_list_finds_its_images(tmp_path: Path, spelling: str) -> None:
    root = photos(tmp_path / "raw")
    paths = [file.relative_to(root).as_posix() for file in sorted(root.rglob("*.jpg"))]
    place = root / "train.lst" if spelling != "root" else tmp_path / "train.lst"
    spelled = {
        "absolute": [str(root / path) for path in paths],
        "root": paths,
        "backslash": [path.replace("/", "\\") for path in paths],
        "dots": [f"./x/../{path}" for path in paths],
    }[spelling]
    place.write_text("".join(f"0\t{path}\t{number // 2}\n" for number, path in enumerate(spelled)))
    made = extract(place, tmp_path / "out", ExtractConfig(root=str(root) if spelling == "root" else None))
    assert FaceDataset(made.path).column("image_id") == [
        f"{number // 2:06}/{path.removesuffix('.jpg')}" for number, path in enumerate(paths)
    ]


@pytest.mark.parametrize("path", ["/elsewhere/a.jpg", "../a.jpg", "C:\\faces\\a.jpg", "a/../../b.jpg"])
def test_a_path_that_leads_elsewhere_is_named_when_nothing_is_usable(tmp_path: Path, path: str) -> None:
    (tmp_path / "train.lst").write_text(f"0\t{path}\t1\n" * 3)
    with pytest.raises(
        InputError, match=r"not one usable image among .*bad_name.*the first is .* does not lie in .*root"
    ):
        extract(tmp_path / "train.lst", tmp_path / "out")


def test_what_took_the_place_of_images_is_in_the_error(tmp_path: Path) -> None:
    (tmp_path / "raw" / "a").mkdir(parents=True)
    (tmp_path / "raw" / "a" / "1.jpg").write_bytes(b"<!DOCTYPE html><html>quota exceeded")
    (tmp_path / "raw" / "a" / "2.jpg").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:a\n")
    with pytest.raises(InputError, match=r"not_an_image': 2.*a/1\.jpg: the data is an HTML page.*look at one of the"):
        extract(tmp_path / "raw", tmp_path / "out")


def test_pairs_are_on_the_json_line(tmp_path: Path) -> None:
    root = photos(tmp_path / "raw")
    text = "Ann/Ann_0001.jpg Ann/Ann_0002.jpg 1\nAnn/Ann_0001.jpg Bob/Bob_0001.jpg 0\n" * 10
    (tmp_path / "pairs.txt").write_text(text + "Ann/Ann_0001.jpg Cem/Cem_0001.jpg 0\n")
    command = ["extract", str(root), str(tmp_path / "out"), "--pairs", str(tmp_path / "pairs.txt")]
    done = CliRunner().invoke(app, command)
    line = json.loads(done.stdout.splitlines()[-1])
    assert done.exit_code == 0 and (line["pairs"], line["pairs_lost"]) == (20, 1)
    (tmp_path / "pairs.txt").write_text(text.replace("Bob", "Cem"))
    done = CliRunner().invoke(app, [*command[:2], str(tmp_path / "no"), *command[3:]])
    assert isinstance(done.exception, InputError) and "10 of 20 pairs are lost" in str(done.exception)
    write_bin(tmp_path / "set.bin", [*[picture(n) for n in range(39)], b"broken"], [True, False] * 10)
    made = extract(tmp_path / "set.bin", tmp_path / "set")
    assert (made.contents["pairs"], made.contents["pairs_lost"]) == (19, 1)


def test_an_export_is_read_back(tmp_path: Path) -> None:
    write_bin(tmp_path / "set.bin", [picture(n) for n in range(40)], [True, False, False, True] * 5)
    first = FaceDataset(extract(tmp_path / "set.bin", tmp_path / "first").path)
    export(first.path, tmp_path / "folders", to="folders")
    config = ExtractConfig(pairs=str(tmp_path / "folders" / "pairs.csv"))
    again = FaceDataset(extract(tmp_path / "folders", tmp_path / "again", config).path)
    for dataset in (first, again):
        assert len(dataset.pairs().same) == 20
    sides = [
        [(d.read(a), d.read(b)) for a, b in zip(d.pairs().left, d.pairs().right, strict=True)] for d in (first, again)
    ]
    assert sides[0] == sides[1]
    assert first.pairs().same.tolist() == again.pairs().same.tolist()
    assert first.pairs().fold.tolist() == again.pairs().fold.tolist()


def test_exchanged_channels_are_put_right_without_loss(tmp_path: Path) -> None:
    for name, data in (("red", picture(3, "PNG")), ("grey", encode_png(np.full((9, 9, 3), 77, np.uint8)))):
        (tmp_path / "raw" / name).mkdir(parents=True)
        (tmp_path / "raw" / name / "1.png").write_bytes(data)
    plain = extract(tmp_path / "raw", tmp_path / "plain")
    made = extract(tmp_path / "raw", tmp_path / "out", ExtractConfig(color="bgr"))
    before, after = FaceDataset(plain.path), FaceDataset(made.path)
    assert after.read(0) == before.read(0)  # grey
    assert (decode(after.read(1))[0] == decode(before.read(1))[0][..., ::-1]).all()
    assert made.contents["color"] == "bgr" and made.card["inputs"] == plain.card["inputs"]


def test_blue_faces_are_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    skin = np.random.default_rng(0).normal((190, 140, 110), 12, (16, 112, 112, 3)).clip(0, 255).astype(np.uint8)
    assert color_check(list(skin))["exchanged"] is False
    assert color_check(list(skin[:7]))["exchanged"] is None
    assert color_check([face[..., 1:2].repeat(3, 2) for face in skin]) == {
        "images": 0, "red_over_blue": None, "exchanged": None,
    }  # fmt: skip
    for number, face in enumerate(skin):
        file = tmp_path / "raw" / "a" / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encode_png(np.ascontiguousarray(face[..., ::-1])))
    with caplog.at_level(logging.WARNING):
        made = extract(tmp_path / "raw", tmp_path / "out")
    assert made.contents["color_check"]["exchanged"] and "the faces look blue" in caplog.text
    caplog.clear()
    right = extract(tmp_path / "raw", tmp_path / "right", ExtractConfig(color="bgr"))
    assert right.contents["color_check"]["exchanged"] is False and "look blue" not in caplog.text


def test_real_faces_have_their_colours_and_lie_on_the_template(tmp_path: Path, shared_data: Path) -> None:
    images = read_bin(shared_data / "insightface-bin" / "small_lfw.bin").images
    faces = [decode(image)[0] for image in images]
    assert color_check(faces)["exchanged"] is False
    assert color_check([face[..., ::-1] for face in faces])["exchanged"] is True
    assert template_distance(faces) < NEAR < template_distance([np.roll(face, 6, 0) for face in faces])
    assert template_distance([np.rot90(face) for face in faces]) > NEAR
    for number, image in enumerate(images):
        file = tmp_path / "raw" / f"{number // 2:02}" / f"{number}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(image)
    (tmp_path / "raw" / "00" / "small.jpg").write_bytes(picture(1, size=(96, 112)))
    made = extract(tmp_path / "raw", tmp_path / "out", ExtractConfig(aligned=True))
    assert made.contents["aligned"] == "arcface-112-v1" and made.contents["aligned_check"]["median_distance"] < NEAR
    assert made.contents["rejected_by_reason"] == {"wrong_size": 1}

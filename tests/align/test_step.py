"""The step on real photos: every image is a face or a reason, and a benchmark's pairs follow their images."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from eolgul.align.config import AlignConfig
from eolgul.align.step import align
from eolgul.dataset import FaceDataset
from eolgul.errors import InputError
from eolgul.extract.config import ExtractConfig
from eolgul.extract.step import extract
from eolgul.faces.template import align_face
from eolgul.images.decode import decode, encode_png
from eolgul.images.plain_jpeg import decode_plain


@pytest.fixture(scope="module")
def extracted(tmp_path_factory: pytest.TempPathFactory, shared_data: Path) -> Path:
    """Three people of LFW with a picture that shows no face and one that is broken, and pairs over them."""
    tmp = tmp_path_factory.mktemp("align")
    people = [
        folder for folder in sorted((shared_data / "lfw-1-5" / "images").iterdir()) if len(list(folder.iterdir())) >= 3
    ][:3]
    for person in people:
        shutil.copytree(person, tmp / "photos" / person.name)
    first, second = people[0].name, people[1].name
    noise = np.random.default_rng(0).integers(0, 256, (120, 120, 3), np.uint8)
    (tmp / "photos" / first / f"{first}_0090.png").write_bytes(encode_png(noise))
    (tmp / "photos" / first / f"{first}_0091.jpg").write_bytes(b"\xff\xd8\xff\xe0 broken")
    lines = [f"{first}\t1\t2", f"{first}\t1\t90", f"{first}\t1\t{second}\t1", f"{first}\t91\t{second}\t2"]
    (tmp / "pairs.txt").write_text("\n".join(["2\t2", *lines, *lines]) + "\n")
    config = ExtractConfig(pairs=str(tmp / "pairs.txt"), max_pairs_lost=0.25)
    extract(tmp / "photos", tmp / "extracted", config)
    return tmp / "extracted"


def test_inputs_are_faces_or_reasons(extracted: Path, tmp_path: Path) -> None:
    before = FaceDataset(extracted)
    after_artifact = align(extracted, tmp_path / "aligned")
    after = FaceDataset(tmp_path / "aligned")
    assert len(before) + len(before.rejected()) == len(after) + len(after.rejected())
    assert after_artifact.contents["rejected_by_reason"] == {"no_face": 1, "truncated": 1}
    assert set(after.column("width")) == set(after.column("height")) == {112}
    assert after_artifact.contents["detector"]["min_face_size"] == 40


def test_pairs_follow_their_images_and_lost_ones_are_counted(extracted: Path, tmp_path: Path) -> None:
    align(extracted, tmp_path / "aligned")
    after = FaceDataset(tmp_path / "aligned")
    pairs = after.pairs()
    ids = after.column("image_id")
    kept = [
        (ids[left], ids[right], bool(same))
        for left, right, same in zip(pairs.left, pairs.right, pairs.same, strict=True)
    ]
    first, second = sorted({row.split("/")[0] for row in ids})[:2]
    assert (
        kept
        == [
            (f"{first}/{first}_0001", f"{first}/{first}_0002", True),
            (f"{first}/{first}_0001", f"{second}/{second}_0001", False),
        ]
        * 2
    )
    assert after.artifact.contents["pairs_lost"] == 4


def test_the_stored_face_is_the_cut_out_at_the_stored_landmarks_to_the_pixel(extracted: Path, tmp_path: Path) -> None:
    align(extracted, tmp_path / "aligned")
    before, after = FaceDataset(extracted), FaceDataset(tmp_path / "aligned")
    places = {image_id: row for row, image_id in enumerate(before.column("image_id"))}
    for row, (image_id, landmarks) in enumerate(zip(after.column("image_id"), after.column("landmarks"), strict=True)):
        picture, _ = decode(before.read(places[image_id]))
        expected = align_face(picture, np.array(landmarks, np.float32).reshape(5, 2))
        assert np.array_equal(decode(after.read(row))[0], expected)


def test_is_made_once_and_never_twice_over(extracted: Path, tmp_path: Path) -> None:
    first = align(extracted, tmp_path / "aligned")
    assert (
        align(extracted, tmp_path / "aligned", progress=lambda *_: pytest.fail("worked again")).digest == first.digest
    )
    other = align(extracted, tmp_path / "aligned", AlignConfig(which="center"))
    assert other.digest != first.digest
    with pytest.raises(InputError, match="aligned already"):
        align(tmp_path / "aligned", tmp_path / "again")


def test_unknown_settings_are_refused(extracted: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="prettiest"):
        align(extracted, tmp_path / "aligned", AlignConfig(which="prettiest"))
    with pytest.raises(InputError, match="backend 'tpu'"):
        align(extracted, tmp_path / "aligned", AlignConfig(backend="tpu"))
    assert not (tmp_path / "aligned").exists()


def test_faces_are_stored_as_jpeg_where_that_is_chosen(extracted: Path, tmp_path: Path) -> None:
    png = align(extracted, tmp_path / "png")
    jpeg = align(extracted, tmp_path / "jpeg", AlignConfig(stored_as="jpeg"))
    assert "stored_as" not in png.card["recipe"] and jpeg.card["recipe"]["stored_as"] == "jpeg"
    kept, made = FaceDataset(tmp_path / "png"), FaceDataset(tmp_path / "jpeg")
    assert len(kept) == len(made) > 0 and kept.column("landmarks") == made.column("landmarks")
    for row in range(len(made)):
        data = made.read(row)
        assert data.startswith(b"\xff\xd8\xff") and len(data) < 0.6 * len(kept.read(row))
        faces = [decode_plain(data, 112), decode(data)[0]]
        assert faces[0] is not None  # the fast way takes it, and gives the same pixels
        np.testing.assert_array_equal(faces[0], faces[1])
        off = np.abs(faces[0].astype(int) - decode(kept.read(row))[0])
        assert off.mean() < 3

"""An alignment as a job: killed and resumed, with any number of workers, over pictures of every awkward kind."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.datasets import make_dataset

from eolgul import steps
from eolgul.align.config import AlignConfig
from eolgul.align.step import align
from eolgul.artifact import open_artifact
from eolgul.dataset import FaceDataset
from eolgul.errors import InputError
from eolgul.images.decode import decode


class KilledError(Exception):
    """Stands for a kill in the middle of the work."""


@pytest.mark.process
def test_a_killed_run_goes_on_and_ends_the_same_with_any_number_of_workers(drawn: Path, tmp_path: Path) -> None:
    whole = align(drawn, tmp_path / "whole", AlignConfig(workers=1, part_rows=7))

    def kill(done: int, total: int | None) -> None:
        assert total == 24
        if done > 14:
            raise KilledError

    with pytest.raises(KilledError):
        align(drawn, tmp_path / "killed", AlignConfig(workers=3, part_rows=7), progress=kill)
    assert not (tmp_path / "killed").exists()
    seen: list[int] = []
    resumed = align(
        drawn, tmp_path / "killed", AlignConfig(workers=3, part_rows=7), progress=lambda done, _: seen.append(done)
    )
    assert seen[0] == 14 and seen[-1] == 24  # two parts were whole, and are not made again
    assert resumed.digest == whole.digest
    assert open_artifact(tmp_path / "killed", check="sha256").digest == whole.digest


def test_another_recipe_does_not_go_on_from_this_ones_parts(drawn: Path, tmp_path: Path) -> None:
    def kill(done: int, _: int | None) -> None:
        if done > 14:
            raise KilledError

    with pytest.raises(KilledError):
        align(drawn, tmp_path / "out", AlignConfig(part_rows=7), progress=kill)
    seen: list[int] = []
    made = align(
        drawn, tmp_path / "out", AlignConfig(part_rows=7, crop="box"), progress=lambda done, _: seen.append(done)
    )
    assert seen[0] == 0 and made.contents["aligned"] == "box-112-v1"
    with pytest.raises(InputError, match="aligned already"):
        align(tmp_path / "out", tmp_path / "again")


def encoded(picture: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def awkward(face: Image.Image) -> dict[str, bytes]:
    """One picture in every shape that decoders meet."""
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    grey = np.asarray(face.convert("L"))
    alpha = face.convert("RGBA")
    alpha.putalpha(Image.new("L", face.size, 255))
    jpeg = encoded(face, "JPEG", quality=95)
    return {
        "plain": encoded(face),
        "rotated": encoded(face.transpose(Image.Transpose.ROTATE_90), exif=exif),
        "grey": encoded(face.convert("L")),
        "grey16": encoded(Image.fromarray(grey.astype(np.uint16) * 257)),
        "cmyk": encoded(face.convert("CMYK"), "JPEG", quality=95),
        "alpha": encoded(alpha),
        "palette": encoded(face.quantize(200)),
        "one": encoded(Image.new("RGB", (1, 1))),
        "long": encoded(Image.new("RGB", (20_000, 10))),
        "truncated": jpeg[: len(jpeg) // 2],
        "text": b"this is no picture",
        "empty": b"",
    }


def test_awkward_pictures_are_faces_or_reasons(kface_tree: Path, tmp_path: Path) -> None:
    face = Image.fromarray(decode(sorted(kface_tree.rglob("S001/L1/E01/C7.jpg"))[0].read_bytes())[0])
    pictures = awkward(face)
    with make_dataset(tmp_path / "in", step="test", recipe={}, inputs=[], synthetic=True) as writer:
        writer.describe(name="odd", identities_known=True, aligned=None)
        for name, data in pictures.items():
            writer.add(f"p/{name}", "p", data, extension="png", size=(1, 1), source="odd")
    align(tmp_path / "in", tmp_path / "out")
    made = FaceDataset(tmp_path / "out")
    rows = {row["image_id"][2:]: row for row in made.table().to_pylist()}
    reasons = {row["where"][2:]: row["reason"] for row in made.rejected()}
    assert reasons == {
        "one": "too_small",
        "long": "too_small",
        "truncated": "not_an_image",
        "text": "not_an_image",
        "empty": "not_an_image",
    }
    assert set(rows) | set(reasons) == set(pictures)
    for name, row in rows.items():
        apart = np.linalg.norm(np.array(row["landmarks"]) - np.array(rows["plain"]["landmarks"]))
        assert apart < 6, name
    assert rows["rotated"]["landmarks"] == rows["plain"]["landmarks"]


def test_what_the_manifest_says(drawn: Path, tmp_path: Path) -> None:
    align(drawn, tmp_path / "out", AlignConfig(which="annotated"))
    for row in FaceDataset(tmp_path / "out").table().to_pylist():
        assert row["landmark_source"] == "detected"
        assert row["face_choice"] == ("annotated" if row["accessory"] == "S001" else "largest")
        five = np.array(row["landmarks"]).reshape(5, 2)
        assert row["eye_distance"] == pytest.approx(np.linalg.norm(five[1] - five[0]), rel=1e-4)
        assert row["yaw"] == pytest.approx({"C5": 30, "C7": 0, "C9": -30}[row["camera"]], abs=20)
        assert row["sharpness"] > 0 and 0 < row["brightness"] < 255 and row["contrast"] > 0
        assert row["faces_found"] >= 1


def test_small_eyes_are_rejected_with_their_distance(drawn: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"not one usable image.*too_small"):
        align(drawn, tmp_path / "out", AlignConfig(min_eyes=200))
    align(drawn, tmp_path / "out", AlignConfig(min_eyes=5))


def test_sheets_show_the_kept_and_the_rejected(drawn: Path, tmp_path: Path) -> None:
    align(drawn, tmp_path / "all")
    middle = sorted(FaceDataset(tmp_path / "all").column("eye_distance"))[6]
    sheet = tmp_path / "sheets" / "faces.png"
    facts = steps.align(str(drawn), str(tmp_path / "out"), AlignConfig(min_eyes=middle, workers=1), sheet=sheet)
    assert facts["sheets"] == [str(sheet), str(sheet.with_name("faces-rejected.png"))]
    assert facts["rejected_by_reason"].get("too_small", 0) >= 6
    with Image.open(sheet) as kept, Image.open(facts["sheets"][1]) as rejected:
        assert np.asarray(kept.convert("RGB")).std() > 20 and np.asarray(rejected.convert("RGB")).std() > 20
        colours = {colour for _, colour in kept.convert("RGB").getcolors(1 << 24) or ()}
        assert (0x30, 0xE0, 0x60) in colours  # the boxes of what was detected
    with pytest.raises(InputError, match=r"\.png"):
        steps.align(str(drawn), str(tmp_path / "out"), AlignConfig(min_eyes=middle), sheet=tmp_path / "x")

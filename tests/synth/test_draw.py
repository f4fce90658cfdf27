"""The writers: formats, truth, subsets, and what they refuse."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("embreex")

from support.drawing import SMALL, truth_of

from eolgul.errors import InputError
from eolgul.faces.template import TEMPLATE
from eolgul.formats.insightface import iter_rec, read_bin, read_property
from eolgul.formats.kface import Selection, parse_path, read_annotation
from eolgul.synth import (
    Person,
    balanced,
    draw_bin,
    draw_folders,
    draw_kface,
    draw_kind,
    draw_rec,
    identity_of,
)
from eolgul.synth.draw import KIND_OPTIONS
from eolgul.synth.plans import Faces
from eolgul.synth.store import Shot


def test_a_balanced_subset_takes_everything_equally_often() -> None:
    demo = list(Selection.parse("demo").conditions())
    chosen = balanced(demo, 24)
    assert len(set(chosen)) == 24 and chosen[0] == demo[0]
    for name, times in (("camera", 4), ("light", 6), ("expression", 8), ("accessory", 12)):
        counts = [sum(getattr(c, name) == value for c in chosen) for value in {getattr(c, name) for c in demo}]
        assert set(counts) == {times}, (name, counts)


def test_kface_tree_annotations_card_and_cache(tmp_path: Path) -> None:
    out = tmp_path / "kface"
    seen: list[tuple[int, int]] = []
    made = draw_kface(
        out, people=1, selection=SMALL, workers=1, progress=lambda done, total: seen.append((done, total))
    )
    assert made["images"] == 4 and made["identities"] == 1 and not made["cached"] and seen == [(4, 4)]
    images = sorted(out.rglob("*.jpg"))
    assert len(images) == 4
    for path in images:
        place = parse_path(path.relative_to(out).as_posix())
        assert place is not None and place[0] == identity_of(0, 0)
        with Image.open(path) as image:
            assert image.size == (173, 115)
        note = path.with_suffix(".txt")
        assert note.exists() == (place[1].light == "L1")
        if note.exists():
            assert read_annotation(note).points.shape == (7, 2)
    card = json.loads((out / "synthetic.json").read_text())
    assert card["synthetic"] is True and card["generator"] == "eolgul.synth" and card["digest"] == made["recipe"]

    before = images[0].stat().st_mtime_ns
    assert draw_kface(out, people=1, selection=SMALL, workers=1)["cached"] is True
    assert images[0].stat().st_mtime_ns == before
    # Which other images are drawn changes no image; another recipe replaces the output.
    kept = {p.relative_to(out): p.read_bytes() for p in images}
    draw_kface(out, people=1, selection=SMALL, workers=1, images_per_person=2)
    left = sorted(out.rglob("*.jpg"))
    assert len(left) == 2 and all(p.read_bytes() == kept[p.relative_to(out)] for p in left)
    assert [p.name for p in tmp_path.iterdir()] == ["kface"]


def test_truth_of_every_image_agrees_with_the_annotations(tmp_path: Path) -> None:
    out = tmp_path / "kface"
    wanted = Selection.parse("resolutions=Low,Middle accessories=S001,S005 lights=L1,L2 expressions=E01 cameras=C4,C7")
    draw_kface(out, people=1, selection=wanted, workers=1, images_per_person=None)
    truth = truth_of(out / "truth.parquet")
    assert set(truth) == {p.relative_to(out).as_posix() for p in out.rglob("*.jpg")} and len(truth) == 16
    notes = list(out.rglob("*.txt"))
    assert len(notes) == 4
    for note in notes:
        five = truth[note.with_suffix(".jpg").relative_to(out).as_posix()][:10].reshape(5, 2)
        np.testing.assert_allclose(five, read_annotation(note).landmarks, atol=0.051)
    # The light changes nothing, the camera the yaw, the resolution the scale.
    by = {tuple(name.split("/")[k] for k in (0, 2, 3, 5)): row for name, row in truth.items()}
    assert np.array_equal(by["Low_Resolution", "S001", "L1", "C7.jpg"], by["Low_Resolution", "S001", "L2", "C7.jpg"])
    front, half = by["Middle_Resolution", "S001", "L1", "C7.jpg"], by["Middle_Resolution", "S001", "L1", "C4.jpg"]
    assert abs(half[10] - front[10] - 45) < 1


@pytest.mark.process
def test_rec_is_the_same_with_one_worker_and_two_and_is_readable(tmp_path: Path) -> None:
    draw_rec(tmp_path / "one", people=2, images=2, workers=1)
    draw_rec(tmp_path / "two", people=2, images=2, workers=2)
    assert (tmp_path / "one" / "train.rec").read_bytes() == (tmp_path / "two" / "train.rec").read_bytes()
    records = list(iter_rec(tmp_path / "one" / "train.rec"))
    assert [r.label for r in records] == [0, 0, 1, 1]
    facts = read_property(tmp_path / "one" / "property")
    assert (facts.identities, facts.height, facts.width) == (2, 112, 112)
    for record in records:
        with Image.open(io.BytesIO(record.image)) as image:
            assert image.size == (112, 112)


def test_bin_has_ten_folds_matched_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Stand-ins for images that say which person and which image they are.
    def shots(self: Faces, person: Person, product: Path) -> list[Shot]:
        return [Shot(name, f"{person.index} {name}".encode(), np.zeros(13)) for name in self.names]

    monkeypatch.setattr(Faces, "shots", shots)
    out = tmp_path / "demo.bin"
    made = draw_bin(out, people=2, pairs=20, workers=1)
    pairs = read_bin(out)
    assert made["images"] == len(pairs.images) == 40 and len(set(pairs.images)) == 40
    assert pairs.same.tolist() == [True, False] * 10
    who = [image.split()[0] for image in pairs.images]
    assert [who[2 * k] == who[2 * k + 1] for k in range(20)] == pairs.same.tolist()
    assert json.loads((tmp_path / "demo.bin.synthetic.json").read_text())["synthetic"] is True
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "demo.bin",
        "demo.bin.synthetic.json",
        "demo.bin.truth.parquet",
    ]
    assert draw_bin(out, people=2, pairs=20, workers=1)["cached"] is True
    with pytest.raises(InputError, match="multiple of 20"):
        draw_bin(out, people=2, pairs=30)


def test_the_wild_has_other_places_and_cameras_and_knows_where_the_face_is(tmp_path: Path) -> None:
    draw_folders(tmp_path / "photos", people=2, images=3, workers=2)
    images = sorted((tmp_path / "photos").rglob("*.jpg"))
    truth = truth_of(tmp_path / "photos" / "truth.parquet")
    assert list(truth) == [p.relative_to(tmp_path / "photos").as_posix() for p in images] and len(images) == 6
    pictures = []
    for path in images:
        with Image.open(path) as image:
            assert image.size == (250, 250)
            pictures.append(np.asarray(image.convert("RGB")).astype(int))
    for row in truth.values():
        five = row[:10].reshape(5, 2)
        assert (five > 20).all() and (five < 230).all() and five[0, 0] < five[1, 0]
    corners = [picture[:20, :20].mean((0, 1)) for picture in pictures]
    assert np.std(corners, 0).mean() > 15  # not one studio's wall
    assert np.std([row[10] for row in truth.values()]) > 5 and np.std([row[12] for row in truth.values()]) > 1
    draw_folders(tmp_path / "again", people=1, images=3, first=300_001, workers=1)
    name = images[3].relative_to(tmp_path / "photos")
    assert (tmp_path / "again" / name).read_bytes() == images[3].read_bytes()


def test_aligned_faces_of_the_wild_are_aligned(tmp_path: Path) -> None:
    draw_rec(tmp_path / "rec", people=1, images=6, style="wild", workers=1)
    truth = truth_of(tmp_path / "rec" / "truth.parquet")
    assert list(truth) == [f"train.rec/{k:08d}" for k in range(1, 7)]
    off = [np.abs(row[:10].reshape(5, 2) - TEMPLATE).mean() for row in truth.values()]
    assert max(off) < 9 and len(list(iter_rec(tmp_path / "rec" / "train.rec"))) == 6


def test_the_command_refuses_what_cannot_be(tmp_path: Path) -> None:
    options: dict[str, Any] = {"people": 1, "first": None, "selection": None, "images": None, "pairs": None, "style": None,
                               "origins": None, "seed": 0, "workers": 1, "progress": None}  # fmt: skip
    for kind, change, sentence in (
        ("rec", {"style": "tame"}, "expected rig or wild"),
        ("rec", {"images": 0}, "at least one"),
        ("painting", {}, "expected kface, rec, bin or folders"),
        ("kface", {"origins": "moon=1"}, "origins"),
        ("kface", {"people": 0}, "at least one"),
    ):
        with pytest.raises(InputError, match=sentence):
            draw_kind(tmp_path / "out", kind, **(options | change))
    given: dict[str, Any] = {"selection": "demo", "images": 2, "pairs": 300, "style": "rig"}
    for kind, own in KIND_OPTIONS.items():
        for name, value in given.items():
            if name not in own:
                with pytest.raises(InputError, match=rf"{name} {value}: is only for kind .*, not for {kind}"):
                    draw_kind(tmp_path / "out", kind, **(options | {name: value}))


def test_folds_share_nobody_when_there_are_people_enough() -> None:
    from eolgul.synth.draw import _pairs

    plan, same = _pairs(40, 300, np.random.default_rng(0))
    assert len(plan) == 600 and sum(same) == 150 and len(set(plan)) == 40
    folds = [set(plan[60 * k : 60 * k + 60]) for k in range(10)]
    assert sum(len(fold) for fold in folds) == 40
    assert all((plan[2 * i] == plan[2 * i + 1]) == flag for i, flag in enumerate(same))

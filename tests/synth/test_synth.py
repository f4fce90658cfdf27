"""The studio: what is drawn is deterministic, annotated where it should be, and readable by the formats module."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("embreex")

from eolgul.errors import InputError
from eolgul.formats.insightface import iter_rec, read_bin, read_property
from eolgul.formats.kface import Selection, parse_path, read_annotation
from eolgul.synth import Person, Scene, Sitter, balanced, draw, draw_bin, draw_kface, draw_person, draw_rec, identity_of
from eolgul.synth.crop import TEMPLATE, similarity
from eolgul.synth.mesh import load_base, shape_parameters, subdivision, vertex_normals
from eolgul.synth.render import render
from eolgul.synth.rig import camera, camera_angles, light
from eolgul.synth.store import Shot
from eolgul.synth.work import work

SMALL = Selection.parse("resolutions=Low accessories=S001 lights=L1,L16 expressions=E01 cameras=C7,C9")


@pytest.fixture(scope="module")
def sitter() -> Sitter:
    return Sitter(draw_person(0, 3))


@pytest.fixture(scope="module")
def scene(sitter: Sitter) -> Scene:
    return sitter.scene()


def picture(scene: Scene, view: str = "C7", lamp: str = "L1") -> np.ndarray:
    return render(scene, camera(view, "Low"), light(lamp), np.random.default_rng(1), noise=0.0).astype(int)


# People ------------------------------------------------------------------------------------------------------------


def test_a_person_is_a_pure_function_of_the_seed_and_another_index_is_another_person() -> None:
    assert draw_person(5, 7) == draw_person(5, 7)
    assert draw_person(5, 7) != draw_person(5, 8)
    assert draw_person(5, 7) != draw_person(6, 7)


def test_the_population_is_like_kfaces() -> None:
    people = [draw_person(0, k) for k in range(200)]
    assert 0.4 < np.mean([p.male for p in people]) < 0.6
    assert min(p.age for p in people) >= 20 and max(p.age for p in people) < 60
    assert np.mean([p.origin[0] for p in people]) > 0.75


def test_identities_look_like_kfaces_but_are_of_no_year_it_was_made_in() -> None:
    names = {identity_of(0, k) for k in range(5000)}
    assert len(names) == 5000
    assert all(len(name) == 8 and name.isdigit() and name.startswith("99") for name in names)


def test_different_people_look_different(scene: Scene) -> None:
    other = Sitter(draw_person(0, 4)).scene()
    difference = np.abs(picture(scene) - picture(other))[30:90, 60:110]
    assert difference.mean() > 8


# The mesh ----------------------------------------------------------------------------------------------------------


def test_shape_parameters_move_both_sides_of_the_face() -> None:
    names = [p.name for p in shape_parameters()]
    assert len(names) > 90
    eyes = next(p for p in shape_parameters() if p.name == "eyes/eye-scale-incr")
    assert sorted(eyes.positive) == ["eyes/l-eye-scale-incr", "eyes/r-eye-scale-incr"]
    assert sorted(eyes.negative) == ["eyes/l-eye-scale-decr", "eyes/r-eye-scale-decr"]


def test_subdivision_keeps_a_plane_flat_and_refines_every_quad_into_four() -> None:
    base, fine = load_base(), subdivision()
    assert len(fine.fine) == 4 * len(base.quads)
    plane = base.vertices @ np.array([[1.0, 0], [0, 1], [0, 0]], np.float32) + 1
    flat = fine.apply(np.concatenate([plane, np.ones((len(plane), 1), np.float32)], 1))
    np.testing.assert_allclose(flat[:, 2], 1, atol=1e-5)
    assert flat.shape == (fine.total, 3)


def test_normals_of_the_face_point_out_of_it() -> None:
    base = load_base()
    normals = vertex_normals(base.vertices, base.quads[:, :3])
    assert normals[base.index(5054), 2] > 0.5


# The rig -----------------------------------------------------------------------------------------------------------


def test_cameras_stand_where_kface_says() -> None:
    assert camera_angles("C1") == (90, 0) and camera_angles("C7") == (0, 0) and camera_angles("C13") == (-90, 0)
    assert camera_angles("C14") == (45, 30) and camera_angles("C20") == (-30, -15)
    with pytest.raises(ValueError, match="C21"):
        camera("C21", "Middle")


def test_lights_have_kfaces_lux() -> None:
    assert [light(f"L{n}").lux for n in range(1, 8)] == [1000, 400, 200, 150, 100, 40, 0]
    assert light("L8").pitch > 0 > light("L12").pitch
    assert [light(f"L{n}").yaw for n in (16, 19, 22, 25, 28)] == [90, 45, 0, -45, -90]


def test_rays_go_through_the_pixels_points_are_projected_to(scene: Scene) -> None:
    view = camera("C15", "Middle")
    pixels = view.project(scene.landmarks)
    rays = view.rays(pixels)
    towards = scene.landmarks - view.position()
    towards /= np.linalg.norm(towards, axis=1, keepdims=True)
    np.testing.assert_allclose(rays, towards, atol=1e-5)
    crop = view.aligned(similarity(pixels[[1, 2, 0, 3, 4]], TEMPLATE), 112)
    np.testing.assert_allclose(crop.rays(crop.project(scene.landmarks)), towards, atol=1e-5)
    assert np.abs(crop.project(scene.landmarks)[[1, 2, 0, 3, 4]] - TEMPLATE).max() < 12


def test_opposite_cameras_see_mirrored_heads(scene: Scene) -> None:
    left, right = scene.points(camera("C4", "Middle")), scene.points(camera("C10", "Middle"))
    # Seen from the sitter's left the nose points to the image's left of the eyes, and the other way round.
    assert left[0, 0] < left[1:3, 0].mean() and right[0, 0] > right[1:3, 0].mean()


def test_landmarks_follow_kfaces_order_inside_the_image(scene: Scene) -> None:
    nose, right_eye, left_eye, right_mouth, left_mouth, right_ear, left_ear = scene.points(camera("C7", "Middle"))
    assert right_ear[0] < right_eye[0] < nose[0] < left_eye[0] < left_ear[0]
    assert right_eye[1] < nose[1] < right_mouth[1] and right_mouth[0] < left_mouth[0]
    for n in range(1, 21):
        points = scene.points(camera(f"C{n}", "Middle"))
        assert (points >= 0).all() and (points < (346, 230)).all()


def test_boxes_hold_their_landmarks_and_leave_out_what_is_hidden(scene: Scene) -> None:
    view = camera("C7", "Middle")
    boxes, points = scene.boxes(view), scene.points(view)
    x, y, w, h = boxes[0]
    assert ((points[:5] >= (x, y)) & (points[:5] <= (x + w, y + h))).all()
    assert len(scene.boxes(camera("C1", "Middle"))) < len(boxes) <= 7


# Pictures ----------------------------------------------------------------------------------------------------------


def test_the_same_picture_twice_is_the_same_bytes(sitter: Sitter, scene: Scene) -> None:
    again = Sitter(draw_person(0, 3)).scene()
    view = camera("C8", "Low")
    first = render(scene, view, light("L1"), np.random.default_rng(2))
    assert np.array_equal(first, render(again, view, light("L1"), np.random.default_rng(2)))


def test_light_and_expression_and_accessory_change_the_picture(sitter: Sitter, scene: Scene) -> None:
    bright = picture(scene)[30:95, 60:112]
    assert picture(scene, lamp="L6")[30:95, 60:112].mean() < 0.6 * bright.mean()
    assert picture(scene, lamp="L7").mean() < 30
    lit_left = picture(scene, lamp="L16")[40:90, 64:110]
    # L16 stands on the sitter's left, which is the image's right.
    assert lit_left[:, 23:].mean() > 1.3 * lit_left[:, :23].mean()
    for expression, accessory in (("E02", "S001"), ("E03", "S001"), ("E01", "S003"), ("E01", "S005")):
        changed = picture(sitter.scene(expression, accessory))
        assert (np.abs(changed - picture(scene)).max(2) > 25).sum() > 20, (expression, accessory)


# Writers -----------------------------------------------------------------------------------------------------------


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


def test_foreign_folders_are_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(InputError, match="not synthetic"):
        draw_kface(tmp_path, people=1, selection=SMALL, workers=1)
    assert (tmp_path / "mine.txt").read_text() == "precious"


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
    # What a face looks like does not matter here: who is on it, and which of their pictures it is, does.
    def shots(self: draw._Faces, person: Person, product: Path) -> list[Shot]:
        return [Shot(name, f"{person.index} {name}".encode(), np.zeros(13)) for name in self.names]

    monkeypatch.setattr(draw._Faces, "shots", shots)
    out = tmp_path / "demo.bin"
    made = draw_bin(out, people=2, pairs=20, workers=1)
    pairs = read_bin(out)
    assert made["images"] == len(pairs.images) == 40 and len(set(pairs.images)) == 40
    assert pairs.same.tolist() == [True, False] * 10
    people = [image.split()[0] for image in pairs.images]
    assert [people[2 * k] == people[2 * k + 1] for k in range(20)] == pairs.same.tolist()
    assert json.loads((tmp_path / "demo.bin.synthetic.json").read_text())["synthetic"] is True
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "demo.bin",
        "demo.bin.synthetic.json",
        "demo.bin.truth.parquet",
    ]
    assert draw_bin(out, people=2, pairs=20, workers=1)["cached"] is True
    with pytest.raises(InputError, match="multiple of 20"):
        draw_bin(out, people=2, pairs=30)


def test_folds_share_nobody_when_there_are_people_enough() -> None:
    from eolgul.synth.draw import _pairs

    plan, same = _pairs(40, 300, np.random.default_rng(0))
    assert len(plan) == 600 and sum(same) == 150 and len(set(plan)) == 40
    folds = [set(plan[60 * k : 60 * k + 60]) for k in range(10)]
    assert sum(len(fold) for fold in folds) == 40
    assert all((plan[2 * i] == plan[2 * i + 1]) == flag for i, flag in enumerate(same))


def test_workers_lose_no_job_and_keep_their_order() -> None:
    assert list(work(abs, range(-20, 0), 2)) == list(range(20, 0, -1))


def test_no_torch_is_loaded() -> None:
    code = (
        "import sys, eolgul.synth as s; s.Sitter(s.draw_person(0, 0)).scene(); "
        "sys.exit('torch' in sys.modules or 'anny' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

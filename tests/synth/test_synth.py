"""The studio: what is drawn is deterministic, annotated where it should be, and readable by the formats module."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

pytest.importorskip("embreex")

from eolgul.errors import InputError
from eolgul.files import work_folder
from eolgul.formats.insightface import iter_rec, read_bin, read_property
from eolgul.formats.kface import Selection, parse_path, read_annotation, visible_boxes
from eolgul.synth import (
    Person,
    Scene,
    Sitter,
    balanced,
    draw_bin,
    draw_folders,
    draw_kface,
    draw_kind,
    draw_person,
    draw_rec,
    identity_of,
    parse_origins,
    people,
    population,
)
from eolgul.synth.crop import TEMPLATE, similarity
from eolgul.synth.crowd import Faces
from eolgul.synth.mesh import load_base, shape_parameters, subdivision, vertex_normals
from eolgul.synth.person import head
from eolgul.synth.proportions import measures, plausible
from eolgul.synth.render import render
from eolgul.synth.rig import camera, camera_angles, free_camera, light
from eolgul.synth.store import Shot
from eolgul.workers import map_in_order

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
    drawn = list(people(0, 0, 200))
    assert 0.4 < np.mean([p.male for p in drawn]) < 0.6
    assert min(p.age for p in drawn) >= 20 and max(p.age for p in drawn) < 60
    assert np.mean([p.origin[0] > 0.5 for p in drawn]) > 0.5


def test_origins_are_settable_and_other_shares_are_other_people() -> None:
    african = parse_origins("african=2, caucasian=0")
    assert african == (0, 1, 0)
    people_of = [draw_person(0, k, african) for k in range(60)]
    assert np.mean([p.origin[1] > 0.4 for p in people_of]) == 1
    assert np.mean([p.look["melanin"] for p in people_of]) > 2
    for wrong in ("martian=1", "asian=-1", "asian", "asian=0"):
        with pytest.raises(InputError, match="origins"):
            parse_origins(wrong)


def test_nobody_resembles_anybody_before_them(monkeypatch: pytest.MonkeyPatch) -> None:
    def nearest(count: int) -> int:
        faces = np.array([population.descriptor(p) for p in people(3, 0, count)])
        apart = ((faces[:, None] - faces[None]) ** 2).sum(2)
        return int(apart[~np.eye(count, dtype=bool)].min())

    alone = draw_person(3, 40)
    assert nearest(150) >= population._NEAR
    # A stricter rule is kept too, which shows that it is the rule that keeps people apart.
    strict = 2 * nearest(150)
    monkeypatch.setattr(population, "_NEAR", strict)
    population._crowd.cache_clear()
    assert nearest(60) >= strict
    monkeypatch.undo()
    population._crowd.cache_clear()
    # Who person 40 is does not depend on who was asked for, nor in which order.
    assert [p.index for p in people(3, 39, 3)] == [39, 40, 41]
    assert draw_person(3, 40) == alone


def test_faces_are_possible_ones() -> None:
    drawn = [population._draw(0, k, 0, population.DEFAULT_ORIGINS) for k in range(40)]
    assert 0 < sum(map(plausible, drawn)) < 40  # some draws are not, and
    assert all(plausible(p) for p in people(0, 0, 40))  # those are drawn again
    person = draw_person(0, 3)
    vertices, base = head(person), load_base()
    philtrum = vertices[base.index(343), 1] - vertices[base.index(466), 1]
    np.testing.assert_allclose(measures(person)[0], philtrum, atol=0.004)


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


def test_pose_is_the_cameras_direction_seen_from_the_head(sitter: Sitter, scene: Scene) -> None:
    yaw, pitch, roll = sitter.person.seat[:3]
    for name in ("C1", "C4", "C7", "C12", "C14", "C20"):
        angles = camera_angles(name)
        pose = scene.pose(camera(name, "Low"))
        assert abs(pose[0] - angles[0] + yaw) < 2.5 and abs(pose[1] - angles[1]) < abs(pitch) + 2.5, name
    # A picture turned by the alignment is a head that is turned the other way.
    view = camera("C7", "Low")
    turned = view.aligned(np.array([[0, -1, 0], [1, 0, 0]]), 112)
    assert abs(abs(scene.pose(turned)[2] - scene.pose(view)[2]) - 90) < 1e-3
    free = replace(free_camera(30, 10, 112, 112), roll=20.0)
    assert abs(scene.pose(free)[2] - 20 + roll) < 6


def test_boxes_of_each_camera_are_those_that_kface_has_there(scene: Scene) -> None:
    """Face, eyes, nose, mouth, ears, in that order, each around its landmark; what K-FACE leaves out has no box."""
    for number in range(1, 21):
        name = f"C{number}"
        view = camera(name, "Middle")
        boxes = dict(zip(visible_boxes(name), scene.boxes(view, name), strict=True))
        assert 5 <= len(boxes) <= 7
        nose, right_eye, left_eye, *_ = scene.points(view)
        for part, point in (("face", nose), ("nose", nose), ("right eye", right_eye), ("left eye", left_eye)):
            if part in boxes:
                x, y, w, h = boxes[part]
                assert x - 3 <= point[0] <= x + w + 3 and y - 3 <= point[1] <= y + h + 3, (name, part)
    # From the left the ear that is seen is the person's left one, behind everything else of the face.
    assert scene.boxes(camera("C4", "Middle"), "C4")[-1][0] > scene.points(camera("C4", "Middle"))[0, 0]


def test_the_face_box_holds_the_landmarks(scene: Scene) -> None:
    view = camera("C7", "Middle")
    boxes, points = scene.boxes(view, "C7"), scene.points(view)
    x, y, w, h = boxes[0]
    assert len(boxes) == 7 and ((points[:5] >= (x, y)) & (points[:5] <= (x + w, y + h))).all()


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


def truth_of(path: Path) -> dict[str, np.ndarray]:
    """Image → its 13 numbers."""
    table = pq.read_table(path)
    assert table.column_names == ["image", "landmarks", "yaw", "pitch", "roll"]
    names = table["image"].to_pylist()
    assert names == sorted(names)
    numbers = np.concatenate([np.array(table["landmarks"].to_pylist(), np.float32),
                              np.stack([table[name].to_numpy() for name in ("yaw", "pitch", "roll")], 1)], 1)  # fmt: skip
    return dict(zip(names, numbers, strict=True))


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


def files_of(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_stop_of_the_whole_process_group_ends_it(tmp_path: Path) -> None:
    """As `timeout` and a shell's job control stop a command: the workers hear it too, and go before they are told."""
    words = [sys.executable, "-m", "eolgul", "synth", str(tmp_path / "cut"), "--people", "50", "--workers", "2"]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    while process.poll() is None and not list(tmp_path.glob(".cut.partial/people/*.npz")):
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGTERM)
    assert process.wait(20) == 128 + signal.SIGTERM


def test_a_drawing_that_was_killed_goes_on_person_by_person(tmp_path: Path) -> None:
    """With any number of workers, killed or not, a drawing is the same bytes, its truth and its card included."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    draw_kface(whole, people=4, selection=SMALL, workers=1)
    text = " ".join(f"{field}={','.join(names)}" for field, names in asdict(SMALL).items())
    words = [sys.executable, "-m", "eolgul", "synth", str(cut), "--people", "4", "--selection", text, "--workers", "2"]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    while process.poll() is None and not list(tmp_path.glob(".cut.partial/people/*.npz")):
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)  # the workers too: one could finish a person while they are counted
    process.wait()
    time.sleep(0.3)
    (unfinished,) = tmp_path.glob(".cut.partial")
    kept = {p: p.stat().st_mtime_ns for p in (unfinished / "people").glob("*.npz")}
    assert not cut.exists() and 1 <= len(kept) <= 4
    # A record that was cut off in the middle is no record.
    torn = max(kept)
    torn.write_bytes(torn.read_bytes()[:-40])
    seen: list[tuple[int, int]] = []
    drawn = draw_kface(
        cut, people=4, selection=SMALL, workers=1, progress=lambda done, total: seen.append((done, total))
    )
    assert not drawn["cached"] and seen[0] == (4 * len(kept), 16) and seen[-1] == (16, 16)
    assert files_of(cut) == files_of(whole)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cut", "whole"]


def test_two_processes_do_not_draw_the_same_output(tmp_path: Path) -> None:
    with (
        work_folder(tmp_path / "out", "0" * 64),
        pytest.raises(InputError, match="another process"),
        work_folder(tmp_path / "out", "0" * 64),
    ):
        pass
    assert list(tmp_path.iterdir()) == []  # nobody was drawn, nothing is kept


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
    options: dict[str, Any] = {"people": 1, "first": None, "selection": "demo", "images": None, "pairs": 20, "style": "rig",
                               "origins": None, "seed": 0, "workers": 1, "progress": None}  # fmt: skip
    for kind, change, sentence in (
        ("kface", {"style": "wild"}, "K-FACE is a studio"),
        ("rec", {"style": "tame"}, "expected rig or wild"),
        ("rec", {"images": 0}, "at least one"),
        ("painting", {}, "expected kface, rec, bin or folders"),
        ("kface", {"origins": "moon=1"}, "origins"),
        ("kface", {"people": 0}, "at least one"),
    ):
        with pytest.raises(InputError, match=sentence):
            draw_kind(tmp_path / "out", kind, **(options | change))


def test_folds_share_nobody_when_there_are_people_enough() -> None:
    from eolgul.synth.draw import _pairs

    plan, same = _pairs(40, 300, np.random.default_rng(0))
    assert len(plan) == 600 and sum(same) == 150 and len(set(plan)) == 40
    folds = [set(plan[60 * k : 60 * k + 60]) for k in range(10)]
    assert sum(len(fold) for fold in folds) == 40
    assert all((plan[2 * i] == plan[2 * i + 1]) == flag for i, flag in enumerate(same))


def test_workers_lose_no_job_and_keep_their_order() -> None:
    assert list(map_in_order(abs, range(-20, 0), 2)) == list(range(20, 0, -1))


def test_no_torch_is_loaded() -> None:
    code = (
        "import sys, eolgul.synth as s; s.Sitter(s.draw_person(0, 0)).scene(); "
        "sys.exit('torch' in sys.modules or 'anny' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

"""Landmarks, boxes and pose of a person in the studio."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("embreex")


from eolgul.formats.kface import visible_boxes
from eolgul.synth import Scene, Sitter
from eolgul.synth.rig import camera, camera_angles, free_camera


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


@pytest.mark.process
def test_no_torch_is_loaded() -> None:
    code = (
        "import sys, eolgul.synth as s; s.Sitter(s.draw_person(0, 0)).scene(); "
        "sys.exit('torch' in sys.modules or 'anny' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

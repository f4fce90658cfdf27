"""Pictures in which no face is found, served from what is known of the rig; and how faces are chosen and described."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eolgul.align.config import AlignConfig
from eolgul.align.rig_anchors import Anchors, Place, face_box, likeness
from eolgul.align.step import align
from eolgul.dataset import FaceDataset
from eolgul.extract.step import extract
from eolgul.faces.choose import choose
from eolgul.faces.mtcnn import Detector, Faces
from eolgul.faces.quality import estimated_yaw, picture_quality
from eolgul.formats.kface import read_annotation
from eolgul.images.decode import decode
from eolgul.model.package import DetectorSettings

BLIND = AlignConfig(min_score=1.0, anchor="rig")  # no score is above 1: the detector finds nothing


def place(accessory: str = "S001", expression: str = "E01", camera: str = "C7") -> Place:
    return Place("p", "Middle", camera, accessory, expression)


def test_the_nearest_conditions_serve_and_annotations_come_first() -> None:
    points = np.arange(10.0).reshape(5, 2)
    anchors = Anchors()
    assert anchors.landmarks(place()) is None
    anchors.add_detected(place("S004", "E02"), points)
    anchors.add_detected(place("S001", "E02"), points + 10)
    for far in (20, 21, 90):  # the median is not moved by one that is far off
        anchors.add_detected(place("S001", "E01"), points + far)
    assert anchors.landmarks(place("S001", "E01"))[0, 0] == 21  # type: ignore[index]
    assert anchors.landmarks(place("S004", "E01"))[0, 0] == 0  # type: ignore[index]
    assert anchors.landmarks(place("S001", "E03"))[0, 0] in (20.5, 21, 15.5)  # type: ignore[index]
    assert anchors.landmarks(place(camera="C8")) is None
    anchors.add_annotated(place("S002", "E03"), points + 50)
    assert anchors.landmarks(place("S001", "E01"))[0, 0] == 50  # type: ignore[index]


def test_what_the_detector_misses_is_served_marked_and_checked(kface_tree: Path, tmp_path: Path) -> None:
    tree = tmp_path / "kface"
    shutil.copytree(kface_tree, tree)
    blank = sorted(tree.rglob("S004/L6/E01/C7.jpg"))[0]  # the camera's cap was on
    Image.new("RGB", (346, 230), "#404448").save(blank)
    extract(tree, tmp_path / "kface-extracted")
    source = FaceDataset(tmp_path / "kface-extracted")
    align(tmp_path / "kface-extracted", tmp_path / "out", BLIND)
    made = FaceDataset(tmp_path / "out")
    assert len(made) + len(made.rejected()) == len(source) == 24
    (rejected,) = made.rejected()
    assert rejected["where"].endswith("S004_L6_E01_C7") and rejected["reason"] == "no_face"
    assert "likeness" in rejected["detail"]
    for row in made.table().to_pylist():
        origin = "annotated" if row["accessory"] == "S001" else "anchored"
        assert row["landmark_source"] == row["face_choice"] == origin and row["faces_found"] == 0
        note = tree / "Middle_Resolution" / row["identity"] / "S001" / "L1" / "E01" / f"{row['camera']}.txt"
        true = read_annotation(note).landmarks
        error = np.linalg.norm(np.array(row["landmarks"]).reshape(5, 2) - true, axis=1).mean()
        assert error < 0.1 * np.linalg.norm(true[1] - true[0])
        assert row["eye_distance"] > 10 and row["detection_score"] >= 0.3


def test_anchors_from_detections_alone(kface_tree: Path, tmp_path: Path) -> None:
    """Without annotations, a picture that is hidden by a black bar is served by the other light of its camera."""
    tree = tmp_path / "kface"
    shutil.copytree(kface_tree, tree, ignore=shutil.ignore_patterns("*.txt"))
    extract(tree, tmp_path / "in")
    with pytest.raises(Exception, match="not one usable image"):
        align(tmp_path / "in", tmp_path / "nothing", BLIND)
    out = align(tmp_path / "in", tmp_path / "out", AlignConfig(anchor="rig"))
    plain = align(tmp_path / "in", tmp_path / "plain")
    assert out.contents["images"] >= plain.contents["images"] >= 20


def test_likeness_tells_the_face_from_the_wall(networks: Path, kface_tree: Path) -> None:
    detector = Detector.from_onnx(networks, DetectorSettings())
    for note in sorted(kface_tree.rglob("L1/E01/*.txt")):
        image, _ = decode(note.with_suffix(".jpg").read_bytes())
        landmarks = read_annotation(note).landmarks
        assert likeness(detector, image, landmarks) > 0.9
        assert likeness(detector, image, landmarks - landmarks.min(axis=0) + 3) < 0.3  # the upper left corner
        assert likeness(detector, image, landmarks + 1000) == 0
        (faces,) = detector.detect([image])
        box, found = face_box(landmarks), faces.boxes[0]
        sides = np.minimum(box[2:], found[2:]) - np.maximum(box[:2], found[:2])
        assert (sides > 0).all() and sides.prod() > 0.4 * (box[2:] - box[:2]).prod()


def test_yaw_has_k_faces_sign_and_about_its_size(kface_tree: Path) -> None:
    for note in sorted(kface_tree.rglob("L1/E01/*.txt")):
        yaw = estimated_yaw(read_annotation(note).landmarks)
        assert yaw == pytest.approx({"C5": 30, "C7": 0, "C9": -30}[note.stem], abs=10)
    assert estimated_yaw(np.ones((5, 2))) == 0


def test_the_annotated_face_is_chosen_or_none() -> None:
    five = np.array([[40, 50], [70, 50], [55, 70], [42, 90], [68, 90]], np.float32)
    faces = Faces(
        np.array([[0, 0, 300, 300], [30, 30, 90, 110]], np.float32),
        np.ones(2, np.float32),
        np.stack([five * 3, five + 2]),
    )
    assert choose(faces, "annotated", (320, 320), five) == 1
    assert choose(faces, "annotated", (320, 320), None) == 0  # without an annotation the largest
    assert choose(faces, "annotated", (320, 320), five + 100) is None


def test_quality_follows_what_is_done_to_the_picture() -> None:
    rng = np.random.default_rng(0)
    face = rng.integers(60, 120, (112, 112, 3), np.uint8)
    plain = picture_quality(face)
    soft = np.asarray(Image.fromarray(face).resize((28, 28)).resize((112, 112)))
    assert picture_quality(soft)["sharpness"] < plain["sharpness"] / 4
    assert picture_quality(face + 100)["brightness"] == pytest.approx(plain["brightness"] + 100, abs=1)
    assert picture_quality(face * 2)["contrast"] == pytest.approx(2 * plain["contrast"], rel=0.05)

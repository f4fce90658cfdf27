"""Detect, choose and cut out one face per row of a dataset, in chunks for any number of threads.

The division into chunks depends on the rows alone, so the result does not depend on which thread computes what when.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from eolgul.align.config import AlignConfig
from eolgul.align.rig_anchors import LIKENESS, Anchors, Place, face_box, likeness
from eolgul.dataset import FaceDataset
from eolgul.errors import InputError, Reason, Rejection
from eolgul.faces.choose import choose
from eolgul.faces.mtcnn import Detector, Faces
from eolgul.faces.quality import estimated_yaw, eye_distance, picture_quality
from eolgul.faces.template import align_face, crop_box
from eolgul.images.decode import decode, encode_jpeg, encode_png

CHUNK = 32
# Decoded pixels that a thread holds at a time: about 32 images of LFW, 4 of K-FACE's largest, 1 photo of a phone.
_PIXELS = 1 << 21
# Faces of this many pixels have more between the eyes (47) than the aligned 112 x 112 face (35): nothing smaller is decoded.
_ENOUGH = 112


class Found(NamedTuple):
    """An encoded face, and its columns of the manifest."""

    image: bytes
    extension: str
    facts: dict[str, Any]


Result = Found | Rejection


class Photo(NamedTuple):
    """A decoded image (height x width x 3, uint8 RGB), its sides divided by `reduced`.

    `width` and `height` are those of the whole image.
    """

    pixels: NDArray[np.uint8]
    reduced: int
    width: int
    height: int

    def whole(self, points: NDArray[np.floating]) -> NDArray[np.floating]:
        """Convert coordinates in `pixels` (from the image's edge, as MTCNN's) to those in the whole image."""
        return points * self.reduced

    def here(self, points: NDArray[np.floating]) -> NDArray[np.floating]:
        """Convert coordinates in the whole image to those in `pixels`."""
        return points / self.reduced


def reduction(min_face_size: int) -> int:
    """The factor (1, 2, 4 or 8) by which a JPEG may be reduced when faces below `min_face_size` pixels do not count."""
    return next(by for by in (8, 4, 2, 1) if by == 1 or min_face_size >= by * _ENOUGH)


class Aligner:
    """Align rows of one dataset with one detector.

    Memory: what is known of the rows that are being aligned, not of the others.
    """

    def __init__(self, source: FaceDataset, detector: Detector, config: AlignConfig) -> None:
        """`source` is the dataset of pictures; `detector` is shared by the threads."""
        self._source, self._detector, self._config = source, detector, config
        self._reduce = reduction(detector.settings.min_face_size)
        self._reduced = detector.looking_for(detector.settings.min_face_size // self._reduce)
        self._annotations: dict[int, NDArray[np.float64]] = {}
        self._places: dict[int, Place] = {}

    def align(self, rows: Sequence[int], pool: ThreadPoolExecutor, tell: Callable[[int], None]) -> list[Result]:
        """Align rows in the threads of `pool`; return one result per row, in order.

        `tell` is called with the number of rows of each finished chunk.
        """
        self._learn(rows)
        chunks = [rows[at : at + CHUNK] for at in range(0, len(rows), CHUNK)]
        results: list[Result] = []
        for chunk, found in zip(chunks, pool.map(self._detect, chunks), strict=True):
            results += found
            tell(len(chunk))
        if self._config.anchor == "rig":
            anchors = self._known(rows, results)
            missing = [
                at
                for at, result in enumerate(results)
                if isinstance(result, Rejection) and result.code is Reason.NO_FACE
            ]
            again = pool.map(lambda at: self._anchored(rows[at], anchors), missing)
            for at, result in zip(missing, again, strict=True):
                results[at] = result or results[at]
        return results

    def _learn(self, rows: Sequence[int]) -> None:
        """Read what the dataset says about these rows, and forget what it says about others."""
        points = self._source.values("landmarks", rows)
        self._annotations = {
            row: np.array(own, np.float64).reshape(5, 2)
            for row, own in zip(rows, points, strict=True)
            if own is not None
        }
        self._places = {}
        if self._config.anchor == "rig":
            table = self._source.take(("identity", "resolution", "camera", "accessory", "expression"), rows)
            columns = [column.to_pylist() for column in table.columns]
            places = zip(rows, zip(*columns, strict=True), strict=True)
            self._places = {row: Place(*names) for row, names in places if None not in names}

    def _detect(self, rows: Sequence[int]) -> list[Result]:
        results: dict[int, Result] = {}
        for group in self._groups(rows, results):
            detector = self._reduced if group[0][1].reduced > 1 else self._detector
            found = detector.detect([photo.pixels for _, photo in group])
            for (row, photo), faces in zip(group, found, strict=True):
                results[row] = self._chosen(row, photo, faces)
        return [results[row] for row in rows]

    def _groups(self, rows: Sequence[int], results: dict[int, Result]) -> Iterator[list[tuple[int, Photo]]]:
        """Yield decoded images in groups of bounded size and equal reduction; put rejections into `results`."""
        group: list[tuple[int, Photo]] = []
        pixels = 0
        for row in rows:
            try:
                photo = self._decode(row)
            except InputError as error:
                results[row] = Rejection.from_error(error)
                continue
            size = photo.pixels.size // 3
            if group and (pixels + size > _PIXELS or photo.reduced != group[0][1].reduced):
                yield group
                group, pixels = [], 0
            group.append((row, photo))
            pixels += size
        if group:
            yield group

    def _decode(self, row: int) -> Photo:
        pixels, info = decode(self._source.read(row), reduce=self._reduce)
        long = max(info.width, info.height)
        height, width = pixels.shape[:2]
        if max(height, width) == long:
            return Photo(pixels, 1, width, height)
        upright = (
            (info.width, info.height) if (width > height) == (info.width > info.height) else (info.height, info.width)
        )
        return Photo(pixels, self._reduce, *upright)

    def _chosen(self, row: int, photo: Photo, faces: Faces) -> Result:
        settings = self._detector.settings
        if min(photo.height, photo.width) < settings.min_face_size:
            return Rejection(
                Reason.TOO_SMALL, f"{photo.width}x{photo.height} pixels hold no face of {settings.min_face_size}"
            )
        annotation = self._annotations.get(row) if settings.which == "annotated" else None
        where = None if annotation is None else photo.here(annotation)
        height, width = photo.pixels.shape[:2]
        try:
            best = choose(faces, settings.which, (width, height), where)
        except InputError as error:
            return Rejection.from_error(error)
        if best is None and len(faces):
            return Rejection(Reason.NO_FACE, f"none of the {len(faces)} faces found is where the annotation says")
        if best is None:
            return Rejection(Reason.NO_FACE, f"no face of at least {settings.min_face_size} pixels found")
        policy = "largest" if settings.which == "annotated" and annotation is None else settings.which
        facts = {"faces_found": len(faces), "face_choice": policy, "landmark_source": "detected"}
        return self._cut(photo, faces.boxes[best], faces.landmarks[best], float(faces.scores[best]), facts)

    def _cut(
        self,
        photo: Photo,
        box: NDArray[np.floating],
        landmarks: NDArray[np.floating],
        score: float,
        facts: dict[str, Any],
    ) -> Result:
        """Cut out the face at the landmarks (in `photo.pixels`); its figures are those in the whole image."""
        between = eye_distance(landmarks) * photo.reduced
        if between < self._config.min_eyes:
            return Rejection(
                Reason.TOO_SMALL, f"{between:.1f} pixels between the eyes, expected {self._config.min_eyes:g}"
            )
        try:
            face = crop_box(photo.pixels, box) if self._config.crop == "box" else align_face(photo.pixels, landmarks)
        except InputError as error:
            return Rejection.from_error(error)
        figures = {
            "box": photo.whole(box).tolist(),
            "landmarks": photo.whole(landmarks).ravel().tolist(),
            "detection_score": score,
            "eye_distance": between,
            "yaw": estimated_yaw(landmarks),
            **picture_quality(face),
        }
        if self._config.stored_as == "jpeg":
            return Found(encode_jpeg(face), "jpg", facts | figures)
        return Found(encode_png(face), "png", facts | figures)

    def _known(self, rows: Sequence[int], results: Sequence[Result]) -> Anchors:
        anchors = Anchors()
        for row, result in zip(rows, results, strict=True):
            place, annotation = self._places.get(row), self._annotations.get(row)
            if place is None:
                continue
            if annotation is not None:
                anchors.add_annotated(place, annotation)
            if isinstance(result, Found):
                anchors.add_detected(place, np.array(result.facts["landmarks"]).reshape(5, 2))
        return anchors

    def _anchored(self, row: int, anchors: Anchors) -> Result | None:
        """The face of a row in which none was detected, at annotated landmarks or at those of other pictures of the view.

        None when there are no such landmarks.
        """
        own, place = self._annotations.get(row), self._places.get(row)
        landmarks = own if own is not None else anchors.landmarks(place) if place is not None else None
        if landmarks is None:
            return None
        image, _ = decode(self._source.read(row))  # `_groups` decoded it before
        score = likeness(self._detector, image, landmarks)
        origin = "annotated" if own is not None else "anchored"
        if score < LIKENESS:
            return Rejection(
                Reason.NO_FACE, f"no face found, and none at the {origin} landmarks (likeness {score:.2f})"
            )
        facts = {"faces_found": 0, "face_choice": origin, "landmark_source": origin}
        photo = Photo(image, 1, image.shape[1], image.shape[0])
        return self._cut(photo, face_box(landmarks), np.asarray(landmarks, np.float32), score, facts)

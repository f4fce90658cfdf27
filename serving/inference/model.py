"""The served model: from encoded bytes to an embedding, and from two embeddings to a verdict.

The stages are decode, detect, choose, align and embed, with the functions that prepared the training data, configured by
the package's embedding contract.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from eolgul.artifact import recipe_digest
from eolgul.errors import InputError
from eolgul.faces.choose import choose
from eolgul.faces.mtcnn import Detector, Faces
from eolgul.faces.quality import (
    defects,
    estimated_roll,
    estimated_yaw,
    eye_distance,
    picture_quality,
    pixels_inside,
    share_outside,
)
from eolgul.faces.template import align_face
from eolgul.model.package import ModelPackage
from eolgul.model.recognizer import Recognizer
from eolgul.model.region import REASONS, Reason
from eolgul.registry.signing import TrustedKeys
from eolgul.serving import metrics
from eolgul.serving.inference.batching import faster_batch
from eolgul.serving.inference.decode import Picture, decode
from eolgul.serving.metrics import stage
from eolgul.serving.settings import Settings

_EYES = "inter_eye_distance"
_NO_FACE = "no face was found in the image"
Points = tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class Face:
    """A face, in pixels of the upright image.

    Attributes:
        box: x1, y1, x2, y2.
        detection_score: 0 to 1.
        landmarks: (x, y) of the eyes, the nose and the mouth corners.
        quality: By name, as in `eolgul.client.answers.FaceQuality`; `norm` is missing where it is unknown.
        reasons: Why the face lies outside the region in which the calibration holds; empty where it does not, or where the
            rule is off or the region unknown.
    """

    box: tuple[float, float, float, float]
    detection_score: float
    landmarks: Points
    quality: dict[str, float] = field(default_factory=dict)
    reasons: tuple[Reason, ...] = ()


@dataclass(frozen=True, slots=True)
class Analysis:
    """The result for one image: unit embedding (float32), chosen face, number of faces, size of the upright image."""

    embedding: NDArray[np.float32]
    face: Face
    faces: int
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Detection:
    """Every face of one image, highest score first.

    Attributes:
        faces: The faces.
        aligned: Each face as the recognizer sees it, uint8 RGB, 112 x 112 x 3.
        chosen: The index that the model's policy chooses; None if it chooses none.
        width: Of the upright image, in pixels.
        height: Of the upright image, in pixels.
    """

    faces: tuple[Face, ...]
    aligned: tuple[NDArray[np.uint8], ...]
    chosen: int | None
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a cosine similarity means.

    Attributes:
        word: `same` above the 95 % interval of the calibrated threshold, `different` below it, `undecided` inside it, where
            the calibration people cannot show on which side the threshold lies, or with `reasons`.
        same_at_threshold: Whether the similarity reaches the threshold itself.
        similarity: The cosine.
        false_match_rate: Share of pairs of strangers that score at least this similarity, not below the floor that the
            calibration data supports. None with `reasons`, and so are the next two: the calibration holds for other photos.
        false_match_rate_interval: The calibration's interval; None in files of older versions.
        log_likelihood_ratio: Natural logarithm; None in files of older versions.
        reasons: (name of a photo, why it lies outside the region in which the calibration holds), most severe first.
    """

    word: Literal["same", "different", "undecided"]
    same_at_threshold: bool
    similarity: float
    false_match_rate: float | None
    false_match_rate_interval: tuple[float, float] | None
    log_likelihood_ratio: float | None
    reasons: tuple[tuple[str, Reason], ...] = ()


class ServedModel:
    """A model package that is loaded and ready. Several threads may share it; a request never creates one."""

    def __init__(self, package: ModelPackage, settings: Settings) -> None:
        """Load and warm the networks. InputError if the package has no calibration or cannot be used."""
        package.check_served()
        calibration = package.calibration()
        if calibration is None:
            raise InputError(
                f"{package.path}: has no calibration.json, which holds the threshold of the verdicts; "
                "run `eolgul evaluate` and `eolgul promote` first"
            )
        self.package = package
        self.digest = package.digest
        self.contract_digest = recipe_digest(package.contract.to_json())
        self.calibration = calibration
        self._max_pixels, self._max_faces = settings.max_image_pixels, settings.max_faces
        self._undecided = settings.undecided
        self._region = calibration.region if settings.quality_rule else None
        self.quality_rule: Literal["on", "off", "unknown"] = (
            "off" if not settings.quality_rule else "unknown" if calibration.region is None else "on"
        )
        detector = package.contract.detector
        self._which, self._smallest = detector.which, detector.min_face_size
        self._detector = Detector.from_onnx(package.path / "detector", detector, settings.threads)
        self._recognizer = Recognizer.from_package(package, threads=settings.threads, providers=settings.providers)
        self._warm_up()
        self._at_once = settings.embed_batch or faster_batch(
            self._recognizer.embed, package.contract.size, settings.max_batch
        )

    @property
    def policy(self) -> str:
        """Which face of several the model takes, one of `eolgul.model.package.POLICIES`."""
        return self._which

    @property
    def synthetic(self) -> bool:
        """Whether drawn people were among the training data."""
        return self.package.artifact.synthetic

    def analyse(self, data: bytes) -> tuple[Analysis, dict[str, float]]:
        """Analyse one encoded image. It blocks, so call it in a worker thread.

        Returns:
            The analysis, and the milliseconds per stage.

        Raises:
            InputError: `not_an_image`, `unsupported_format`, `too_large`, `too_small`, `no_face` or `several_faces`.
        """
        [(result, timings)] = self.analyse_many([data])
        if isinstance(result, InputError):
            raise result
        return result, timings

    def analyse_many(self, batch: Sequence[bytes]) -> list[tuple[Analysis | InputError, dict[str, float]]]:
        """Analyse encoded images with one run of the networks for all. It blocks, so call it in a worker thread.

        Returns:
            For each image its analysis, or the InputError that prevents it, and the milliseconds per stage; the time of the
            networks is divided equally among the images.
        """
        results: list[Analysis | InputError | None] = [None] * len(batch)
        timings: list[dict[str, float]] = [{} for _ in batch]
        pictures: dict[int, Picture] = {}
        for index, data in enumerate(batch):
            try:
                with stage("decode", timings[index]):
                    pictures[index] = self._decode(data)
            except InputError as error:
                results[index] = error
        shared: dict[str, float] = {}
        with stage("detect", shared, len(pictures)):
            detected = dict(
                zip(pictures, self._detector.detect([item.pixels for item in pictures.values()]), strict=True)
            )
        aligned: dict[int, tuple[Face, NDArray[np.uint8]]] = {}
        for index, faces in detected.items():
            metrics.FACES.observe(len(faces))
            try:
                aligned[index] = self._align(pictures[index], faces)
            except InputError as error:
                results[index] = error
        if aligned:
            with stage("embed", shared, len(aligned)):
                crops = np.stack([crop for _, crop in aligned.values()])
                embeddings, norms = self._embed(crops)
            for (index, (face, _)), embedding, norm in zip(aligned.items(), embeddings, norms, strict=True):
                picture = pictures[index]
                judged = self._judged(_with_norm(face, norm))
                results[index] = Analysis(embedding, judged, len(detected[index]), picture.width, picture.height)
        for index in pictures:
            timings[index]["detect"] = shared["detect"] / len(pictures)
            if index in aligned:
                timings[index]["embed"] = shared["embed"] / len(aligned)
        return [(result, timing) for result, timing in zip(results, timings, strict=True) if result is not None]

    def analyse_faces(self, data: bytes) -> tuple[tuple[Analysis, ...], dict[str, float]]:
        """Analyse every face of one encoded image, the largest first. It blocks, as `analyse` does.

        Raises:
            InputError: As `analyse`, but never `several_faces`; `too_many_faces` beyond `EOLGUL_MAX_FACES`.
        """
        timings: dict[str, float] = {}
        with stage("decode", timings):
            picture = self._decode(data)
        with stage("detect", timings):
            faces = self._detector.detect([picture.pixels])[0]
        metrics.FACES.observe(len(faces))
        if not len(faces):
            raise InputError(_NO_FACE, "no_face")
        if len(faces) > self._max_faces:
            raise InputError(f"{len(faces)} faces found, expected at most {self._max_faces}", "too_many_faces")
        order = np.argsort(-(faces.boxes[:, 2:] - faces.boxes[:, :2]).prod(axis=1), kind="stable").tolist()
        with stage("embed", timings):
            crops = np.stack([align_face(picture.pixels, faces.landmarks[row]) for row in order])
            embeddings, norms = self._embed(crops)
        found = []
        for row, crop, embedding, norm in zip(order, crops, embeddings, norms, strict=True):
            face = self._judged(_with_norm(_face(faces, row, crop, picture), norm))
            found.append(Analysis(embedding, face, len(faces), picture.width, picture.height))
        return tuple(found), timings

    def detect(self, data: bytes) -> tuple[Detection, dict[str, float]]:
        """Find every face of one encoded image; an image without faces is not an error. It blocks, as `analyse` does.

        Raises:
            InputError: `not_an_image`, `unsupported_format`, `too_large` or `too_small`.
        """
        timings: dict[str, float] = {}
        with stage("decode", timings):
            picture = self._decode(data)
        pixels = picture.pixels
        with stage("detect", timings):
            faces = self._detector.detect([pixels])[0]
        metrics.FACES.observe(len(faces))
        try:
            chosen = choose(faces, self._which, (pixels.shape[1], pixels.shape[0]))
        except InputError:  # the policy refuses several faces: an error for verify, but not for detect
            chosen = None
        aligned = tuple(align_face(pixels, faces.landmarks[row]) for row in range(len(faces)))
        shown = tuple(self._judged(_face(faces, row, crop, picture)) for row, crop in enumerate(aligned))
        return Detection(shown, aligned, chosen, picture.width, picture.height), timings

    def verify(self, left: Analysis, right: Analysis, names: tuple[str, str] = ("image1", "image2")) -> Verdict:
        """The verdict on two photos that this model analysed; `names` are those of the photos in the verdict's reasons."""
        similarity = float(np.clip(left.embedding @ right.embedding, -1.0, 1.0))
        return self.judge(similarity, {names[0]: left.face.reasons, names[1]: right.face.reasons})

    def compare(self, left: NDArray[np.float32], right: NDArray[np.float32]) -> Verdict:
        """The verdict on two unit embeddings (float32), whose photos the caller knows to be good enough and of this model."""
        return self.judge(float(np.clip(left @ right, -1.0, 1.0)))

    def judge(
        self, similarity: float, reasons: Mapping[str, Sequence[Reason]] | None = None, *, known: bool = True
    ) -> Verdict:
        """The verdict on a cosine similarity.

        Args:
            similarity: The cosine.
            reasons: Why photos, by name, lie outside the region in which the calibration holds (`Face.reasons`).
            known: Whether the quality of both photos is known. If not, nothing says that the calibration holds for them.
        """
        calibration = self.calibration
        low, high = calibration.threshold_interval
        same = calibration.same(similarity)
        found = [(image, reason) for image, of_image in (reasons or {}).items() for reason in of_image]
        if found or not known:
            found.sort(key=lambda one: REASONS.index(one[1]))
            return Verdict("undecided", same, similarity, None, None, None, tuple(found))
        undecided = self._undecided and low <= similarity < high
        return Verdict(
            "undecided" if undecided else "same" if same else "different",
            same,
            similarity,
            calibration.fmr_at(similarity),
            calibration.fmr_interval_at(similarity),
            None if calibration.llr is None else calibration.llr.at(similarity),
        )

    def _decode(self, data: bytes) -> Picture:
        picture = decode(data, max_pixels=self._max_pixels)
        if min(picture.pixels.shape[:2]) < self._smallest:
            raise InputError(
                f"the image has {picture.width}x{picture.height} pixels; a face needs {self._smallest} on each side",
                "too_small",
            )
        return picture

    def _align(self, picture: Picture, faces: Faces) -> tuple[Face, NDArray[np.uint8]]:
        pixels = picture.pixels
        height, width = pixels.shape[:2]
        chosen = choose(faces, self._which, (width, height))
        if chosen is None:
            raise InputError(_NO_FACE, "no_face")
        aligned = align_face(pixels, faces.landmarks[chosen])
        return _face(faces, chosen, aligned, picture), aligned

    def judge_quality(self, analysis: Analysis) -> Analysis:
        """An analysis from the cache, judged by the rule of now: it may have been switched on or off since."""
        return replace(analysis, face=self._judged(analysis.face))

    def _judged(self, face: Face) -> Face:
        """The face with the reasons why it lies outside the region."""
        return replace(face, reasons=self.reasons(face.quality | {"detection_score": face.detection_score}))

    def reasons(self, quality: Mapping[str, float]) -> tuple[Reason, ...]:
        """Why a face of this quality lies outside the region; empty where the rule is off or the region unknown."""
        if self._region is None:
            return ()
        return self._region.reasons(
            {"eye_distance" if name == _EYES else name: value for name, value in quality.items()}
        )

    def knows(self, quality: Mapping[str, float]) -> bool:
        """Whether this quality says whether a face lies inside the region: it has every figure that the region limits."""
        names = {"eye_distance" if name == _EYES else name for name, value in quality.items() if np.isfinite(value)}
        return self._region is None or self._region.limits.keys() <= names

    def _embed(self, crops: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        parts = [
            self._recognizer.embed_with_norms(crops[start : start + self._at_once])
            for start in range(0, len(crops), self._at_once)
        ]
        return np.concatenate([embeddings for embeddings, _ in parts]), np.concatenate([norms for _, norms in parts])

    def _warm_up(self) -> None:
        """Run every network once, so that the first request does not wait for memory allocation and kernel setup."""
        noise = np.random.default_rng(0).integers(0, 256, (160, 160, 3), np.uint8)
        size = self.package.contract.size
        self._detector.detect([noise])
        embedding = self._recognizer.embed(np.ascontiguousarray(noise[np.newaxis, :size, :size]))
        if embedding.shape != (1, self.package.embedding_size):
            raise InputError(
                f"{self.package.path}: embeddings have {embedding.shape[1]} numbers, "
                f"expected {self.package.embedding_size} as in config.json"
            )


def _with_norm(face: Face, norm: float) -> Face:
    """The face with the length of its embedding, where the network gives one."""
    return replace(face, quality=face.quality | ({"norm": float(norm)} if np.isfinite(norm) else {}))


def _face(faces: Faces, row: int, aligned: NDArray[np.uint8], picture: Picture) -> Face:
    """A face in pixels of the image, of which `picture.pixels` may be a smaller version."""
    scale, size = picture.scale, (picture.pixels.shape[1], picture.pixels.shape[0])
    x1, y1, x2, y2 = (float(value) * scale for value in faces.boxes[row])
    points = faces.landmarks[row] * scale
    inside = pixels_inside(faces.landmarks[row], size)
    quality = picture_quality(aligned, inside) | defects(aligned, inside)
    quality |= {
        "cut": share_outside(faces.landmarks[row], size),
        "yaw": estimated_yaw(points),
        "roll": estimated_roll(points),
        _EYES: eye_distance(points),
    }
    landmarks = tuple((float(x), float(y)) for x, y in points)
    return Face((x1, y1, x2, y2), float(faces.scores[row]), landmarks, quality)


def open_package(settings: Settings) -> ModelPackage:
    """Open the package to serve, with its files verified: the folder `EOLGUL_MODEL` or the registry's production model.

    Raises:
        InputError: The package, or a setting, is missing or not valid.
    """
    settings.source()  # raises if the settings name no model or two
    if settings.model is not None:
        return ModelPackage.open(settings.model)
    from eolgul.registry import store as registry

    production = registry.read_production(settings.registry)
    if production is None:
        raise InputError(f"{settings.registry}: no model has been promoted yet; run `eolgul promote`")
    return registry.download(settings.registry, production.digest, trusted_keys(settings))


def trusted_keys(settings: Settings) -> TrustedKeys | None:
    """The public keys for signatures of models; None if unsigned models are served.

    They are read at each use, so that a key can be added or revoked without a restart.
    """
    return TrustedKeys.read(settings.trusted_keys_file) if settings.trusted_keys_file else None

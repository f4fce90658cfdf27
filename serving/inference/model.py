"""The served model: from encoded bytes to an embedding, and from two embeddings to a verdict.

decode → detect → choose → align → embed, each the same function that prepared the training data, each as the package's
embedding contract says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from eolgul.artifact import recipe_digest
from eolgul.errors import InputError
from eolgul.faces.choose import choose
from eolgul.faces.mtcnn import Detector, Faces
from eolgul.faces.quality import estimated_yaw, eye_distance, picture_quality
from eolgul.faces.template import align_face
from eolgul.model.package import ModelPackage
from eolgul.model.recognizer import Recognizer
from eolgul.registry.signing import TrustedKeys
from eolgul.serving import metrics
from eolgul.serving.inference.decode import decode
from eolgul.serving.metrics import stage
from eolgul.serving.settings import Settings

Points = tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class Face:
    """A face, in pixels of the upright image: box x1, y1, x2, y2; eyes, nose, mouth corners; score 0–1.

    `quality`: sharpness, brightness, contrast (of the aligned face), yaw (degrees), inter_eye_distance (pixels).
    """

    box: tuple[float, float, float, float]
    detection_score: float
    landmarks: Points
    quality: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Analysis:
    """What the model makes of one image: a unit embedding, the chosen face, how many were found, the image's size."""

    embedding: NDArray[np.float32]
    face: Face
    faces: int
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Detection:
    """Every face of one image, best score first; `chosen` is the row that the model's policy takes, None without one.

    `aligned` are the faces as the recognizer would see them, uint8 RGB 112 x 112 x 3 each.
    """

    faces: tuple[Face, ...]
    aligned: tuple[NDArray[np.uint8], ...]
    chosen: int | None
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a cosine `similarity` means.

    `word` is `same` above the 95 % interval of the calibrated threshold, `different` below it, and `undecided` inside,
    where the calibration people cannot tell on which side the threshold lies. `same_at_threshold` is the plain test.
    `false_match_rate` is the share of pairs of strangers that score at least this similarity, never less than the floor
    that the calibration data supports; its interval is the calibration's, None
    in files of older versions, as is the log-likelihood ratio.
    """

    word: Literal["same", "different", "undecided"]
    same_at_threshold: bool
    similarity: float
    false_match_rate: float
    false_match_rate_interval: tuple[float, float] | None
    log_likelihood_ratio: float | None


class ServedModel:
    """A package made ready to answer. Safe to use from several threads; a request never builds one."""

    def __init__(self, package: ModelPackage, settings: Settings) -> None:
        """Load and warm the networks. InputError when the package has no calibration or cannot be used."""
        calibration = package.calibration()
        if calibration is None:
            raise InputError(
                f"{package.path}: has no calibration.json, so there is no threshold to answer with; "
                "run `eolgul evaluate` and `eolgul promote` first"
            )
        self.package = package
        self.digest = package.digest
        self.contract_digest = recipe_digest(package.contract.to_json())
        self.calibration = calibration
        self._max_pixels = settings.max_image_pixels
        self._undecided = settings.undecided
        detector = package.contract.detector
        self._which, self._smallest = detector.which, detector.min_face_size
        self._detector = Detector.from_onnx(package.path / "detector", detector, settings.threads)
        self._recognizer = Recognizer.from_package(package, threads=settings.threads, providers=settings.providers)
        self._warm_up()

    @property
    def synthetic(self) -> bool:
        """Whether drawn people were among the training data."""
        return self.package.artifact.synthetic

    def analyse(self, data: bytes) -> tuple[Analysis, dict[str, float]]:
        """Encoded image → analysis and the milliseconds of each stage. Blocks: call it in a worker thread.

        InputError: `not_an_image`, `unsupported_format`, `too_large`, `too_small`, `no_face`, `several_faces`.
        """
        [(result, timings)] = self.analyse_many([data])
        if isinstance(result, InputError):
            raise result
        return result, timings

    def analyse_many(self, batch: Sequence[bytes]) -> list[tuple[Analysis | InputError, dict[str, float]]]:
        """Each encoded image's analysis, or why it has none, with the milliseconds of each stage; networks run on all
        images together, and an image is charged its share of theirs. Blocks: call it in a worker thread."""
        results: list[Analysis | InputError | None] = [None] * len(batch)
        timings: list[dict[str, float]] = [{} for _ in batch]
        pictures: dict[int, NDArray[np.uint8]] = {}
        for place, data in enumerate(batch):
            try:
                with stage("decode", timings[place]):
                    pictures[place] = self._decode(data)
            except InputError as error:
                results[place] = error
        shared: dict[str, float] = {}
        with stage("detect", shared, len(pictures)):
            found = dict(zip(pictures, self._detector.detect(list(pictures.values())), strict=True))
        aligned: dict[int, tuple[Face, NDArray[np.uint8]]] = {}
        for place, faces in found.items():
            metrics.FACES.observe(len(faces))
            try:
                aligned[place] = self._aligned(pictures[place], faces)
            except InputError as error:
                results[place] = error
        if aligned:
            with stage("embed", shared, len(aligned)):
                embeddings = self._recognizer.embed(np.stack([picture for _, picture in aligned.values()]))
            for (place, (face, _)), embedding in zip(aligned.items(), embeddings, strict=True):
                height, width = pictures[place].shape[:2]
                results[place] = Analysis(embedding, face, len(found[place]), width, height)
        for place in pictures:
            timings[place]["detect"] = shared["detect"] / len(pictures)
            if place in aligned:
                timings[place]["embed"] = shared["embed"] / len(aligned)
        return [(result, timing) for result, timing in zip(results, timings, strict=True) if result is not None]

    def detect(self, data: bytes) -> tuple[Detection, dict[str, float]]:
        """Encoded image → every face in it; none is no error. Blocks. InputError as of `analyse`, but for the faces."""
        timings: dict[str, float] = {}
        with stage("decode", timings):
            pixels = self._decode(data)
        with stage("detect", timings):
            faces = self._detector.detect([pixels])[0]
        metrics.FACES.observe(len(faces))
        height, width = pixels.shape[:2]
        try:
            chosen = choose(faces, self._which, (width, height))
        except InputError:  # the policy takes no one of several: that is verify's answer, not a fault here
            chosen = None
        aligned = tuple(align_face(pixels, faces.landmarks[row]) for row in range(len(faces)))
        shown = tuple(_face(faces, row, crop) for row, crop in enumerate(aligned))
        return Detection(shown, aligned, chosen, width, height), timings

    def compare(self, left: NDArray[np.float32], right: NDArray[np.float32]) -> Verdict:
        """The verdict on two embeddings made by this model (the caller sees to that)."""
        return self.judge(float(np.clip(left @ right, -1.0, 1.0)))

    def judge(self, similarity: float) -> Verdict:
        """The verdict on a cosine similarity."""
        calibration = self.calibration
        low, high = calibration.threshold_interval
        same = calibration.same(similarity)
        undecided = self._undecided and low <= similarity < high
        return Verdict(
            "undecided" if undecided else "same" if same else "different",
            same,
            similarity,
            calibration.fmr_at(similarity),
            calibration.fmr_interval_at(similarity),
            None if calibration.llr is None else calibration.llr.at(similarity),
        )

    def _decode(self, data: bytes) -> NDArray[np.uint8]:
        pixels = decode(data, max_pixels=self._max_pixels)
        height, width = pixels.shape[:2]
        if min(width, height) < self._smallest:
            raise InputError(
                f"the image has {width}x{height} pixels; a face needs {self._smallest} on each side", "too_small"
            )
        return pixels

    def _aligned(self, pixels: NDArray[np.uint8], faces: Faces) -> tuple[Face, NDArray[np.uint8]]:
        height, width = pixels.shape[:2]
        chosen = choose(faces, self._which, (width, height))
        if chosen is None:
            raise InputError("no face was found in the image", "no_face")
        aligned = align_face(pixels, faces.landmarks[chosen])
        return _face(faces, chosen, aligned), aligned

    def _warm_up(self) -> None:
        """Run every network once, so that the first request does not pay for memory arenas and lazy kernels."""
        noise = np.random.default_rng(0).integers(0, 256, (160, 160, 3), np.uint8)
        size = self.package.contract.size
        self._detector.detect([noise])
        embedding = self._recognizer.embed(np.ascontiguousarray(noise[np.newaxis, :size, :size]))
        if embedding.shape != (1, self.package.embedding_size):
            raise InputError(
                f"{self.package.path}: config.json says {self.package.embedding_size} numbers an embedding, "
                f"the network gives {embedding.shape[1]}"
            )


def _face(faces: Faces, row: int, aligned: NDArray[np.uint8]) -> Face:
    x1, y1, x2, y2 = (float(value) for value in faces.boxes[row])
    points = faces.landmarks[row]
    quality = picture_quality(aligned) | {
        "yaw": estimated_yaw(points),
        "inter_eye_distance": eye_distance(points),
    }
    landmarks = tuple((float(x), float(y)) for x, y in points)
    return Face((x1, y1, x2, y2), float(faces.scores[row]), landmarks, quality)


def open_package(settings: Settings) -> ModelPackage:
    """The package that should be served: `EOLGUL_MODEL`'s folder or the registry's production model, verified.

    InputError says in a sentence what is missing or wrong.
    """
    settings.source()  # refuses settings that name no place, or two
    if settings.model is not None:
        return ModelPackage.open(settings.model)
    from eolgul.registry import store as registry

    production = registry.read_production(settings.registry)
    if production is None:
        raise InputError(f"{settings.registry}: no model has been promoted yet; run `eolgul promote`")
    return registry.download(settings.registry, production.digest, trusted_keys(settings))


def trusted_keys(settings: Settings) -> TrustedKeys | None:
    """Read at each use, so that a key can be added or withdrawn without a restart. None where any model is served."""
    return TrustedKeys.read(settings.trusted_keys_file) if settings.trusted_keys_file else None

"""The served model: from encoded bytes to an embedding, and from two embeddings to a verdict.

decode → detect → choose → align → embed, each the same function that prepared the training data, each as the package's
embedding contract says.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eolgul.align.choose import choose
from eolgul.align.mtcnn import Detector
from eolgul.align.similarity import align_face
from eolgul.artifact import recipe_digest
from eolgul.errors import InputError
from eolgul.evaluate.calibration import Calibration
from eolgul.modelpackage import ModelPackage
from eolgul.recognizer import Recognizer
from serving import images
from serving.metrics import stage
from serving.settings import Settings

Points = tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class Face:
    """The chosen face, in pixels of the upright image: box x1, y1, x2, y2; eyes, nose, mouth corners; score 0–1."""

    box: tuple[float, float, float, float]
    detection_score: float
    landmarks: Points


@dataclass(frozen=True, slots=True)
class Analysis:
    """What the model makes of one image: a unit embedding, the chosen face, how many were found, the image's size."""

    embedding: NDArray[np.float32]
    face: Face
    faces: int
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """`same` when the cosine `similarity` reaches the calibrated `threshold`; `false_match_rate` is the share of pairs
    of strangers that score at least this similarity, never less than the floor that the calibration data supports."""

    same: bool
    similarity: float
    threshold: float
    false_match_rate: float
    false_match_rate_floor: float

    @property
    def word(self) -> str:
        return "same" if self.same else "different"


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
        self.calibration = Calibration.from_json(calibration)
        self._max_pixels = settings.max_image_pixels
        detector = package.contract.detector
        self._which, self._smallest = detector.which, detector.min_face_size
        self._detector = Detector.from_onnx(package.path / "detector", detector, settings.threads)
        self._recognizer = Recognizer.of(package, threads=settings.threads)
        self._warm_up()

    @property
    def synthetic(self) -> bool:
        """Whether drawn people were among the training data."""
        return self.package.artifact.synthetic

    def analyse(self, data: bytes) -> tuple[Analysis, dict[str, float]]:
        """Encoded image → analysis and the milliseconds of each stage. Blocks: call it in a worker thread.

        InputError: `not_an_image`, `unsupported_format`, `too_large`, `too_small`, `no_face`, `several_faces`.
        """
        timings: dict[str, float] = {}
        with stage("decode", timings):
            pixels = images.decode(data, max_pixels=self._max_pixels)
        height, width = pixels.shape[:2]
        if min(width, height) < self._smallest:
            raise InputError(
                f"the image has {width}x{height} pixels; a face needs {self._smallest} on each side", "too_small"
            )
        with stage("detect", timings):
            faces = self._detector.detect([pixels])[0]
            chosen = choose(faces, self._which, (width, height))
        if chosen is None:
            raise InputError("no face was found in the image", "no_face")
        with stage("embed", timings):
            aligned = align_face(pixels, faces.landmarks[chosen])
            embedding = self._recognizer.embed(aligned[np.newaxis])[0]
        x1, y1, x2, y2 = (float(value) for value in faces.boxes[chosen])
        landmarks = tuple((float(x), float(y)) for x, y in faces.landmarks[chosen])
        face = Face((x1, y1, x2, y2), float(faces.scores[chosen]), landmarks)
        return Analysis(embedding, face, len(faces), width, height), timings

    def compare(self, left: Analysis, right: Analysis) -> Verdict:
        """The verdict on two analyses made by this model (the caller sees to that)."""
        similarity = float(np.clip(left.embedding @ right.embedding, -1.0, 1.0))
        calibration = self.calibration
        return Verdict(
            calibration.same(similarity),
            similarity,
            calibration.threshold,
            calibration.fmr_at(similarity),
            calibration.fmr_floor,
        )

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


def open_package(settings: Settings) -> ModelPackage:
    """The package that should be served: `EOLGUL_MODEL`'s folder or the registry's production model, verified.

    InputError says in a sentence what is missing or wrong.
    """
    settings.source()  # refuses settings that name no place, or two
    if settings.model is not None:
        return ModelPackage.open(settings.model)
    from eolgul import registry

    production = registry.read_production(settings.registry)
    if production is None:
        raise InputError(f"{settings.registry}: no model has been promoted yet; run `eolgul promote`")
    return registry.download(settings.registry, production.digest)

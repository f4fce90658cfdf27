"""ModelPackage: a trained model with everything that its use needs; its digest is its identity everywhere.

`model.onnx`, `config.json` (backbone and embedding contract), `detector/` (the MTCNN networks as ONNX), `training.json`,
`CARD.md`, `manifest.json` (the card: every file's sha256); `model.safetensors`, unless the model was imported as ONNX; after
promotion `calibration.json` and `evaluation/`. Read without torch.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from eolgul.artifact import Artifact, open_artifact
from eolgul.errors import InputError
from eolgul.model.calibration import Calibration

FLIPS = ("sum", "none")
SIZE = 112  # height and width of an aligned face
TEMPLATE_NAME = "arcface-112-v1"  # the alignment whose points are in eolgul.faces.template
POLICIES = ("largest", "center", "annotated", "single")  # which face of several counts


@dataclass(frozen=True, slots=True)
class DetectorSettings:
    """How faces are found: smallest face side in pixels, MTCNN's three score thresholds, pyramid factor, which face."""

    min_face_size: int = 40
    thresholds: tuple[float, float, float] = (0.6, 0.7, 0.7)
    factor: float = 0.709
    which: str = "largest"


@dataclass(frozen=True, slots=True)
class EmbeddingContract:
    """How pixels become comparable embeddings. Embeddings of two models with the same contract are not comparable.

    The network's input is float32 N x 3 x size x size, channels in `color` order, `(pixel - mean) / std` of uint8
    pixels. `flip` "sum" adds the mirror image's embedding before the L2 normalisation, "none" does not.
    """

    version: int = 1
    color: str = "RGB"
    size: int = 112
    mean: float = 127.5
    std: float = 127.5
    template: str = TEMPLATE_NAME
    flip: str = "sum"
    detector: DetectorSettings = DetectorSettings()

    def output(self) -> str:
        """What an embedding is, in a sentence for model cards."""
        mirror = " plus that of its mirror image" if self.flip == "sum" else ""
        return f"The embedding of the image{mirror} (flip: {self.flip}), L2-normalised. Compare by cosine."

    @classmethod
    def from_json(cls, value: dict[str, Any], where: str) -> Self:
        """Read a contract as `config.json` holds it.

        Raises:
            InputError: A key is unknown, or this version does not support a value; the message names `where`.
        """
        try:
            detector = dict(value["detector"])
            detector["thresholds"] = tuple(detector["thresholds"])
            contract = cls(**{**value, "detector": DetectorSettings(**detector)})
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{where}: not an embedding contract ({error})") from error
        numbers = (contract.size, contract.mean, contract.std)
        if not all(type(number) in (int, float) and math.isfinite(number) for number in numbers) or contract.std == 0:
            raise InputError(f"{where}: expected numbers as size, mean and std, and std not 0")
        if contract.version != 1 or contract.color not in ("RGB", "BGR") or contract.flip not in FLIPS:
            raise InputError(f"{where}: expected contract version 1, colour RGB or BGR, flip sum or none")
        return contract

    def to_json(self) -> dict[str, Any]:
        """The contract as `config.json` holds it."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class ModelPackage:
    """An opened package. `digest` is the sha256 of its manifest.json."""

    artifact: Artifact
    backbone: str
    embedding_size: int
    contract: EmbeddingContract
    batch_norm_epsilon: float | None = None  # where config.json says it, for further training

    @classmethod
    def open(cls, path: Path, *, check: str = "sha256") -> Self:
        """Open and check a package on the local disk.

        Args:
            path: Its folder.
            check: How files are checked, as for `eolgul.artifact.open_artifact`.

        Raises:
            InputError: A file is missing, changed or malformed; the message names it.
        """
        artifact = open_artifact(path, "ModelPackage", check=check)
        for name in ("model.onnx", "config.json", "detector/pnet.onnx", "detector/rnet.onnx", "detector/onet.onnx"):
            if name not in artifact.card["files"]:
                raise InputError(f"{path / name}: missing, expected in a model package")
        where = str(path / "config.json")
        try:
            config = json.loads((path / "config.json").read_bytes())
            return cls(
                artifact,
                str(config["backbone"]),
                int(config["embedding_size"]),
                EmbeddingContract.from_json(config["contract"], where),
                None if (epsilon := config.get("batch_norm_epsilon")) is None else float(epsilon),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{where}: expected backbone, embedding_size and contract ({error})") from error

    @property
    def path(self) -> Path:
        """The package's folder."""
        return self.artifact.path

    @property
    def digest(self) -> str:
        """The sha256 of manifest.json."""
        return self.artifact.digest

    def check_served(self) -> None:
        """Check that the service cuts faces out as this model saw them.

        Raises:
            InputError: It learned from faces that were cut out in another way.
        """
        if self.contract.template != TEMPLATE_NAME:
            raise InputError(
                f"{self.path}: sees faces aligned to {self.contract.template}, but the service aligns them to "
                f"{TEMPLATE_NAME}; train on faces of eolgul align --crop similarity"
            )

    def calibration(self) -> Calibration | None:
        """Read `calibration.json`; None before promotion.

        Raises:
            InputError: The file is not what `eolgul evaluate` writes.
        """
        file = self.path / "calibration.json"
        if not file.is_file():
            return None
        try:
            return Calibration.from_json(json.loads(file.read_bytes()))
        except (InputError, ValueError) as error:
            raise InputError(f"{file}: {error}") from error

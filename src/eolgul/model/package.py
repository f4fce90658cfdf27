"""ModelPackage: a trained model with everything needed to use it, and a digest that is its identity everywhere.

`model.onnx` and `model.safetensors`, `config.json` (backbone and embedding contract), `detector/` (the MTCNN networks
as ONNX), `training.json`, `CARD.md`, `manifest.json` (the card: every file's sha256), and after promotion
`calibration.json` and `evaluation/`. Read without torch.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from eolgul.artifact import Artifact, open_artifact
from eolgul.errors import InputError

FLIPS = ("sum", "none")
POLICIES = ("largest", "center", "annotated", "single")  # which face of several counts


@dataclass(frozen=True, slots=True)
class DetectorSettings:
    """How faces are found: MTCNN's three score thresholds, smallest face side in pixels, pyramid factor, which face."""

    min_face_size: int = 40
    thresholds: tuple[float, float, float] = (0.6, 0.7, 0.7)
    factor: float = 0.709
    which: str = "largest"


@dataclass(frozen=True, slots=True)
class EmbeddingContract:
    """What must be done to pixels so that two embeddings may be compared. Two models with one contract still differ.

    The network's input is float32 N x 3 x size x size, channels in `color` order, `(pixel - mean) / std` of uint8
    pixels. `flip` "sum" adds the mirror image's embedding before the L2 normalisation, "none" does not.
    """

    version: int = 1
    color: str = "RGB"
    size: int = 112
    mean: float = 127.5
    std: float = 127.5
    template: str = "arcface-112-v1"
    flip: str = "sum"
    detector: DetectorSettings = DetectorSettings()

    @classmethod
    def from_json(cls, value: dict[str, Any], where: str) -> Self:
        """Read a contract from `config.json`; InputError for an unknown key or a value this version cannot honour."""
        try:
            detector = dict(value["detector"])
            detector["thresholds"] = tuple(detector["thresholds"])
            contract = cls(**{**value, "detector": DetectorSettings(**detector)})
        except (KeyError, TypeError) as error:
            raise InputError(f"{where}: not an embedding contract ({error})") from error
        if contract.version != 1 or contract.color not in ("RGB", "BGR") or contract.flip not in FLIPS:
            raise InputError(f"{where}: expected contract version 1, colour RGB or BGR, flip sum or none")
        return contract

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class ModelPackage:
    """An opened package. `digest` is the sha256 of its manifest.json."""

    artifact: Artifact
    backbone: str
    embedding_size: int
    contract: EmbeddingContract

    @classmethod
    def open(cls, path: Path, *, check: str = "sha256") -> Self:
        """Open and check a package on the local disk. InputError names the file that is missing, changed or malformed."""
        artifact = open_artifact(path, "ModelPackage", check=check)
        for name in ("model.onnx", "config.json", "detector/pnet.onnx", "detector/rnet.onnx", "detector/onet.onnx"):
            if name not in artifact.card["files"]:
                raise InputError(f"{path / name}: missing, a model package needs it")
        where = str(path / "config.json")
        try:
            config = json.loads((path / "config.json").read_bytes())
            return cls(
                artifact,
                str(config["backbone"]),
                int(config["embedding_size"]),
                EmbeddingContract.from_json(config["contract"], where),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{where}: expected backbone, embedding_size and contract ({error})") from error

    @property
    def path(self) -> Path:
        return self.artifact.path

    @property
    def digest(self) -> str:
        return self.artifact.digest

    def calibration(self) -> dict[str, Any] | None:
        """`calibration.json` as step 5 wrote it, None before promotion."""
        file = self.path / "calibration.json"
        return json.loads(file.read_bytes()) if file.is_file() else None

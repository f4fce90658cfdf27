"""Open the model to evaluate: a ModelPackage, or any ONNX recognizer whose embedding contract is given with it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from eolgul.artifact import canonical_json
from eolgul.errors import InputError
from eolgul.evaluation.schema import ModelKind
from eolgul.files import sha256_bytes, sha256_file
from eolgul.model.package import EmbeddingContract, ModelPackage
from eolgul.model.recognizer import Recognizer, execution_providers

# The contracts of the field's public recognizers: aligned 112 x 112 faces, (pixel - 127.5) / 127.5, mirror image added.
CONTRACTS = {"insightface": EmbeddingContract(), "insightface-bgr": EmbeddingContract(color="BGR")}


@dataclass(frozen=True, slots=True)
class ModelUnderTest:
    """A recognizer with its identity.

    `digest` depends on the network's bytes and the contract, so equal digests mean equal embeddings.
    """

    digest: str
    backbone: str
    kind: ModelKind
    synthetic: bool
    onnx: Path
    contract: EmbeddingContract

    @property
    def reference(self) -> dict[str, str]:
        """The entry among the inputs of a card."""
        return {"kind": self.kind, "digest": self.digest}

    def recognizer(self, *, threads: int, device: str = "cpu") -> Recognizer:
        """Load the network on `device`, "cpu" or "cuda".

        Raises:
            InputError: An unknown device, one that this ONNX Runtime does not support, or a network it cannot load.
        """
        return Recognizer(self.onnx, self.contract, threads=threads, providers=execution_providers(device))


def open_model(model: Path, contract: str | None = None) -> ModelUnderTest:
    """Open a ModelPackage folder, or, with a `contract`, an ONNX file.

    `contract` is a name of `CONTRACTS` or a JSON file with keys of `EmbeddingContract` (those left out keep their
    defaults).

    Raises:
        InputError: The model or the contract is missing or malformed.
    """
    if contract is None:
        package = ModelPackage.open(model)
        return ModelUnderTest(
            package.digest,
            package.backbone,
            "ModelPackage",
            package.artifact.synthetic,
            package.path / "model.onnx",
            package.contract,
        )
    if not model.is_file():
        raise InputError(f"{model}: no such ONNX file")
    known = CONTRACTS.get(contract) or _read_contract(Path(contract))
    digest = sha256_bytes(canonical_json({"onnx": sha256_file(model), "contract": known.to_json()}))
    return ModelUnderTest(digest, model.stem, "OnnxRecognizer", False, model, known)


def _read_contract(file: Path) -> EmbeddingContract:
    try:
        value = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: neither a JSON contract nor one of {', '.join(CONTRACTS)}") from error
    if not isinstance(value, dict):
        raise InputError(f"{file}: expected a JSON object with an embedding contract")
    return EmbeddingContract.from_json({**EmbeddingContract().to_json(), **value}, str(file))

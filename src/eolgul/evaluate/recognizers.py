"""Open the model to evaluate: a ModelPackage, or any ONNX recognizer whose embedding contract is given with it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from eolgul.artifact import canonical_json
from eolgul.errors import InputError
from eolgul.evaluation.schema import ModelKind
from eolgul.files import sha256_bytes, sha256_file
from eolgul.model.contracts import find_contract
from eolgul.model.package import EmbeddingContract, ModelPackage
from eolgul.model.recognizer import Recognizer, execution_providers


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
        """Load the network on `device`, as `execution_providers` takes it.

        Raises:
            InputError: An unknown device, one that this ONNX Runtime does not support, or a network it cannot load.
        """
        if device == "auto":
            try:
                return Recognizer(self.onnx, self.contract, threads=threads, providers=execution_providers(device))
            except (
                InputError
            ):  # the driver is there and a library is not; without a GPU a wrong network is refused again
                device = "cpu"
        return Recognizer(self.onnx, self.contract, threads=threads, providers=execution_providers(device))


def open_model(model: Path, contract: str | None = None) -> ModelUnderTest:
    """Open a ModelPackage folder, or, with a `contract`, an ONNX file.

    `contract` as `eolgul.model.contracts.find_contract` takes it.

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
    known = find_contract(contract)
    digest = sha256_bytes(canonical_json({"onnx": sha256_file(model), "contract": known.to_json()}))
    return ModelUnderTest(digest, model.stem, "OnnxRecognizer", False, model, known)

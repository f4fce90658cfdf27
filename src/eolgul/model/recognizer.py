"""Embed aligned faces through ONNX Runtime, without torch; evaluation and serving share this."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from eolgul.errors import InputError
from eolgul.model.onnx_network import EmbeddingNetwork
from eolgul.model.package import EmbeddingContract, ModelPackage

_DRIVER = Path("/dev/nvidiactl")
_UNIT = (
    1e-3  # the length of an embedding that a network normalises itself differs from 1 by less, in half precision too
)
PROVIDERS = {"cpu": ("CPUExecutionProvider",), "cuda": ("CUDAExecutionProvider", "CPUExecutionProvider")}


def execution_providers(device: str, setting: str = "device") -> tuple[str, ...]:
    """ONNX Runtime's execution providers for a device, with the CPU as the fallback of operators.

    Args:
        device: "cpu", "cuda", or "auto": a GPU where this ONNX Runtime and this machine have one, else the CPU.
        setting: The name of the setting or option, for the message of an error.

    Raises:
        InputError: The device is unknown, or this ONNX Runtime lacks its provider. It would otherwise run on the CPU and
            only log a warning.
    """
    if device == "auto":
        device = "cuda" if _has_gpu() else "cpu"
    if device not in PROVIDERS:
        raise InputError(f"{setting}={device}: expected auto, {' or '.join(PROVIDERS)}")
    if device != "cpu":
        import onnxruntime

        if PROVIDERS[device][0] not in onnxruntime.get_available_providers():
            raise InputError(
                f"{setting}={device}: this ONNX Runtime has no {PROVIDERS[device][0]}; install onnxruntime-gpu instead"
            )
    return PROVIDERS[device]


def _has_gpu() -> bool:
    """Whether ONNX Runtime was built for CUDA and the driver of an NVIDIA GPU is there."""
    if not _DRIVER.exists():
        return False
    import onnxruntime

    return PROVIDERS["cuda"][0] in onnxruntime.get_available_providers()


class Recognizer:
    """A recognition network and its embedding contract.

    Attributes:
        contract: The contract.
        network: The network.
    """

    def __init__(
        self,
        onnx: Path,
        contract: EmbeddingContract,
        *,
        threads: int = 1,
        providers: Sequence[str] = ("CPUExecutionProvider",),
    ) -> None:
        self.contract = contract
        self.network = EmbeddingNetwork(onnx, contract.size, threads=threads, providers=providers)

    @classmethod
    def from_package(
        cls, package: ModelPackage, *, threads: int = 1, providers: Sequence[str] = ("CPUExecutionProvider",)
    ) -> Self:
        """Load the network of a package. InputError when ONNX Runtime cannot load it."""
        return cls(package.path / "model.onnx", package.contract, threads=threads, providers=providers)

    def embed(self, faces: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Embed aligned faces.

        Args:
            faces: uint8 RGB, N x size x size x 3.

        Returns:
            float32, N x embedding size, rows of length 1.

        Raises:
            InputError: An embedding is zero or not finite, so that it cannot be compared, or the network cannot be run.
        """
        return self.embed_with_norms(faces)[0]

    def embed_with_norms(self, faces: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """As `embed`, with the length of each embedding before it is normalised, which is small for a face of bad quality.

        Returns:
            The embeddings, and their lengths (float32, N): of the sum where the mirror image's is added; NaN where the
            network gives vectors of length 1, which say nothing.
        """
        batch = network_input(faces, self.contract)
        embeddings = self.network.run(batch)
        normalised = len(embeddings) > 0 and np.allclose(np.linalg.norm(embeddings, axis=1), 1, atol=_UNIT)
        if self.contract.flip == "sum":
            embeddings = embeddings + self.network.run(np.ascontiguousarray(batch[..., ::-1]))
        norms = np.linalg.norm(embeddings, axis=1, keepdims=True)
        if not np.all(np.isfinite(norms)) or np.any(norms == 0):
            raise InputError("the model gave a zero or non-finite embedding")
        lengths = np.full(len(norms), np.nan) if normalised else norms[:, 0]
        return np.asarray(embeddings / norms, dtype=np.float32), np.asarray(lengths, dtype=np.float32)


def network_input(faces: NDArray[np.uint8], contract: EmbeddingContract) -> NDArray[np.float32]:
    """Turn faces into network input as the contract says.

    Args:
        faces: uint8 RGB, N x size x size x 3.
        contract: Colour order, size and scaling.

    Returns:
        float32, N x 3 x size x size.

    Raises:
        ValueError: The faces have another type or shape.
    """
    if faces.dtype != np.uint8 or faces.ndim != 4 or faces.shape[1:] != (contract.size, contract.size, 3):
        raise ValueError(f"expected uint8 N x {contract.size} x {contract.size} x 3, got {faces.dtype} {faces.shape}")
    ordered = faces if contract.color == "RGB" else faces[..., ::-1]
    scaled = (ordered.astype(np.float32) - contract.mean) / contract.std
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))

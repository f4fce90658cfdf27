"""Embed aligned faces through ONNX Runtime, without torch; evaluation and serving share this."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from eolgul.errors import InputError
from eolgul.model.package import EmbeddingContract, ModelPackage

PROVIDERS = {"cpu": ("CPUExecutionProvider",), "cuda": ("CUDAExecutionProvider", "CPUExecutionProvider")}


def execution_providers(device: str, setting: str = "device") -> tuple[str, ...]:
    """ONNX Runtime's execution providers for a device, with the CPU as the fallback of operators.

    Args:
        device: "cpu" or "cuda".
        setting: The name of the setting or option, for the message of an error.

    Raises:
        InputError: The device is unknown, or this ONNX Runtime lacks its provider. It would otherwise run on the CPU and
            only log a warning.
    """
    if device not in PROVIDERS:
        raise InputError(f"{setting}={device}: expected {' or '.join(PROVIDERS)}")
    if device != "cpu":
        import onnxruntime

        if PROVIDERS[device][0] not in onnxruntime.get_available_providers():
            raise InputError(
                f"{setting}={device}: this ONNX Runtime has no {PROVIDERS[device][0]}; install onnxruntime-gpu instead"
            )
    return PROVIDERS[device]


def onnx_session(path: Path, *, threads: int, providers: Sequence[str] = ("CPUExecutionProvider",)) -> Any:
    """Load an ONNX file with a fixed number of threads (the default takes every core that the container sees).

    Raises:
        InputError: ONNX Runtime cannot load the file or cannot use the first of `providers`.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=list(providers))
    except Exception as error:  # ONNX Runtime's exception classes are private
        raise InputError(f"{path}: ONNX Runtime cannot load it ({error})") from error
    if session.get_providers()[0] != providers[0]:  # ONNX Runtime would fall back to another provider, at another speed
        raise InputError(f"{path}: ONNX Runtime cannot use {providers[0]} here (a driver or library is missing)")
    return session


class Recognizer:
    """A recognition network and its embedding contract."""

    def __init__(
        self,
        onnx: Path,
        contract: EmbeddingContract,
        *,
        threads: int = 1,
        providers: Sequence[str] = ("CPUExecutionProvider",),
    ) -> None:
        self.contract = contract
        self._session = onnx_session(onnx, threads=threads, providers=providers)
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        if len(inputs) != 1 or list(inputs[0].shape[1:]) != [3, contract.size, contract.size]:
            raise InputError(f"{onnx}: input {inputs[0].shape}, expected N x 3 x {contract.size} x {contract.size}")
        if len(outputs) != 1 or len(outputs[0].shape) != 2:
            raise InputError(f"{onnx}: expected one output N x embedding size")
        self._input = inputs[0].name

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
            InputError: An embedding is zero or not finite, so that it cannot be compared.
        """
        batch = network_input(faces, self.contract)
        embeddings = self._session.run(None, {self._input: batch})[0]
        if self.contract.flip == "sum":
            mirrored = np.ascontiguousarray(batch[..., ::-1])
            embeddings = embeddings + self._session.run(None, {self._input: mirrored})[0]
        norms = np.linalg.norm(embeddings, axis=1, keepdims=True)
        if not np.all(np.isfinite(norms)) or np.any(norms == 0):
            raise InputError("the model gave a zero or non-finite embedding")
        return np.asarray(embeddings / norms, dtype=np.float32)


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

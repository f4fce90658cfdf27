"""Run an embedding network through ONNX Runtime, whoever exported it: its batch size, outputs and number types may differ.

Every error of ONNX Runtime becomes one sentence.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eolgul.content import describe_file
from eolgul.errors import InputError, one_line

_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
_PREFIX = re.compile(r"^\s*\[ONNXRuntimeError\] : -?\d+ : \w+ : ")
_LOST_FILE = re.compile(r"external (?:data|initializer)", re.I)
_logger = logging.getLogger("eolgul.onnx")


def onnx_session(path: Path, *, threads: int, providers: Sequence[str] = ("CPUExecutionProvider",)) -> Any:
    """Load an ONNX file with a fixed number of threads (the default takes every core that the container sees).

    Raises:
        InputError: The file is missing, is something else, or ONNX Runtime cannot load it or cannot use the first of
            `providers`.
    """
    import onnxruntime

    if not path.is_file():
        raise InputError(f"{path}: no such ONNX file")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # what it would print is in its exceptions
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=list(providers))
    except Exception as error:  # ONNX Runtime's exception classes are private
        found = describe_file(path)
        if found:
            raise InputError(f"{path}: is {found}, expected an ONNX file") from error
        if _LOST_FILE.search(str(error)):
            raise InputError(
                f"{path}: the file beside it that holds its weights (external data) is missing or cut off ({reason(error)})"
            ) from error
        raise InputError(f"{path}: ONNX Runtime cannot load it ({reason(error)})") from error
    if session.get_providers()[0] != providers[0]:  # ONNX Runtime would fall back to another provider, at another speed
        raise InputError(f"{path}: ONNX Runtime cannot use {providers[0]} here (a driver or library is missing)")
    return session


def run_session(session: Any, feeds: dict[str, NDArray[Any]], where: str) -> list[Any]:
    """Run a loaded network.

    Returns:
        Its outputs in order.

    Raises:
        InputError: ONNX Runtime cannot run it on `feeds`; the message names `where`.
    """
    try:
        outputs: list[Any] = session.run(None, feeds)
    except Exception as error:  # ONNX Runtime's exception classes are private
        raise InputError(f"{where}: ONNX Runtime cannot run it ({reason(error)})") from error
    return outputs


def reason(error: object) -> str:
    """ONNX Runtime's error as a part of a sentence, without its own marks."""
    return one_line(_PREFIX.sub("", str(error)))


class EmbeddingNetwork:
    """A network from N x 3 x size x size to N x D, checked by a run on one image when it is loaded.

    A network with a declared batch size is run in such batches, the last one filled up. One that says it takes any number
    and fails with more than one image is run one by one. Of several outputs the one that is N x D counts; a norm or a
    score beside it is let go, with a warning.

    Attributes:
        embedding_size: D.
        input: The input's name.
        output: The embedding's name.
        batch: The number of images of a run; None for any.
        dropped: The outputs that are let go, as "name (shape)".
    """

    def __init__(
        self, path: Path, size: int, *, threads: int = 1, providers: Sequence[str] = ("CPUExecutionProvider",)
    ) -> None:
        """Load and check.

        Raises:
            InputError: ONNX Runtime cannot load or run the file, it takes other pictures, or gives no or several embeddings.
        """
        self._where = str(path)
        self._session = onnx_session(path, threads=threads, providers=providers)
        inputs = self._session.get_inputs()
        if len(inputs) != 1:
            listed = ", ".join(f"{item.name} {_shape(item.shape)}" for item in inputs)
            raise InputError(f"{path}: has {len(inputs)} inputs ({listed}), expected one, N x 3 x {size} x {size}")
        self.input = inputs[0].name
        self.batch = _fixed_batch(inputs[0].shape, size, self._where)
        self._type = _TYPES.get(inputs[0].type)
        if self._type is None:
            raise InputError(f"{path}: its input is {inputs[0].type}, expected tensor(float) or tensor(float16)")
        count = self.batch or 1
        probe = np.random.default_rng(0).uniform(-1, 1, (count, 3, size, size))
        outputs = run_session(self._session, {self.input: probe.astype(self._type)}, self._where)
        names = [item.name for item in self._session.get_outputs()]
        self._output, self.dropped = _choose(names, outputs, count, self._where)
        self.output = names[self._output]
        self.embedding_size = int(outputs[self._output].shape[1])
        if self.dropped:
            _logger.warning("%s: %s is its embedding; let go: %s", path.name, self.output, ", ".join(self.dropped))

    def run(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Embed network input, float32 N x 3 x size x size → float32 N x D, not normalised.

        Raises:
            InputError: ONNX Runtime cannot run the network.
        """
        if len(images) == 0:
            return np.empty((0, self.embedding_size), np.float32)
        if self.batch is None:
            try:
                return self._run(images)
            except InputError as error:
                if len(images) == 1:
                    raise
                self._run(images[:1])  # what fails with one image, too, is not a matter of the number
                _logger.warning(
                    "%s: its images are embedded one by one, since it fails with %d at once (%s)",
                    Path(self._where).name, len(images), error)  # fmt: skip
                self.batch = 1
        parts = []
        for start in range(0, len(images), self.batch):
            part = images[start : start + self.batch]
            filled = np.concatenate([part, np.repeat(part[-1:], self.batch - len(part), axis=0)])
            parts.append(self._run(filled)[: len(part)])
        return np.concatenate(parts)

    def _run(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        outputs = run_session(self._session, {self.input: images.astype(self._type, copy=False)}, self._where)
        embeddings = np.asarray(outputs[self._output], dtype=np.float32)
        if embeddings.shape != (len(images), self.embedding_size):
            raise InputError(
                f"{self._where}: gives {_shape(embeddings.shape)} for {len(images)} images, "
                f"expected {len(images)} x {self.embedding_size}"
            )
        return embeddings


def _shape(shape: Sequence[Any]) -> str:
    return " x ".join("?" if value is None else str(value) for value in shape) or "one number"


def _fixed_batch(shape: Sequence[Any], size: int, where: str) -> int | None:
    """The batch size that an input's shape declares, None for any; axes of any length are names or None.

    Raises:
        InputError: It is not a batch of RGB pictures of size x size, channels first.
    """
    want = f"expected N x 3 x {size} x {size}"

    def takes(axes: Sequence[Any], lengths: Sequence[int]) -> bool:
        return all(
            not isinstance(axis, int) or axis < 1 or axis == length for axis, length in zip(axes, lengths, strict=True)
        )

    if len(shape) != 4:
        raise InputError(f"{where}: input {_shape(shape)}, {want}")
    if not takes(shape[1:], (3, size, size)):
        if takes(shape[1:], (size, size, 3)):
            raise InputError(
                f"{where}: input {_shape(shape)}, channels last, {want}; export it with the channels first"
            )
        raise InputError(f"{where}: input {_shape(shape)}, {want}")
    return shape[0] if isinstance(shape[0], int) and shape[0] > 0 else None


def _choose(names: Sequence[str], outputs: Sequence[Any], count: int, where: str) -> tuple[int, list[str]]:
    """The place of the embedding among the outputs, and the others as text."""
    shapes = [tuple(np.shape(output)) for output in outputs]
    listed = [f"{name} ({_shape(shape)})" for name, shape in zip(names, shapes, strict=True)]
    found = [
        place
        for place, shape in enumerate(shapes)
        if len(shape) == 2
        and shape[0] == count
        and shape[1] > 1
        and np.issubdtype(np.asarray(outputs[place]).dtype, np.floating)
    ]
    if len(found) != 1:
        what = "several of its outputs could be the embedding" if found else "no output is N x embedding size"
        raise InputError(f"{where}: {what}: {', '.join(listed)}; expected one, export it with the embedding alone")
    return found[0], [text for place, text in enumerate(listed) if place != found[0]]

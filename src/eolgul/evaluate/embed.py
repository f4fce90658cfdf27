"""Embed a dataset's rows: threads decode ahead of the network, and a network that ignores its input is refused."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from eolgul.dataset import FaceDataset
from eolgul.errors import InputError
from eolgul.faces.aligned import read_face
from eolgul.model.package import EmbeddingContract

Progress = Callable[[str], None]
_DECODERS = 2  # decoding is cheap compared to a network; more threads would only take cores away from it
_AHEAD = 4  # batches decoded before they are needed
_IDENTICAL = 1e-4  # 1 - cosine similarity below which two embeddings count as equal


class Embedder(Protocol):
    """Embeds aligned faces: `eolgul.model.recognizer.Recognizer`, or a replacement in tests."""

    contract: EmbeddingContract

    def embed(self, faces: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Embed aligned faces: uint8 RGB, N x size x size x 3 → float32, N x embedding size, rows of length 1."""
        ...


def embed_rows(
    dataset: FaceDataset,
    rows: Sequence[int] | NDArray[np.int64],
    recognizer: Embedder,
    batch: int = 64,
    progress: Progress | None = None,
) -> NDArray[np.float32]:
    """Embed manifest rows of an aligned dataset.

    Args:
        dataset: The dataset.
        rows: The manifest rows.
        recognizer: The network.
        batch: Images per call of the network.
        progress: Receives a sentence now and then.

    Returns:
        float32, len(rows) x embedding size, rows of length 1.

    Raises:
        InputError: The dataset is not aligned as the model's contract asks; an image has another size, is broken or
            cannot be embedded; or different images have (nearly) one embedding.
    """
    contract = recognizer.contract
    check_aligned(dataset, contract)
    numbers = [int(row) for row in rows]
    if not numbers:
        raise InputError(f"{dataset.path}: contains no image to embed")
    parts: list[NDArray[np.float32]] = []
    done = 0
    for start, faces in _batches(dataset, numbers, contract.size, batch):
        try:
            parts.append(recognizer.embed(faces))
        except InputError as error:
            first, last = numbers[start], numbers[start + len(faces) - 1]
            raise InputError(f"{dataset.path}: images of rows {first} to {last}: {error}", error.code) from error
        done += len(faces)
        if progress is not None and (done == len(numbers) or (start // batch) % 20 == 19):
            progress(f"embedded {done} of {len(numbers)} images")
    embeddings = np.concatenate(parts)
    _check_sees(dataset, numbers, embeddings)
    return embeddings


def embedding_size(recognizer: Embedder) -> int:
    """Return the number of values of an embedding, by embedding noise: a network may give zeros for one plain colour."""
    side = recognizer.contract.size
    noise = np.random.default_rng(0).integers(0, 256, (1, side, side, 3), np.uint8)
    return int(recognizer.embed(noise).shape[1])


def check_aligned(dataset: FaceDataset, contract: EmbeddingContract) -> None:
    """Check that the dataset is a whole alignment to the contract's template.

    Raises:
        InputError: It is one part of an alignment, or not aligned to that template.
    """
    dataset.check_whole()
    aligned = dataset.artifact.contents.get("aligned")
    if aligned != contract.template:
        raise InputError(
            f"{dataset.path}: its images are aligned to {aligned or 'no template'}, expected {contract.template}; "
            "run `eolgul align` first"
        )


def _batches(dataset: FaceDataset, rows: list[int], size: int, batch: int) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Yield (position of the first row, uint8 RGB batch) in order, with a few batches decoded ahead."""

    def load(start: int) -> NDArray[np.uint8]:
        dataset.read_ahead(rows[start : start + batch])
        return np.stack([read_face(dataset, row, size) for row in rows[start : start + batch]])

    pool = ThreadPoolExecutor(_DECODERS, thread_name_prefix="decode")
    waiting: deque[tuple[int, Future[NDArray[np.uint8]]]] = deque()
    try:
        for start in range(0, len(rows), batch):
            waiting.append((start, pool.submit(load, start)))
            if len(waiting) > _AHEAD:
                first, future = waiting.popleft()
                yield first, future.result()
        while waiting:
            first, future = waiting.popleft()
            yield first, future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _check_sees(dataset: FaceDataset, rows: list[int], embeddings: NDArray[np.float32]) -> None:
    """Refuse a network that gives every image the same embedding: its figures would mean nothing."""
    hashes = dataset.values("sha256", rows)
    _, first = np.unique(np.asarray(hashes), return_index=True)
    if len(first) < 3:  # two images may well be near-duplicates
        return
    distinct = embeddings[np.sort(first)]
    if float(np.min(distinct @ distinct[0])) > 1 - _IDENTICAL:
        raise InputError(
            f"the model gives {len(first)} different images of {dataset.path} the same embedding "
            f"(similarity above {1 - _IDENTICAL}): it ignores its input"
        )

"""Embeddings of a dataset's rows: decoded by threads ahead of the network, checked for a network that is blind."""

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
_DECODERS = 2  # decoding is cheap beside a network; more threads would only take cores away from it
_AHEAD = 4  # batches decoded before they are needed
_IDENTICAL = 1e-4  # 1 - cosine similarity below which two embeddings count as one and the same


class Embedder(Protocol):
    """What embeds aligned faces: `eolgul.model.recognizer.Recognizer`, or a test's stand-in for it."""

    contract: EmbeddingContract

    def embed(self, faces: NDArray[np.uint8]) -> NDArray[np.float32]: ...


def embed_rows(
    dataset: FaceDataset,
    rows: Sequence[int] | NDArray[np.int64],
    recognizer: Embedder,
    batch: int = 64,
    progress: Progress | None = None,
) -> NDArray[np.float32]:
    """Embed manifest rows of an aligned dataset: float32, len(rows) x embedding size, rows of length 1.

    Raises InputError when the dataset is not aligned as the model's contract says, when an image has another size, is
    broken or cannot be embedded, or when different images get (nearly) one embedding.
    """
    contract = recognizer.contract
    check_aligned(dataset, contract)
    numbers = [int(row) for row in rows]
    if not numbers:
        raise InputError(f"{dataset.path}: not one image to embed")
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
    """How many numbers an embedding has, asked of the network itself with one grey picture."""
    side = recognizer.contract.size
    return int(recognizer.embed(np.full((1, side, side, 3), 128, dtype=np.uint8)).shape[1])


def check_aligned(dataset: FaceDataset, contract: EmbeddingContract) -> None:
    """InputError when the dataset is one part of an alignment, or not aligned as the contract says."""
    dataset.check_whole()
    aligned = dataset.artifact.contents.get("aligned")
    if aligned != contract.template:
        raise InputError(
            f"{dataset.path}: its images are aligned to {aligned or 'nothing'}, the model needs {contract.template}; "
            "run `eolgul align` first"
        )


def _batches(dataset: FaceDataset, rows: list[int], size: int, batch: int) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Yield (position of the first row, uint8 RGB batch) in order, a few batches decoded ahead."""

    def load(start: int) -> NDArray[np.uint8]:
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
    """Refuse a network that gives every picture the same embedding: any figure made from it would mean nothing."""
    hashes = dataset.manifest["sha256"].take(rows).to_pylist()
    _, first = np.unique(np.asarray(hashes), return_index=True)
    if len(first) < 3:  # two pictures may well be near-duplicates
        return
    distinct = embeddings[np.sort(first)]
    if float(np.min(distinct @ distinct[0])) > 1 - _IDENTICAL:
        raise InputError(
            f"the model gives {len(first)} different images of {dataset.path} one and the same embedding "
            f"(similarity above {1 - _IDENTICAL}): it ignores its input"
        )

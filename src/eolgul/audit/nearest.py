"""Exact nearest neighbours in blocks: difference hashes by Hamming distance, embeddings by cosine (faiss).

A block of training faces is compared with all faces of the benchmark, and the nearest so far are kept, so that memory is
bounded by one block, the benchmark and the neighbours: 131,072 x 512 float32 (268 MB), 25 MB for 12,000 faces and 2 MB.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable

import faiss
import imagehash
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from eolgul.images.decode import decode

BLOCK = 131_072
NEIGHBOURS = 10
HASH_BITS = 256
_SIDE = 16  # of the hash: 16 x 16 differences

Neighbours = tuple[NDArray[np.float32], NDArray[np.int64]]  # N x k: similarity or -distance, best first; the face


def difference_hash(data: bytes, *, mirrored: bool = False) -> NDArray[np.uint8]:
    """The difference hash of an encoded image: uint8, 32 bytes; with `mirrored` that of its mirror image."""
    image = Image.fromarray(decode(data)[0])
    made = imagehash.dhash(ImageOps.mirror(image) if mirrored else image, hash_size=_SIDE)
    return np.packbits(np.asarray(made.hash).reshape(-1))


def nearest(
    queries: NDArray[np.float32], blocks: Iterable[tuple[int, NDArray[np.float32]]], k: int = NEIGHBOURS
) -> Neighbours:
    """The `k` most similar rows for each query.

    Args:
        queries: Unit embeddings, N x D.
        blocks: The number of the first row of each block, and its unit embeddings (M x D).
        k: Neighbours per query.

    Returns:
        Similarities (N x k, -inf where there are fewer rows) and the rows' numbers (-1 there).
    """

    def search(block: NDArray[np.float32], count: int) -> Neighbours:
        similarity, place = faiss.knn(queries, np.ascontiguousarray(block), count, metric=faiss.METRIC_INNER_PRODUCT)
        return np.asarray(similarity), np.asarray(place)

    return _merged(len(queries), blocks, search, k)


def nearest_hashes(
    queries: NDArray[np.uint8], blocks: Iterable[tuple[int, NDArray[np.uint8]]], k: int = NEIGHBOURS
) -> Neighbours:
    """As `nearest`, of hashes (N x 32 bytes); the similarity is the negative number of bits that differ."""

    def search(block: NDArray[np.uint8], count: int) -> Neighbours:
        index = faiss.IndexBinaryFlat(HASH_BITS)
        index.add(np.ascontiguousarray(block))
        distance, place = index.search(queries, count)
        return -np.asarray(distance, dtype=np.float32), np.asarray(place)

    return _merged(len(queries), blocks, search, k)


def _merged(
    queries: int, blocks: Iterable[tuple[int, NDArray[np.generic]]], search: Callable[..., Neighbours], k: int
) -> Neighbours:
    best = np.full((queries, k), -np.inf, dtype=np.float32)
    rows = np.full((queries, k), -1, dtype=np.int64)
    for begin, block in blocks:
        if not len(block) or not queries:
            continue
        values, places = search(block, min(k, len(block)))
        every, numbers = np.hstack([best, values]), np.hstack([rows, places + begin])
        order = np.argsort(-every, axis=1, kind="stable")[:, :k]
        best, rows = np.take_along_axis(every, order, 1), np.take_along_axis(numbers, order, 1)
    return best, rows


def set_threads(count: int) -> None:
    """Let the search use so many threads; by default it takes every core that the container sees."""
    faiss.omp_set_num_threads(count)


def thumbnail(data: bytes, side: int = 112) -> bytes:
    """An image as a JPEG of at most `side` pixels, for the report."""
    image = Image.fromarray(decode(data)[0])
    image.thumbnail((side, side))
    out = io.BytesIO()
    image.save(out, "JPEG", quality=85)
    return out.getvalue()

"""Keep embeddings between runs: one .npz per (model, dataset) with the embeddings of all rows requested so far."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from eolgul.files import atomic_file

Embed = Callable[[NDArray[np.int64]], NDArray[np.float32]]  # manifest rows (N) → embeddings (N x size)


def cached(folder: Path | None, model: str, dataset: str, compute: Embed) -> Embed:
    """Wrap `compute` so that it is called only for rows that the cache lacks; with `folder` None nothing is kept.

    `model` and `dataset` are digests of everything that an embedding depends on. A damaged file counts as empty. Files
    are replaced whole: two runs at the same time may compute a row twice, but never read a broken file.
    """
    if folder is None:
        return compute
    file = folder / f"{model[:24]}-{dataset[:24]}.npz"

    def embed(rows: NDArray[np.int64]) -> NDArray[np.float32]:
        wanted = np.unique(rows)
        known, vectors = _load(file)
        missing = np.setdiff1d(wanted, known)
        if len(missing):
            made = compute(missing)
            known, vectors = (
                np.concatenate([known, missing]),
                np.concatenate([vectors.reshape(-1, made.shape[1]), made]),
            )
            order = np.argsort(known)
            known, vectors = known[order], vectors[order]
            _store(file, known, vectors)
        return vectors[np.searchsorted(known, rows)]

    return embed


def _load(file: Path) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    try:
        with np.load(file, allow_pickle=False) as stored:
            rows, vectors = stored["rows"], stored["embeddings"]
        whole = rows.dtype == np.int64 and vectors.dtype == np.float32 and vectors.ndim == 2
        if whole and len(rows) == len(vectors) and np.all(np.diff(rows) > 0) and np.all(np.isfinite(vectors)):
            return rows, vectors
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        pass
    return np.empty(0, dtype=np.int64), np.empty((0, 0), dtype=np.float32)


def _store(file: Path, rows: NDArray[np.int64], vectors: NDArray[np.float32]) -> None:
    with atomic_file(file) as new, new.open("wb") as out:
        np.savez(out, rows=rows, embeddings=vectors)

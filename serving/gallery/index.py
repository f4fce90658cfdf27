"""A tenant's templates in memory: exact top-k search over people, one matrix product per model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

MAX_TEMPLATES = 20  # of one person


class ModelIndex:
    """Templates of one model: rows of one growing matrix, so that adding or removing a person does not copy the others."""

    def __init__(self) -> None:
        self._matrix: NDArray[np.float32] = np.empty((0, 0), np.float32)
        self._owners: list[tuple[str, str]] = []  # (pseudonym, template id) of each row in use
        self._rows: dict[str, set[int]] = {}

    def __len__(self) -> int:
        return len(self._owners)

    @property
    def people(self) -> int:
        """Number of people with templates."""
        return len(self._rows)

    @property
    def nbytes(self) -> int:
        """Memory of the matrix, in bytes."""
        return self._matrix.nbytes

    def add(self, pseudonym: str, template: str, embedding: NDArray[np.float32]) -> None:
        """Append a unit embedding (float32, as long as the others; otherwise ValueError)."""
        row = len(self._owners)
        if row == len(self._matrix):
            grown = np.empty((max(16, row + row // 2), len(embedding)), np.float32)
            if row:
                grown[:row] = self._matrix
            self._matrix = grown
        self._matrix[row] = embedding
        self._owners.append((pseudonym, template))
        self._rows.setdefault(pseudonym, set()).add(row)

    def remove(self, pseudonym: str) -> None:
        """Remove a person; the last rows move into the gaps, and their old places are overwritten."""
        for row in sorted(self._rows.pop(pseudonym, ()), reverse=True):
            last = len(self._owners) - 1
            owner = self._owners.pop()
            if row != last:
                self._matrix[row] = self._matrix[last]
                self._owners[row] = owner
                moved = self._rows[owner[0]]
                moved.remove(last)
                moved.add(row)
            self._matrix[last] = 0  # an erased embedding must not stay in memory

    def top(self, embedding: NDArray[np.float32], k: int) -> list[tuple[str, str, float]]:
        """The k people whose best template is most similar to a unit embedding (float32); the search is exact.

        The best rows of the k best people are among the k * 20 best rows, since nobody has more than 20 templates.

        Returns:
            (pseudonym, template id, cosine similarity) per person, best first.
        """
        count = len(self._owners)
        if not count:
            return []
        scores = self._matrix[:count] @ embedding.astype(np.float32)
        wanted = min(count, k * MAX_TEMPLATES)
        rows = np.argpartition(-scores, wanted - 1)[:wanted]
        best: dict[str, tuple[str, str, float]] = {}
        for row in rows[np.argsort(-scores[rows], kind="stable")]:
            pseudonym, template = self._owners[row]
            best.setdefault(pseudonym, (pseudonym, template, float(np.clip(scores[row], -1.0, 1.0))))
            if len(best) == k:
                break
        return list(best.values())


class TenantIndex:
    """All templates of one tenant, up to the entry `position` of its change log."""

    def __init__(self, position: str | None) -> None:
        self.position = position
        self.names: dict[str, str] = {}  # pseudonym → the person's id
        self.poor: dict[str, dict[str, dict[str, float]]] = {}  # pseudonym → template id → its quality, if marked POOR
        self._models: dict[str, ModelIndex] = {}
        self._templates = 0
        self._counts: dict[str, int] = {}

    @property
    def templates(self) -> int:
        """Number of templates of all models."""
        return self._templates

    @property
    def nbytes(self) -> int:
        """Memory of the matrices of all models, in bytes."""
        return sum(model.nbytes for model in self._models.values())

    def model_index(self, model: str) -> ModelIndex:
        """The templates of one model, by its digest."""
        return self._models.get(model) or ModelIndex()

    def replace(
        self,
        pseudonym: str,
        person: str | None,
        templates: Sequence[tuple[str, str, NDArray[np.float32]]],
        poor: Mapping[str, dict[str, float]] | None = None,
    ) -> None:
        """Replace a person's templates.

        Args:
            pseudonym: The person's name in Redis.
            person: The person's id; None if the person was erased.
            templates: (template id, model, embedding) of each.
            poor: The quality of those that are marked `POOR`, by template id.
        """
        for index in self._models.values():
            index.remove(pseudonym)
        self._templates += len(templates) - self._counts.pop(pseudonym, 0)
        self.names.pop(pseudonym, None)
        self.poor.pop(pseudonym, None)
        if person is None:
            return
        self.names[pseudonym] = person
        if poor:
            self.poor[pseudonym] = dict(poor)
        self._counts[pseudonym] = len(templates)
        for template, model, embedding in templates:
            self._models.setdefault(model, ModelIndex()).add(pseudonym, template, embedding)

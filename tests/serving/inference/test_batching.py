"""The way of embedding that takes less time is chosen, and gives the same embeddings."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from eolgul.serving.inference.batching import faster_batch


def taking(alone: float, each: float) -> Any:
    """A network that takes `alone` seconds for a run, and `each` for each face of it."""

    def embed(faces: NDArray[np.uint8]) -> None:
        assert faces.shape[1:] == (112, 112, 3)
        time.sleep(alone + each * len(faces) ** 2)

    return embed


@pytest.mark.parametrize(
    ("alone", "each", "most", "expected"),
    [(0.01, 0.0, 8, 8), (0.01, 0.0, 2, 2), (0.0, 0.005, 4, 1), (0.0, 0.005, 3, 1), (0.0, 0.0, 1, 1)],
)
def test_the_faster_way_is_taken(alone: float, each: float, most: int, expected: int) -> None:
    assert faster_batch(taking(alone, each), 112, most) == expected


def test_without_batches_nothing_is_measured() -> None:
    def never(faces: NDArray[np.uint8]) -> None:
        raise AssertionError

    assert faster_batch(never, 112, 1) == 1

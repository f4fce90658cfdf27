"""Whether faces of a batch are embedded together or one by one: the faster way on this machine."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

logger = logging.getLogger("eolgul.model")
_PROBE, _ROUNDS = 4, 3
_LONGEST_S = 0.5  # the measurement holds up the start: a network that takes long is told apart in one round


def faster_batch(embed: Callable[[NDArray[np.uint8]], object], size: int, most: int) -> int:
    """How many faces are embedded in one run: `most`, or 1 where single runs of four faces together take less time.

    On a CPU a batch can be the slower way, because its intermediate values leave the cache; on a GPU it is the faster one.

    Args:
        embed: Takes faces, uint8 N x size x size x 3.
        size: The side of a face in pixels.
        most: The largest batch that requests are put together to.
    """
    if most == 1:
        return 1
    faces = np.random.default_rng(0).integers(0, 256, (min(most, _PROBE), size, size, 3), np.uint8)
    together, single = [], []
    for _ in range(_ROUNDS):
        begun = time.perf_counter()
        embed(faces)
        together.append(time.perf_counter() - begun)
        begun = time.perf_counter()
        for row in range(len(faces)):
            embed(faces[row : row + 1])
        single.append(time.perf_counter() - begun)
        if sum(together) + sum(single) > _LONGEST_S:
            break
    faster = most if min(together) <= min(single) else 1
    each = 1000 / len(faces)
    logger.info(
        "a face takes %.1f ms in a batch of %d and %.1f ms alone: %s (EOLGUL_EMBED_BATCH decides otherwise)",
        min(together) * each, len(faces), min(single) * each,
        "batches are used" if faster > 1 else "faces are embedded one by one",
    )  # fmt: skip
    return faster

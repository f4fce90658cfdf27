"""The order in which an epoch shows the images: by chance over all, or by chance within a window of a few stretches.

A disk is fast when what lies together is read together. A windowed order takes stretches of neighbouring images by
chance, and mixes as many of them as fit into the window: the reads of a window lie in some hundred stretches, which are
read ahead in one go each. Every image is shown as often as in a random order. What it costs is diversity: images of one
identity lie together, so that fewer identities come into one batch (docs/measured.md, "Reading order").
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

STRETCH = 256  # neighbouring images, some 2 MB of 9 kB each: a disk reads them faster than it finds them


def windowed(positions: NDArray[np.int64], window: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Mix ascending positions, which may repeat, within windows of stretches that are taken by chance.

    Args:
        positions: The positions, ascending; int64.
        window: Positions per window.
        rng: What chance is.

    Returns:
        The same positions in the new order.
    """
    count = len(positions)
    begins = rng.permutation(-(-count // STRETCH)) * STRETCH
    places = (begins[:, None] + np.arange(STRETCH)).ravel()
    mixed: NDArray[np.int64] = positions[places[places < count]]
    for begin in range(0, count, window):
        rng.shuffle(mixed[begin : begin + window])
    return mixed

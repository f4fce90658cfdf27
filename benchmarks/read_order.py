"""Measure what a windowed reading order costs in randomness, and what it saves in reads.

Identities lie together, as in MS1M: 68 images each. For each window: how many byte ranges are read per 1,000 images, how
many different identities a batch has, and how far an image is from where it lies, compared with a random order.

Usage: read_order.py [--rows N] [--batch N] [--windows N …]
"""

from __future__ import annotations

import argparse

import numpy as np
from numpy.typing import NDArray

from eolgul.dataset.reader import joined_ranges
from eolgul.train.order import windowed

PER_PERSON = 68


def figures(order: NDArray[np.int64], batch: int, window: int) -> tuple[float, float, float]:
    """Ranges per 1,000 images, different identities per batch, and the mean distance from an image's place (share of all)."""
    count, ranges = len(order), 0
    for begin in range(0, count, window):
        own = order[begin : begin + window]
        ranges += len(joined_ranges(own, own + 1, gap=0))
    steps = count // batch
    people = np.sort((order[: steps * batch] // PER_PERSON).reshape(steps, batch), axis=1)
    different = 1 + (np.diff(people, axis=1) > 0).sum(axis=1).mean()
    return 1000 * ranges / count, float(different), float(np.abs(order - np.arange(count)).mean() / count)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--windows", type=int, nargs="+", default=[16_384, 65_536, 131_072, 262_144, 524_288])
    options = parser.parse_args()
    print("window     ranges per 1,000  identities per batch  mean distance")
    for window in options.windows:
        order = windowed(np.arange(options.rows), window, np.random.default_rng([0, 0]))
        print("{:<10} {:16.1f} {:21.1f} {:14.3f}".format(window, *figures(order, options.batch, window)))
    order = np.random.default_rng([0, 0]).permutation(options.rows)
    print("{:<10} {:16.1f} {:21.1f} {:14.3f}".format("random", *figures(order, options.batch, options.batch)))


if __name__ == "__main__":
    main()

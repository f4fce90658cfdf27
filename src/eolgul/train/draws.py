"""The first random number of many generators at once.

The mirror image of a training face is decided by `numpy.random.default_rng([seed, epoch, position]).random()`, so that it
depends on nothing else. Making a generator takes ten times as long as the rest of that; here the same numbers are computed
for a whole batch. Sources: numpy's SeedSequence (M. E. O'Neill's `seed_seq_fe`) and PCG64 (XSL-RR 128/64), whose streams numpy
promises not to change (NEP 19).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_INIT_A, _MULT_A, _INIT_B, _MULT_B = 0x43B0D7E5, 0x931E8875, 0x8B51F9DD, 0x58F38DED
_MIX_L, _MIX_R = np.uint32(0xCA01F9DD), np.uint32(0x4973F715)
_POOL = 4
_SHIFT = np.uint32(16)
_PCG = 0x2360ED051FC65DA44385DF649FCCF645
_M32, _M64, _M128 = (1 << 32) - 1, (1 << 64) - 1, (1 << 128) - 1
Words = NDArray[np.uint32]


def first_draws(seed: int, epoch: int, positions: NDArray[np.int64]) -> NDArray[np.float64]:
    """`default_rng([seed, epoch, position]).random()` of each position.

    Args:
        seed: The seed of the run, below 2^32.
        epoch: The epoch, below 2^32.
        positions: N positions, below 2^32.

    Returns:
        float64, N, from 0 to 1.
    """
    entropy = [np.full(len(positions), value, np.uint32) for value in (seed, epoch)]
    pool = _mixed([*entropy, positions.astype(np.uint32), np.zeros(len(positions), np.uint32)])
    words, constant = [], _INIT_B
    for number in range(2 * _POOL):
        value = pool[number % _POOL] ^ np.uint32(constant)
        constant = constant * _MULT_B & _M32
        value = value * np.uint32(constant)
        words.append((value ^ value >> _SHIFT).astype(np.uint64))
    halves = [words[at] | words[at + 1] << np.uint64(32) for at in range(0, 2 * _POOL, 2)]
    return np.array([_draw(*four) for four in zip(*(half.tolist() for half in halves), strict=True)], np.float64)


def _mixed(entropy: list[Words]) -> list[Words]:
    """The pool of a SeedSequence of four words each."""
    constant = _INIT_A

    def hashed(value: Words) -> Words:
        nonlocal constant
        value = value ^ np.uint32(constant)
        constant = constant * _MULT_A & _M32
        value = value * np.uint32(constant)
        return value ^ value >> _SHIFT

    pool = [hashed(words) for words in entropy]
    for source in range(_POOL):
        for target in range(_POOL):
            if source != target:
                mixed = pool[target] * _MIX_L - hashed(pool[source]) * _MIX_R
                pool[target] = mixed ^ mixed >> _SHIFT
    return pool


def _draw(state_high: int, state_low: int, stream_high: int, stream_low: int) -> float:
    """The first double of a PCG64 that is seeded with these numbers."""
    increment = ((stream_high << 64 | stream_low) << 1 | 1) & _M128
    state = (increment + (state_high << 64 | state_low)) * _PCG + increment
    state = (state * _PCG + increment) & _M128
    high, turn = state >> 64, state >> 122
    folded = high ^ state & _M64
    return (((folded >> turn | folded << (64 - turn)) & _M64) >> 11) / 2**53

"""The rows of a head that a package keeps when it was trained with `keep_head`, so that further training can take them.

`head.safetensors` holds `weight` (float32, identities x centres x embedding size) and `identities` (uint8, identities x 32: the
SHA-256 of each identity's name in Unicode normal form C).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from eolgul.errors import InputError
from eolgul.formats.identities import normal
from eolgul.train.weights_file import load_tensors

HEAD_FILE = "head.safetensors"


@dataclass(frozen=True, slots=True)
class HeadRows:
    """Centres of identities: `weight` float32 identities x centres x D, and their places by the identity's hash."""

    weight: Tensor
    places: Mapping[bytes, int]


def hashed(name: str) -> bytes:
    """The SHA-256 of an identity's name in normal form C: a package does not list the people it learned from."""
    return hashlib.sha256(normal(name).encode()).digest()


def save_head(folder: Path, weight: Tensor, names: Sequence[str]) -> None:
    """Write `HEAD_FILE`: the rows of the best epoch's head, in the order of `names`."""
    keys = torch.tensor([list(hashed(name)) for name in names], dtype=torch.uint8)
    save_file({"weight": weight.float().contiguous(), "identities": keys}, folder / HEAD_FILE)


def read_head(folder: Path) -> HeadRows:
    """Read `HEAD_FILE` of a package. Raises InputError when it is not what `save_head` writes."""
    rows = load_tensors(folder / HEAD_FILE)
    weight, keys = rows.get("weight"), rows.get("identities")
    if weight is None or keys is None or weight.ndim != 3 or keys.shape != (len(weight), 32):
        raise InputError(f"{folder / HEAD_FILE}: expected weight and identities, a row per identity")
    return HeadRows(weight, {bytes(key): number for number, key in enumerate(keys.tolist())})

"""The networks from a 112x112 face to an embedding, by name."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from eolgul.errors import InputError
from eolgul.train.backbones.ir_se import ir_50, ir_se_50
from eolgul.train.backbones.mobilefacenet import MobileFaceNet

BACKBONES: dict[str, Callable[[int], nn.Module]] = {
    "mobilefacenet": MobileFaceNet,
    "ir50": ir_50,
    "irse50": ir_se_50,
}


def build(name: str, embedding_size: int) -> nn.Module:
    """A fresh backbone: float32 N x 3 x 112 x 112 → N x embedding_size, not normalised. InputError for unknown names."""
    if name not in BACKBONES:
        raise InputError(f"backbone {name!r}: expected one of {', '.join(BACKBONES)}")
    return BACKBONES[name](embedding_size)

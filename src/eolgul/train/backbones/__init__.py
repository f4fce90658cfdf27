"""Networks from a 112x112 face to an embedding, by name, with the parameter names of the projects that publish them."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from eolgul.errors import InputError
from eolgul.train.backbones.ir_se import ir
from eolgul.train.backbones.iresnet import iresnet
from eolgul.train.backbones.mobilefacenet import MobileFaceNet
from eolgul.train.backbones.mobilefacenet_wide import WideMobileFaceNet

BACKBONES: dict[str, Callable[[int], nn.Module]] = {
    "mobilefacenet": MobileFaceNet,
    "ir50": ir(50, se=False),
    "ir100": ir(100, se=False),
    "ir152": ir(152, se=False),
    "irse50": ir(50, se=True),
    "irse101": ir(100, se=True),  # as face.evoLVe counts the layers of the same network
    "irse152": ir(152, se=True),
    "iresnet18": iresnet(18),
    "iresnet34": iresnet(34),
    "iresnet50": iresnet(50),
    "iresnet100": iresnet(100),
    "mobilefacenet_wide": WideMobileFaceNet,
}
# The networks whose parameter names the published weights of each project have.
LAYOUTS: dict[str, tuple[str, ...]] = {
    "insightface_pytorch": ("mobilefacenet", "irse50", "ir50", "irse101", "ir100", "irse152", "ir152"),
    "face_evolve": ("ir50", "ir100", "ir152", "irse50", "irse101", "irse152"),
    "arcface_torch": ("iresnet18", "iresnet34", "iresnet50", "iresnet100", "mobilefacenet_wide"),
    "magface": ("iresnet18", "iresnet34", "iresnet50", "iresnet100"),
}


def build(name: str, embedding_size: int) -> nn.Module:
    """Make a backbone with new random weights.

    Returns:
        A module from float32 N x 3 x 112 x 112 to N x embedding_size, not normalised.

    Raises:
        InputError: No backbone has this name.
    """
    if name not in BACKBONES:
        raise InputError(f"backbone {name!r}: expected one of {', '.join(BACKBONES)}")
    return BACKBONES[name](embedding_size)

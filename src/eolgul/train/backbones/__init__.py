"""Networks from a 112x112 face to an embedding, by name, with the parameter names of the projects that publish them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eolgul.errors import InputError
from eolgul.train.backbones.ir_se import ir
from eolgul.train.backbones.iresnet import iresnet
from eolgul.train.backbones.mobilefacenet import MobileFaceNet
from eolgul.train.backbones.mobilefacenet_wide import WideMobileFaceNet
from eolgul.train.backbones.resnet_small import SmallResNet

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
    "resnet_small": SmallResNet,
}
# The networks whose parameter names the published weights of each project have.
LAYOUTS: dict[str, tuple[str, ...]] = {
    "insightface_pytorch": ("mobilefacenet", "irse50", "ir50", "irse101", "ir100", "irse152", "ir152"),
    "face_evolve": ("ir50", "ir100", "ir152", "irse50", "irse101", "irse152"),
    "arcface_torch": ("iresnet18", "iresnet34", "iresnet50", "iresnet100", "mobilefacenet_wide"),
    "magface": ("iresnet18", "iresnet34", "iresnet50", "iresnet100"),
}


EPSILON = 1e-5  # of batch norms: torch's default, which all but MagFace's networks have
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


class _Float32Linear(nn.Linear):
    """A linear layer that computes in float32 under autocast, too; so does the batch norm after it, by the type of its input."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return F.linear(x.float(), self.weight, self.bias)


def last_linear(network: nn.Module) -> nn.Linear | None:
    """The layer that makes the embedding; None for a network that ends with something else."""
    return next((module for module in reversed(list(network.modules())) if isinstance(module, nn.Linear)), None)


def keep_last_layer_fp32(network: nn.Module) -> None:
    """Make the layer that makes the embedding compute in float32 under autocast, as arcface_torch does (`fc(x.float())`).

    Raises:
        InputError: The network has no linear layer.
    """
    layer = last_linear(network)
    if layer is None:
        raise InputError("last_layer_fp32: this backbone has no linear layer; leave last_layer_fp32 out")
    layer.__class__ = _Float32Linear


def epsilon_of(network: nn.Module) -> float:
    """The epsilon of the network's batch norms; torch's own for a network without one."""
    return next((module.eps for module in network.modules() if isinstance(module, _NORMS)), EPSILON)


def set_epsilon(network: nn.Module, epsilon: float) -> None:
    """Give all batch norms this epsilon."""
    for module in network.modules():
        if isinstance(module, _NORMS):
            module.eps = epsilon


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

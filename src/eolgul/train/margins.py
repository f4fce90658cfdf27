"""Margins: training lowers the cosine to the true identity's centre, so that identities end up further apart.

Each margin is a module. Its inputs are the cosines between N embeddings and the centres of their own identities (float N,
in [-1, 1]) and the lengths of the embeddings (float N); its output replaces the cosines (float N). `strength` in [0, 1]
scales the margin during its warm-up.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

# The slope of sqrt is infinite at 0; at this distance it is finite, and no usable digit of the result changes.
_FLOOR = 1e-12


class Margin(nn.Module):
    """No margin; the base of the others."""

    def __init__(self) -> None:
        super().__init__()
        self.strength = 1.0

    def forward(self, cosine: Tensor, lengths: Tensor) -> Tensor:
        """Apply the margin; see the module's docstring for the shapes."""
        return cosine


class ArcFace(Margin):
    """cos(angle + margin), margin in radians (Deng et al. 2019, arXiv:1801.07698, eq. 3).

    Where angle + margin exceeds pi, the value falls further as `cos(angle) - margin * sin(margin)` (easy margin
    off), so that it is monotonic in the angle.

    `straight_through` gives the margin as arcface_torch's CombinedMarginLoss does, with which insightface's published tables were
    trained: the value is `cos(angle + margin)`, also past pi, and its derivative by the cosine is taken to be 1. The exact
    derivative, `sin(angle + margin) / sin(angle)`, is 1.35 at 45 degrees, 0.88 at 90 and 0.45 at 132.
    """

    def __init__(self, margin: float = 0.5, *, straight_through: bool = False) -> None:
        super().__init__()
        self.margin, self.straight_through = margin, straight_through

    def forward(self, cosine: Tensor, lengths: Tensor) -> Tensor:
        """Apply the margin to the cosines."""
        margin = self.margin * self.strength
        if self.straight_through:
            with torch.no_grad():
                change = torch.cos(torch.acos(cosine.clamp(-1, 1)) + margin) - cosine
            return cosine + change
        sine = torch.sqrt((1.0 - cosine * cosine).clamp_min(_FLOOR))
        rotated = cosine * math.cos(margin) - sine * math.sin(margin)
        past_pi = cosine <= math.cos(math.pi - margin)
        return torch.where(past_pi, cosine - margin * math.sin(margin), rotated)


class CosFace(Margin):
    """cos(angle) - margin (Wang et al. 2018, arXiv:1801.09414, eq. 4)."""

    def __init__(self, margin: float = 0.35) -> None:
        super().__init__()
        self.margin = margin

    def forward(self, cosine: Tensor, lengths: Tensor) -> Tensor:
        """Apply the margin to the cosines."""
        return cosine - self.margin * self.strength


def _angle(cosine: Tensor) -> Tensor:
    """The angle of a cosine, kept a few machine epsilons away from 0 and pi, where the slope of acos is infinite."""
    most = 1 - 4 * torch.finfo(cosine.dtype).eps
    return torch.acos(cosine.clamp(-most, most))


class Combined(Margin):
    """cos(m1 * angle + m2) - m3 (arXiv:1801.07698, eq. 4): SphereFace's, ArcFace's and CosFace's margins at once.

    Past pi the cosine is unrolled as SphereFace does (Liu et al. 2017, arXiv:1704.08063, eq. 7):
    `(-1)^k * cos(phi) - 2k` with `k = floor(phi / pi)`, continuous and falling all the way.
    """

    def __init__(self, m1: float = 1.0, m2: float = 0.3, m3: float = 0.2) -> None:
        super().__init__()
        self.m1, self.m2, self.m3 = m1, m2, m3

    def forward(self, cosine: Tensor, lengths: Tensor) -> Tensor:
        """Apply the margin to the cosines."""
        angle = _angle(cosine)
        phi = (1 + (self.m1 - 1) * self.strength) * angle + self.m2 * self.strength
        turns = torch.floor(phi.detach() / math.pi)
        sign = 1.0 - 2.0 * (turns % 2)
        return sign * torch.cos(phi) - 2 * turns - self.m3 * self.strength


class AdaFace(Margin):
    """A margin by image quality, measured by the embedding's length (Kim et al. 2022, arXiv:2204.00964, eq. 8-11).

    `z = clip((length - mean) / std * h, -1, 1)`, with running mean and deviation over batches (lengths above 100 count as
    100, as in the authors' code); the result is `cos(angle - m * z) - (m * z + m)`. Sharp images are emphasised near the
    decision boundary, poor ones are not. No gradient flows through the length. `observe` needs the lengths of the whole
    batch, the same on all ranks.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, margin: float = 0.4, *, h: float = 0.333, momentum: float = 0.99) -> None:
        super().__init__()
        self.margin, self.h, self.momentum = margin, h, momentum
        self.register_buffer(
            "mean", torch.tensor(20.0)
        )  # the authors' start: about the lengths of an untrained network
        self.register_buffer("std", torch.tensor(100.0))

    @torch.no_grad()
    def observe(self, lengths: Tensor) -> None:
        """Update the running mean and standard deviation with the lengths of a batch (float N, N > 1)."""
        lengths = lengths.clamp(1e-3, 100)
        self.mean.lerp_(lengths.mean().to(self.mean.dtype), 1 - self.momentum)
        self.std.lerp_(lengths.std().to(self.std.dtype), 1 - self.momentum)

    def forward(self, cosine: Tensor, lengths: Tensor) -> Tensor:
        """Apply the margin to the cosines."""
        margin = self.margin * self.strength
        lengths = lengths.detach().clamp(1e-3, 100)
        z = ((lengths - self.mean) / (self.std + 1e-3) * self.h).clamp(-1, 1)
        angle = _angle(cosine) - margin * z
        return torch.cos(angle.clamp(1e-3, math.pi - 1e-3)) - (margin * z + margin)


def make_margin(name: str, margin: float, m1: float, m3: float, *, straight_through: bool = False) -> Margin:
    """Make the margin that a recipe names; `m1` and `m3` belong to the combined one only, `straight_through` to ArcFace."""
    if name == "arcface":
        return ArcFace(margin, straight_through=straight_through)
    if name == "combined":
        return Combined(m1, margin, m3)
    if name == "softmax":
        return Margin()
    return CosFace(margin) if name == "cosface" else AdaFace(margin)

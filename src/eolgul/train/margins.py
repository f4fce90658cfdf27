"""Margins: what is taken from the true identity's cosine in training, so that people end up further apart.

Each is a module from the cosines between N embeddings and their own identity's centre (float N, in [-1, 1]) and the
embeddings' lengths (float N) to what stands in their place (float N). `strength` in [0, 1] scales the margin while it
warms up.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

# sqrt has no finite slope at 0; at this distance from it it has, and no usable digit changes.
_FLOOR = 1e-12


class Margin(nn.Module):
    """The base: no margin."""

    def __init__(self) -> None:
        super().__init__()
        self.strength = 1.0

    def forward(self, cosine: Tensor, lengths: Tensor) -> Tensor:
        return cosine


class ArcFace(Margin):
    """cos(angle + margin), margin in radians (Deng et al. 2019, arXiv:1801.07698, eq. 3).

    Where angle + margin would pass pi, the value goes on falling as `cos(angle) - margin * sin(margin)` (easy margin
    off), so that it is monotonic in the angle.
    """

    def __init__(self, margin: float = 0.5) -> None:
        super().__init__()
        self.margin = margin

    def forward(self, cosine: Tensor, lengths: Tensor) -> Tensor:
        margin = self.margin * self.strength
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
        return cosine - self.margin * self.strength


def _angle(cosine: Tensor) -> Tensor:
    """The angle of a cosine, kept a few of its type's steps away from 0 and pi, where acos has no finite slope."""
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
        angle = _angle(cosine)
        phi = (1 + (self.m1 - 1) * self.strength) * angle + self.m2 * self.strength
        turns = torch.floor(phi.detach() / math.pi)
        sign = 1.0 - 2.0 * (turns % 2)
        return sign * torch.cos(phi) - 2 * turns - self.m3 * self.strength


class AdaFace(Margin):
    """A margin by image quality, which the embedding's length stands for (Kim et al. 2022, arXiv:2204.00964, eq. 8-11).

    `z = clip((length - mean) / std * h, -1, 1)` of running figures over batches (lengths above 100 count as 100, as in
    the authors' code); then
    `cos(angle - m * z) - (m * z + m)`: sharp pictures are pushed at the border, poor ones left alone. The length takes
    part without gradient. `lengths` must be the whole batch's, on all ranks the same.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, margin: float = 0.4, *, h: float = 0.333, momentum: float = 0.99) -> None:
        super().__init__()
        self.margin, self.h, self.momentum = margin, h, momentum
        self.register_buffer("mean", torch.tensor(20.0))  # the authors' start: about a fresh network's lengths
        self.register_buffer("std", torch.tensor(100.0))

    @torch.no_grad()
    def observe(self, lengths: Tensor) -> None:
        """Take a batch's lengths (float N, N > 1) into the running mean and standard deviation."""
        lengths = lengths.clamp(1e-3, 100)
        self.mean.lerp_(lengths.mean().to(self.mean.dtype), 1 - self.momentum)
        self.std.lerp_(lengths.std().to(self.std.dtype), 1 - self.momentum)

    def forward(self, cosine: Tensor, lengths: Tensor) -> Tensor:
        margin = self.margin * self.strength
        lengths = lengths.detach().clamp(1e-3, 100)
        z = ((lengths - self.mean) / (self.std + 1e-3) * self.h).clamp(-1, 1)
        angle = _angle(cosine) - margin * z
        return torch.cos(angle.clamp(1e-3, math.pi - 1e-3)) - (margin * z + margin)


def make_margin(name: str, margin: float, m1: float, m3: float) -> Margin:
    """The margin that a recipe names; `m1` and `m3` are of the combined one only."""
    if name == "combined":
        return Combined(m1, margin, m3)
    return {"arcface": ArcFace, "cosface": CosFace, "adaface": AdaFace, "softmax": lambda _: Margin()}[name](margin)

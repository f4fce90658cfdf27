"""ArcFace: the additive angular margin (Deng et al. 2019, arXiv:1801.07698, eq. 3). Used in training only.

The head is never packaged: its rows stand for training people, and recognition is about people it never saw.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ArcFace(nn.Module):
    """Logits `scale * cos(angle + margin)` for the true identity and `scale * cos(angle)` for the others.

    Where angle + margin would pass pi, the logit goes on falling as `cos(angle) - margin * sin(margin)` (easy margin
    off), so that it is monotonic in the angle. `margin` is in radians.
    """

    def __init__(self, embedding_size: int, identities: int, *, scale: float = 64.0, margin: float = 0.5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(identities, embedding_size))
        nn.init.normal_(self.weight, std=0.01)
        self.scale = scale
        self.margin = margin

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """embeddings N x D (any length), labels int64 N → logits float32 N x identities."""
        # The cosine is taken in float32 under autocast too: near +-1 a bfloat16 cosine has no angle left.
        with torch.autocast(embeddings.device.type, enabled=False):
            cosine = F.linear(F.normalize(embeddings.float()), F.normalize(self.weight.float()))
            return self.scale * add_margin(cosine, labels, self.margin)


def add_margin(cosine: Tensor, labels: Tensor, margin: float) -> Tensor:
    """Put the angular margin on each row's true identity. cosine N x K in [-1, 1], labels int64 N → N x K."""
    rows = torch.arange(len(labels), device=cosine.device)
    true = cosine[rows, labels]
    # sqrt has no gradient at 0, where the angle is 0 or pi; the floor keeps it finite and changes no usable digit.
    sine = torch.sqrt((1.0 - true * true).clamp_min(1e-12))
    rotated = true * math.cos(margin) - sine * math.sin(margin)
    past_pi = true <= math.cos(math.pi - margin)
    target = torch.where(past_pi, true - margin * math.sin(margin), rotated)
    return cosine.index_put((rows, labels), target)

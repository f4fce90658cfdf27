"""The classification head: one or more centres per training identity, split over the processes.

It serves training only and is never packaged: its rows stand for training identities, and recognition is about people
that the network has never seen.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eolgul.train.distributed import World
from eolgul.train.margins import AdaFace, Margin

_BLOCK = 4096  # identities whose first centres are drawn at once, so that they are the same however they are cut


class Head(nn.Module):
    """Cosines to every identity's centre, the margin, the scale and the cross-entropy, over all ranks at once.

    Each rank holds the centres of its share of the identities (PartialFC, An et al. 2022, arXiv:2203.15565); the
    softmax's denominator is summed over ranks. With `sample` < 1 a step uses that share of all identities: the batch's own and
    random others; time and the memory for gradients fall with it. With `centers` > 1 an identity's cosine is
    the largest of its centres' (Sub-center ArcFace, Deng et al. 2020, ECCV). The first centres are small (normal, deviation
    0.01, as arcface_torch's) or, with `unit`, of length 1 (as InsightFace_Pytorch's): the shorter, the more a step turns
    them. `weight` is float32,
    identities of this rank x centers x embedding size.
    """

    momentum: Tensor

    def __init__(
        self,
        embedding_size: int,
        identities: int,
        margin: Margin,
        *,
        scale: float = 64.0,
        centers: int = 1,
        sample: float = 1.0,
        unit: bool = False,
        seed: int = 0,
        world: World = World(),  # noqa: B008 - immutable
    ) -> None:
        super().__init__()
        self.margin, self.scale, self.world, self.sample, self.seed = margin, scale, world, sample, seed
        self.identities = identities
        self.begin, self.end = world.shard(identities)
        self.weight = nn.Parameter(_first_centres(self.begin, self.end, centers, embedding_size, seed, unit))
        self._rows: Tensor | None = None
        self._active: Tensor | None = None  # the chosen centres, a leaf that gradients reach
        if sample < 1:
            self.register_buffer("momentum", torch.zeros_like(self.weight))

    def choose(self, labels: Tensor, position: tuple[int, int]) -> None:
        """Choose the centres of this rank that take part in the next step.

        Args:
            labels: All labels of this rank in the step, int64.
            position: (epoch, step); with the seed and the rank it determines the choice.
        """
        if self.sample >= 1:
            return
        count = self.end - self.begin
        own = torch.unique(self.world.gather(labels)) - self.begin
        own = own[(own >= 0) & (own < count)]
        generator = torch.Generator(self.weight.device)
        generator.manual_seed(hash((self.seed, *position, self.world.rank)) % 2**63)
        lots = torch.rand(count, generator=generator, device=self.weight.device)
        lots[own] = 2.0
        wanted = min(count, max(len(own), round(self.sample * count)))
        self._rows = lots.topk(wanted).indices.sort().values
        self._active = self.weight.detach()[self._rows].requires_grad_()

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Compute the loss, averaged over the rows of all ranks.

        Args:
            embeddings: This rank's embeddings, N x D, of any length.
            labels: Their identities, int64 N.
        """
        # The cosine is taken in float32 under autocast too: near +-1 a bfloat16 cosine has no angle left.
        with torch.autocast(embeddings.device.type, enabled=False):
            logits, own = self.logits(embeddings, labels)
            if self.world.size == 1:
                return F.cross_entropy(logits, own)
            loss: Tensor = _ShardedCrossEntropy.apply(logits, own, self.world)
            return loss

    def logits(self, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of all ranks' rows for this rank's chosen centres (N x chosen), and each row's column (-1: on another rank)."""
        everyone = self.world.gather_with_gradient(embeddings.to(self.weight.dtype))
        own = self._columns(self.world.gather(labels))
        lengths = everyone.norm(dim=1)
        if isinstance(self.margin, AdaFace) and self.training:
            self.margin.observe(lengths)
        active = self.weight if self._active is None else self._active
        chosen, centers, size = active.shape
        cosine = F.linear(F.normalize(everyone), F.normalize(active, dim=2).view(chosen * centers, size))
        if centers > 1:
            cosine = cosine.view(-1, chosen, centers).amax(dim=2)
        # With one rank every row's identity is here; a search for them would make the GPU wait.
        rows = torch.arange(len(own), device=own.device) if self.world.size == 1 else torch.nonzero(own >= 0).squeeze(1)
        target = self.margin(cosine[rows, own[rows]], lengths[rows])
        return self.scale * cosine.index_put((rows, own[rows]), target), own

    def _columns(self, labels: Tensor) -> Tensor:
        local = labels - self.begin
        here = (local >= 0) & (local < self.end - self.begin)
        if self._rows is not None:
            local = torch.searchsorted(self._rows, local.clamp_min(0))
        return torch.where(here, local, -1)

    @property
    def gradient(self) -> Tensor | None:
        """Of the chosen centres."""
        return self.weight.grad if self._active is None else self._active.grad

    @torch.no_grad()
    def update(self, *, learning_rate: float, momentum: float, weight_decay: float) -> None:
        """With `sample` < 1: one step of SGD on the chosen centres and on nothing else, as PartialFC does it."""
        if self._rows is None or self._active is None or self._active.grad is None:
            return
        gradient = self._active.grad.add_(self._active, alpha=weight_decay)
        moved = self.momentum[self._rows].mul_(momentum).add_(gradient)
        self.momentum[self._rows] = moved
        self.weight[self._rows] = self._active.detach().sub_(moved, alpha=learning_rate)


class _ShardedCrossEntropy(torch.autograd.Function):
    """Mean cross-entropy of rows whose logits are spread over the ranks by column; -1 marks a target on another rank."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, own: Tensor, world: World) -> Tensor:
        top = world.max(logits.amax(dim=1) if logits.shape[1] else logits.new_full((len(logits),), -torch.inf))
        shares = torch.exp(logits - top[:, None])
        shares /= world.sum(shares.sum(dim=1))[:, None]
        rows = torch.nonzero(own >= 0).squeeze(1)
        true = torch.zeros_like(top)
        true[rows] = shares[rows, own[rows]]
        world.sum(true)
        ctx.save_for_backward(shares, rows, own)
        return -true.clamp_min(torch.finfo(true.dtype).tiny).log().mean()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        shares, rows, own = ctx.saved_tensors
        slope = shares.clone()
        slope[rows, own[rows]] -= 1
        return slope * (gradients[0] / len(slope)), None, None


def _first_centres(begin: int, end: int, centers: int, size: int, seed: int, unit: bool) -> Tensor:
    """Normal numbers of deviation 0.01, or of the same direction and length 1.

    They are drawn block by block, so that they do not depend on the number of ranks.
    """
    weight = torch.empty(end - begin, centers, size)
    for block in range(begin // _BLOCK, -(-end // _BLOCK)):
        generator = torch.Generator().manual_seed(hash((seed, block)) % 2**63)
        drawn = torch.randn(_BLOCK, centers, size, generator=generator) * 0.01
        drawn = F.normalize(drawn, dim=2) if unit else drawn
        first = block * _BLOCK
        low, high = max(begin, first), min(end, first + _BLOCK)
        weight[low - begin : high - begin] = drawn[low - first : high - first]
    return weight

"""The optimizer, the learning-rate schedule, the averaged weights and the scale of the loss."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from eolgul.errors import InputError
from eolgul.train.backbones import last_linear
from eolgul.train.distributed import World
from eolgul.train.head import Head
from eolgul.train.recipe import Recipe

_LOSS_SCALE = 2.0**16
_GROW_AFTER = 2000  # steps without an overflow before the scale doubles, as in torch's GradScaler


def learning_rate(recipe: Recipe, position: float) -> float:
    """The learning rate at `position`, in epochs with a fraction.

    A linear warm-up, then the recipe's schedule: steps of a tenth, half a cosine, or a power of the remaining time. While
    the network is frozen the head learns at the full rate; the warm-up is the network's and follows.
    """
    return _rate(recipe, position) * (recipe.batch_size / recipe.base_batch if recipe.base_batch else 1)


def _rate(recipe: Recipe, position: float) -> float:
    since = position - recipe.freeze_epochs
    if since < 0:
        return recipe.learning_rate
    if since < recipe.warmup_epochs:
        return recipe.learning_rate * (0.01 + 0.99 * since / recipe.warmup_epochs)
    if recipe.schedule == "step":
        return float(recipe.learning_rate * 0.1 ** sum(position >= milestone for milestone in recipe.milestones))
    share = (since - recipe.warmup_epochs) / max(recipe.epochs - recipe.freeze_epochs - recipe.warmup_epochs, 1e-9)
    if recipe.schedule == "poly":
        return float(recipe.learning_rate * max(0.0, 1 - share) ** recipe.poly_power)
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))


def make_optimizer(recipe: Recipe, network: nn.Module, head: Head) -> torch.optim.Optimizer:
    """Make the recipe's optimizer of a network and, unless the head samples its centres and moves them itself, of the head.

    Every state tensor exists from the start (zeros, which give the same first step), so that a checkpoint can be read
    into it.
    """
    parameters = [value for value in network.parameters() if value.requires_grad]
    parameters += [head.weight] if head.sample >= 1 else []
    decays = _decays(recipe, network, head)
    by_decay: dict[float, list[nn.Parameter]] = {}
    for value in parameters:
        by_decay.setdefault(decays[id(value)], []).append(value)
    groups = [{"params": values, "weight_decay": decay} for decay, values in by_decay.items()]
    optimizer: torch.optim.Optimizer
    if recipe.optimizer == "adamw":
        optimizer = torch.optim.AdamW(groups, lr=recipe.learning_rate, fused=True)
    else:
        optimizer = torch.optim.SGD(groups, lr=recipe.learning_rate, momentum=recipe.momentum, fused=True)
    for value in parameters:
        if recipe.optimizer == "adamw":
            moments = {"exp_avg": torch.zeros_like(value), "exp_avg_sq": torch.zeros_like(value)}
            optimizer.state[value] = {"step": torch.zeros((), device=value.device), **moments}
        elif recipe.momentum:
            optimizer.state[value] = {"momentum_buffer": torch.zeros_like(value)}
    return optimizer


def _decays(recipe: Recipe, network: nn.Module, head: Head) -> dict[int, float]:
    """The weight decay of each parameter, by its id."""
    batch_norms = (nn.BatchNorm1d, nn.BatchNorm2d)
    norms = {
        id(value) for module in network.modules() if isinstance(module, batch_norms) for value in module.parameters()
    }
    layer = last_linear(network)
    last = {id(head.weight), *map(id, layer.parameters() if layer is not None else ())}
    decays = {}
    for value in (*network.parameters(), head.weight):
        does = {"weights": value.ndim > 1, "no_batch_norm": id(value) not in norms, "all": True}[recipe.decay]
        decays[id(value)] = recipe.weight_decay * does * (recipe.last_decay if id(value) in last else 1.0)
    return decays


@torch.no_grad()
def clip_gradients(
    network: nn.Module, head: Head, most: float, factor: float, world: World, *, which: str = "joint"
) -> Tensor:
    """Take the loss scale out of all gradients and scale them down to a norm of `most` at most.

    Args:
        network: The network.
        head: The head, or this rank's share of it.
        most: The largest norm.
        factor: The loss scale.
        world: The processes.
        which: `joint` (the norm of network and head together), `backbone` (the network's norm; the head is not clipped) or `none`.

    Returns:
        The norm of all gradients before, to be checked for overflow.
    """
    own = [value.grad for value in network.parameters() if value.grad is not None]
    centres = [] if head.gradient is None else [head.gradient]
    of_centres = world.sum(torch.stack([value.norm() ** 2 for value in centres]).sum())
    of_network = nn.utils.get_total_norm(own) ** 2 if own else torch.zeros_like(of_centres)
    norm = (of_network + of_centres).sqrt() / factor
    clipped = of_network.sqrt() / factor if which == "backbone" else norm
    share = torch.ones_like(norm) if which == "none" else (most / (clipped + 1e-6)).clamp(max=1.0)
    if which == "joint":
        torch._foreach_mul_([*own, *centres], share / factor)
    else:
        for gradients, scale in ((own, share / factor), (centres, torch.ones_like(norm) / factor)):
            if gradients:
                torch._foreach_mul_(gradients, scale)
    return norm


def autocast_dtype(recipe: Recipe, device: torch.device) -> torch.dtype | None:
    """The type of autocast for the recipe's `precision`; "auto" is bfloat16 where it is computed natively."""
    if recipe.precision != "auto":
        return {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[recipe.precision]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else None
    native = torch.backends.cpu.get_cpu_capability() == "AVX512" and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.bfloat16 if native else None


class Average:
    """An exponential moving average of a network's parameters and floating-point buffers; other buffers are copied."""

    def __init__(self, network: nn.Module, keep: float) -> None:
        self.keep = keep
        self.state = {name: value.detach().clone() for name, value in network.state_dict().items()}

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Take the network's current state into the average."""
        own, new = [], []
        for name, value in network.state_dict().items():
            if value.is_floating_point():
                own.append(self.state[name])
                new.append(value)
            else:
                self.state[name].copy_(value)
        torch._foreach_lerp_(own, new, 1 - self.keep)


class LossScale:
    """A factor on the loss that keeps small fp16 gradients from vanishing; it is halved when gradients overflow.

    Without fp16 the factor is 1, and an overflow ends the run.
    """

    def __init__(self, fp16: bool) -> None:
        self.fp16 = fp16
        self.factor = _LOSS_SCALE if fp16 else 1.0
        self.calm = 0

    def accept(self, norm: Tensor) -> bool:
        """Whether to take the step, by the norm of the gradients. With fp16 this waits for the device.

        Raises:
            InputError: The gradients overflow at the smallest scale.
        """
        if not self.fp16:
            return True
        if math.isfinite(norm.item()):
            self.calm += 1
            if self.calm == _GROW_AFTER:
                self.factor, self.calm = self.factor * 2, 0
            return True
        self.factor, self.calm = self.factor / 2, 0
        if self.factor < 2**-10:
            raise InputError("the gradients overflow fp16 at any scale of the loss: use precision=bf16 or fp32")
        return False

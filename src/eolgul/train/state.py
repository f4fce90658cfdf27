"""Everything a training run has learned and remembers, as tensors by name: what a checkpoint holds."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard

from eolgul.train.distributed import World
from eolgul.train.head import Head
from eolgul.train.optim import Average


def tensors(
    network: nn.Module, head: Head, optimizer: torch.optim.Optimizer, average: Average | None, world: World
) -> dict[str, Tensor]:
    """The live tensors: writing into them is loading. With several ranks the head's are DTensors, this rank's share of
    the whole, so that a checkpoint can be read by any number of ranks."""
    found = {f"network.{name}": value for name, value in network.state_dict().items()}
    found |= {f"head.{name}": value for name, value in head.state_dict().items()}
    names = {id(value): f"network.{name}" for name, value in network.named_parameters()}
    names[id(head.weight)] = "head.weight"
    for parameter, kept in optimizer.state.items():
        found |= {f"optimizer.{names[id(parameter)]}.{key}": value for key, value in kept.items()}
    if average is not None:
        found |= {f"average.{name}": value for name, value in average.state.items()}
    if world.size == 1:
        return found
    mesh = init_device_mesh(head.weight.device.type, (world.size,))
    for name, value in found.items():
        if name.partition("head.")[1] and value.ndim == head.weight.ndim:
            whole = torch.Size((head.identities, *value.shape[1:]))
            stride = torch.empty(whole, device="meta").stride()
            found[name] = DTensor.from_local(
                value.detach(), mesh, [Shard(0)], run_check=False, shape=whole, stride=stride
            )
    return found

"""The state of a training run as tensors by name: the content of a checkpoint."""

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
    """The live tensors of a run: to load a checkpoint is to write into them.

    With several ranks the tensors of the head are DTensors, this rank's share of the whole, so that any number of ranks can
    read a checkpoint.
    """
    state = {f"network.{name}": value for name, value in network.state_dict().items()}
    state |= {f"head.{name}": value for name, value in head.state_dict().items()}
    names = {id(value): f"network.{name}" for name, value in network.named_parameters()}
    names[id(head.weight)] = "head.weight"
    for parameter, kept in optimizer.state.items():
        state |= {f"optimizer.{names[id(parameter)]}.{key}": value for key, value in kept.items()}
    if average is not None:
        state |= {f"average.{name}": value for name, value in average.state.items()}
    if world.size == 1:
        return state
    mesh = init_device_mesh(head.weight.device.type, (world.size,))
    for name, value in state.items():
        if name.partition("head.")[1] and value.ndim == head.weight.ndim:
            whole = torch.Size((head.identities, *value.shape[1:]))
            stride = torch.empty(whole, device="meta").stride()
            state[name] = DTensor.from_local(
                value.detach(), mesh, [Shard(0)], run_check=False, shape=whole, stride=stride
            )
    return state

"""The processes of one training run, as `torchrun` starts them; without it, a single process."""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from eolgul.errors import InputError

_WAIT = datetime.timedelta(hours=2)  # rank 0 validates and packages alone while the others wait
_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True)
class World:
    """This process's number among `size`. With size 1 no collective is called.

    Attributes:
        rank: This process's number.
        size: The number of processes.
        machine: The number of the machine that it runs on; rank 0 is on machine 0.
        first_here: Whether it is the first process of its machine.
        group: The processes' connection; None for the one that training uses.
    """

    rank: int = 0
    size: int = 1
    machine: int = 0
    first_here: bool = True
    group: Any = None

    def apart(self) -> World:
        """The same processes over a connection of its own, which a thread may use beside the training; all ranks call it."""
        return self if self.size == 1 else replace(self, group=dist.new_group(backend="gloo", timeout=_WAIT))

    @property
    def first(self) -> bool:
        """Whether this is rank 0, which writes and reports."""
        return self.rank == 0

    def shard(self, total: int) -> tuple[int, int]:
        """The half-open range of `total` rows that this rank holds: torch.chunk's, as DTensor and checkpoints cut."""
        each = -(-total // self.size)
        return min(self.rank * each, total), min((self.rank + 1) * each, total)

    def gather(self, tensor: Tensor) -> Tensor:
        """Every rank's rows in rank order, without gradient; all ranks have the same number."""
        if self.size == 1:
            return tensor
        parts = [torch.empty_like(tensor) for _ in range(self.size)]
        dist.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)

    def gather_with_gradient(self, tensor: Tensor) -> Tensor:
        """As `gather`; the gradient is the sum of all ranks', times `size` (DistributedDataParallel divides by it)."""
        if self.size == 1:
            return tensor
        gathered: Tensor = _Gather.apply(tensor, self)
        return gathered

    def sum(self, tensor: Tensor) -> Tensor:
        """Sum over the ranks, in place."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def max(self, tensor: Tensor) -> Tensor:
        """Maximum over the ranks, in place."""
        if self.size > 1:
            dist.all_reduce(tensor, dist.ReduceOp.MAX)
        return tensor

    def share(self, value: _Value) -> _Value:
        """Rank 0's Python value on every rank."""
        if self.size == 1:
            return value
        box: list[Any] = [value]
        dist.broadcast_object_list(box, src=0, group=self.group)
        shared: _Value = box[0]
        return shared

    def collect(self, value: _Value) -> list[_Value]:
        """Every rank's Python value, in rank order."""
        if self.size == 1:
            return [value]
        box: list[Any] = [None] * self.size
        dist.all_gather_object(box, value, group=self.group)
        return box

    def wait(self) -> None:
        """Wait until all ranks are here."""
        if self.size > 1:
            dist.barrier(group=self.group)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, world: World) -> Tensor:
        ctx.world, ctx.rows = world, len(tensor)
        return world.gather(tensor)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        total = ctx.world.sum(gradients[0].contiguous())
        begin = ctx.world.rank * ctx.rows
        return total[begin : begin + ctx.rows] * ctx.world.size, None


@contextmanager
def joined(device: torch.device) -> Iterator[World]:
    """Join the run that `torchrun` started (its RANK and WORLD_SIZE), over NCCL on GPUs and gloo on CPUs.

    Raises:
        InputError: RANK or another of its variables is not a number.
    """
    try:
        rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
        here = int(os.environ.get("LOCAL_RANK", "0"))
    except ValueError as error:
        raise InputError("RANK, WORLD_SIZE and LOCAL_RANK must be numbers, as torchrun sets them") from error
    number = machine()
    if size == 1:
        yield World()
        return
    # With both backends, Python values travel over gloo and never wait behind the GPU's work.
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=_WAIT)
    try:
        yield World(rank, size, number, here == 0)
    finally:
        dist.destroy_process_group()


def machine() -> int:
    """The number of this machine in its run (torchrun's GROUP_RANK); 0 without a launcher.

    Raises:
        InputError: It is not a number.
    """
    try:
        return int(os.environ.get("GROUP_RANK", "0"))
    except ValueError as error:
        raise InputError("GROUP_RANK must be a number, as torchrun sets it") from error


def processes_here(world: World) -> int:
    """The processes of this run on this machine, which share its memory (torchrun's LOCAL_WORLD_SIZE)."""
    return min(world.size, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def connection_lost(error: BaseException) -> bool:
    """Whether a collective failed because another process is gone (gloo raises plain RuntimeErrors)."""
    text = str(error)
    return isinstance(error, dist.DistError) or any(word in text for word in ("gloo", "Connection", "Broken pipe"))


def pick_device(name: str) -> torch.device:
    """The device of `auto`, `cpu`, `cuda` or `cuda:<n>`; under torchrun each process of a machine takes its own GPU.

    Raises:
        InputError: The name is unknown, or there is no GPU.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise InputError(f"device {name!r}: torch finds no GPU here")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"device {name!r}: expected auto, cpu, cuda or cuda:<number>") from error
    if device.type == "cuda" and "LOCAL_RANK" in os.environ:
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device

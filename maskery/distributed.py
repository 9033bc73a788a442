"""Distributed processes: this process's rank and device, and the few values processes exchange."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as td
from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True)
class World:
    """This process among all: started by `torchrun`, or alone."""

    rank: int
    size: int
    local_size: int  # processes on this machine
    device: torch.device
    control: Any = None  # a gloo group for values exchanged without waiting for the GPU

    @property
    def main(self) -> bool:
        return self.rank == 0

    def total(self, values: torch.Tensor) -> torch.Tensor:
        """Sum over all processes, in place."""
        if self.size > 1:
            td.all_reduce(values)
        return values

    def any(self, value: bool) -> bool:
        """True on all processes when `value` is true on one. Does not touch the GPU."""
        if self.size == 1:
            return value
        flag = torch.tensor([float(value)])
        td.all_reduce(flag, group=self.control)
        return bool(flag.item())

    def same(self, value: float) -> bool:
        """True when all processes have the same value."""
        if self.size == 1:
            return True
        ends = torch.tensor([value, -value], dtype=torch.float64)
        td.all_reduce(ends, op=td.ReduceOp.MAX, group=self.control)
        return ends[0].item() == -ends[1].item()

    def gather(self, value: Any) -> list[Any]:
        """The values of all processes in rank order, on every process. Does not touch the GPU."""
        values = [value] * self.size
        if self.size > 1:
            td.all_gather_object(values, value, group=self.control)
        return values

    def wait(self) -> None:
        """Wait until all processes have arrived here."""
        if self.size > 1:
            td.barrier(group=self.control)


def summed(values: torch.Tensor) -> torch.Tensor:
    """Sum over all processes, in place, for code that has no `World`: networks."""
    if td.is_available() and td.is_initialized():
        td.all_reduce(values)
    return values


def data_parallel(model: Any, device: torch.device) -> DistributedDataParallel:
    """Replicate the model and average gradients. Buffers are not broadcast: the only ones are means and standard
    deviations of images, equal from the start."""
    with warnings.catch_warnings():  # not every supported torch has the new name, forward_sync_buffers
        warnings.simplefilter("ignore", FutureWarning)
        ids = [device.index] if device.type == "cuda" else None
        return DistributedDataParallel(model, device_ids=ids, gradient_as_bucket_view=True, broadcast_buffers=False)


ALONE = World(0, 1, 1, torch.device("cpu"))


@contextmanager
def world() -> Iterator[World]:
    """Join the processes `torchrun` started (nccl on GPUs, gloo on CPUs); alone without it.

    ValueError when this PyTorch cannot, or when a machine has fewer GPUs than processes.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    cuda = torch.cuda.is_available()
    local = int(os.environ.get("LOCAL_RANK", "0"))
    device = torch.device("cuda", local) if cuda else torch.device("cpu")
    if size > 1 and not (td.is_available() and (td.is_nccl_available() if cuda else td.is_gloo_available())):
        raise ValueError(
            f"this PyTorch has no {'nccl' if cuda else 'gloo'}: without it, one process alone ({size} were started)"
        )
    if cuda and local >= torch.cuda.device_count():
        raise ValueError(
            f"process {local + 1} of this machine has no GPU of its own, there are {torch.cuda.device_count()}: "
            f"torchrun --nproc-per-node {torch.cuda.device_count()} at most"
        )
    if cuda:
        torch.cuda.set_device(device)
    if size == 1:
        yield World(0, 1, 1, device)
        return
    joined_here = not td.is_initialized()
    if joined_here:
        td.init_process_group("nccl" if cuda else "gloo", device_id=device if cuda else None)
    try:
        rank, local_size = td.get_rank(), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        yield World(rank, size, local_size, device, td.new_group(backend="gloo"))
    finally:
        if joined_here:
            td.destroy_process_group()

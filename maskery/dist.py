"""One process or many: who we are, and the few things processes say to each other."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as td


@dataclass(frozen=True)
class World:
    """This process among all: started by `torchrun`, or alone."""

    rank: int
    size: int
    local_size: int  # processes on this machine
    device: torch.device
    control: Any = None  # a gloo group for words between processes that must not wait for the GPU

    @property
    def main(self) -> bool:
        return self.rank == 0

    def total(self, values: torch.Tensor) -> torch.Tensor:
        """The sum over all processes (in place)."""
        if self.size > 1:
            td.all_reduce(values)
        return values

    def any(self, word: bool) -> bool:
        """True everywhere when it is true somewhere. Does not touch the GPU."""
        if self.size == 1:
            return word
        flag = torch.tensor([float(word)])
        td.all_reduce(flag, group=self.control)
        return bool(flag.item())

    def same(self, value: float) -> bool:
        """True when all processes have the same value."""
        if self.size == 1:
            return True
        ends = torch.tensor([value, -value], dtype=torch.float64)
        td.all_reduce(ends, op=td.ReduceOp.MAX, group=self.control)
        return ends[0].item() == -ends[1].item()

    def wait(self) -> None:
        """Go on when all processes have come here."""
        if self.size > 1:
            td.barrier(group=self.control)


@contextmanager
def world() -> Iterator[World]:
    """Join the processes `torchrun` started (nccl on GPUs, gloo on CPUs); alone without it."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    cuda = torch.cuda.is_available()
    local = int(os.environ.get("LOCAL_RANK", "0"))
    device = torch.device("cuda", local) if cuda else torch.device("cpu")
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

"""Memory that loader processes fill and the loop empties, over and over, on the way to a GPU.

A page that is touched for the first time costs more than what is then written into it: with fresh memory for every
batch, handing over a 500 x 375 photograph took a fifth of the time of decoding it (`benchmarks/LOG.md`).
"""

import ctypes
import mmap
import multiprocessing
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor

from .resample import Regions

T = TypeVar("T")


class TransferBuffers:
    """`count` buffers of `views` x `size` bytes, for pieces 0, 1, 2, ... in turn.

    Anonymous memory: no limit of /dev/shm concerns it, and it is freed with the last process that maps it.
    """

    def __init__(self, count: int, views: int, size: int):
        self._memory = torch.frombuffer(mmap.mmap(-1, count * views * size), dtype=torch.uint8).view(count, views, size)

    @staticmethod
    def possible() -> bool:
        """Whether workers inherit them: only forked ones do."""
        usual = multiprocessing.get_all_start_methods()[0]
        return (multiprocessing.get_start_method(allow_none=True) or usual) == "fork"

    def of(self, piece: int) -> Tensor:
        """Return the buffer of a piece, [views, size]."""
        return self._memory[piece % len(self._memory)]

    def emptied(self, piece: int, views: list[Regions]) -> list[Regions]:
        """Copy regions out of the buffer of their piece, into pinned memory where there is a GPU."""
        out = []
        for regions, buffer in zip(views, self.of(piece), strict=True):
            if not len(regions.pixels):
                pixels = torch.empty(regions.nbytes, dtype=torch.uint8, pin_memory=torch.cuda.is_available())
                regions = replace(regions, pixels=pixels.copy_(buffer[: regions.nbytes]))
            out.append(regions)
        return out


def run_ahead(work: Callable[[], T], times: int) -> Iterator[T]:
    """Yield `work()` so many times, each computed on a thread while the one before it is used."""
    with ThreadPoolExecutor(1) as thread:
        future = thread.submit(work) if times else None
        for left in reversed(range(times)):
            assert future
            result, future = future.result(), thread.submit(work) if left else None
            yield result


def keep_freed_memory() -> None:
    """Keep freed memory in this process: glibc returns it to the system, which clears the pages for the next image."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(-3, 1 << 25)  # M_MMAP_THRESHOLD: arrays of up to 32 MB, the most it takes
        libc.mallopt(-1, 1 << 28)  # M_TRIM_THRESHOLD: at most 256 MB of unused memory

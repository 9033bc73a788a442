"""Memory that loader processes fill and the loop empties, over and over, and how it comes from them to the GPU.

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


class Slots:
    """`count` slots of `crops` x `size` bytes, for pieces 0, 1, 2, ... in turn.

    They are no files: no limit of /dev/shm concerns them, and they are gone with the last process that has them.
    """

    def __init__(self, count: int, crops: int, size: int):
        self._memory = torch.frombuffer(mmap.mmap(-1, count * crops * size), dtype=torch.uint8).view(count, crops, size)

    @staticmethod
    def possible() -> bool:
        """Workers inherit them, which only forked ones do."""
        usual = multiprocessing.get_all_start_methods()[0]
        return (multiprocessing.get_start_method(allow_none=True) or usual) == "fork"

    def of(self, piece: int) -> Tensor:
        """[crops, size]"""
        return self._memory[piece % len(self._memory)]

    def emptied(self, piece: int, views: list[Regions]) -> list[Regions]:
        """The regions with what lay in the slot: copied, into memory that a GPU reads from where there is one."""
        out = []
        for regions, slot in zip(views, self.of(piece), strict=True):
            if not len(regions.pixels):
                pixels = torch.empty(regions.nbytes, dtype=torch.uint8, pin_memory=torch.cuda.is_available())
                regions = replace(regions, pixels=pixels.copy_(slot[: regions.nbytes]))
            out.append(regions)
        return out


def ahead(work: Callable[[], T], times: int) -> Iterator[T]:
    """work() so often, each on a thread while the one before it is used."""
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(work) if times else None
        for left in reversed(range(times)):
            assert coming
            here, coming = coming.result(), thread.submit(work) if left else None
            yield here


def keep_freed_memory() -> None:
    """Of this process, for the next image: glibc gives arrays of this size back to the system, to be cleared anew."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(-3, 1 << 25)  # M_MMAP_THRESHOLD: arrays of up to 32 MB, the most it takes
        libc.mallopt(-1, 1 << 28)  # M_TRIM_THRESHOLD: and never more than 256 MB that nobody uses

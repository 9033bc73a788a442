"""From images to batches. The sample at global position i is a function of (seed, i) alone: resuming needs no replay.

n training images, b images of a micro-batch, C channels, h x w pixels of a view
"""

import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from .decode import Unreadable
from .images import Images
from .views import UNIFORMS, Crop, centre, cut

Skips = list[tuple[str, str]]  # (name, reason) of images that could not be read


@lru_cache(maxsize=2)
def order(n: int, seed: int, epoch: int) -> np.ndarray:
    """The order of n images in one epoch, [n]."""
    return np.random.default_rng([seed, epoch]).permutation(n)


def positions(n: int, seed: int, start: int, count: int) -> np.ndarray:
    """Which of n images are drawn at the global positions start .. start + count - 1; every n positions an epoch."""
    drawn = np.arange(start, start + count)
    return np.array([order(n, seed, int(i // n))[i % n] for i in drawn], dtype=np.int64)


def uniforms(seed: int, stream: int, start: int, count: int) -> np.ndarray:
    """The random numbers of those positions, [count, UNIFORMS] in [0, 1): the same however they are batched.

    Every crop of a sample has a `stream` of its own. Philox counts in blocks of four numbers.
    """
    bits = np.random.Philox(key=np.array([seed, stream], dtype=np.uint64), counter=start * (UNIFORMS // 4))
    return np.random.Generator(bits).random((count, UNIFORMS))


@dataclass(frozen=True)
class Plan:
    """Which positions this process draws: a global batch is cut into ranks, and these into micro-batches."""

    batch: int  # images of one optimiser step, over all processes
    rank: int
    ranks: int
    accumulate: int  # micro-batches of one step and process

    def __post_init__(self) -> None:
        if self.batch % (self.ranks * self.accumulate):
            raise ValueError(
                f"batch size {self.batch} cannot be shared equally by {self.ranks} processes with {self.accumulate} "
                f"micro-batches each: it has to be a multiple of {self.ranks * self.accumulate}"
            )

    @property
    def micro(self) -> int:
        return self.batch // (self.ranks * self.accumulate)

    def start(self, k: int) -> int:
        """The first global position of this process's k-th micro-batch since the beginning of the run."""
        step, part = divmod(k, self.accumulate)
        return step * self.batch + (self.rank * self.accumulate + part) * self.micro


class Draws(Dataset[dict[str, Any]]):
    """Item k: the k-th micro-batch of this process, {"views": one uint8 or uint16 tensor a crop, "skipped": Skips}."""

    def __init__(
        self, images: Images, indices: np.ndarray, crops: Sequence[Crop], size: tuple[int, int], seed: int, plan: Plan
    ):
        self.images, self.indices, self.crops = images, indices, crops
        self.size, self.seed, self.plan = size, seed, plan

    def __getitem__(self, k: int) -> dict[str, Any]:
        start, count, n = self.plan.start(k), self.plan.micro, len(self.indices)
        skipped: Skips = []
        views: list[list[Tensor]] = [[] for _ in self.crops]
        drawn = positions(n, self.seed, start, count)
        numbers = [uniforms(self.seed, c, start, count) for c in range(len(self.crops))]
        for j, at in enumerate(drawn):
            image = self._readable(int(at), skipped)
            for c, crop in enumerate(self.crops):
                box, flip = crop.draw(image.shape[0], image.shape[1], self.size, numbers[c][j])
                views[c].append(cut(image, box, flip, self.size))
        return {"views": [torch.stack(v) for v in views], "skipped": skipped}

    def _readable(self, at: int, skipped: Skips) -> np.ndarray:
        """The image at `at`, or the next one that can be read."""
        n = len(self.indices)
        for step in range(n):
            i = int(self.indices[(at + step) % n])
            try:
                return self.images[i]
            except Unreadable as e:
                skipped.append((self.images.source.names[i], str(e)))
        raise ValueError(f"{self.images.source.where}: none of the {n} training images can be read")


def batches(draws: Draws, start_step: int, steps: int, workers: int, device: torch.device) -> Iterator[dict[str, Any]]:
    """The micro-batches of the optimiser steps start_step .. steps - 1, in order."""
    a = draws.plan.accumulate
    return iter(
        DataLoader(
            draws,
            batch_size=None,
            sampler=range(start_step * a, steps * a),
            num_workers=workers,
            prefetch_factor=4 if workers else None,
            pin_memory=device.type == "cuda",
            worker_init_fn=_leave_signals_to_the_loop if workers else None,
        )
    )


def _leave_signals_to_the_loop(worker: int) -> None:
    """Ctrl-C reaches the workers too; the loop wants to finish its step with them."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


class Centred(Dataset[dict[str, Any]]):
    """Item k: the k-th batch of `indices`, cut at the centre: {"images" [b, C, h, w], "indices" [b], "skipped"}."""

    def __init__(self, images: Images, indices: np.ndarray, size: tuple[int, int], batch: int):
        self.images, self.indices, self.size, self.batch = images, indices, size, batch

    def __len__(self) -> int:
        return -(-len(self.indices) // self.batch)

    def __getitem__(self, k: int) -> dict[str, Any]:
        views, read, skipped = [], [], []
        for i in self.indices[k * self.batch : (k + 1) * self.batch]:
            try:
                image = self.images[int(i)]
            except Unreadable as e:
                skipped.append((self.images.source.names[int(i)], str(e)))
                continue
            views.append(cut(image, centre(image.shape[0], image.shape[1], self.size), False, self.size))
            read.append(int(i))
        stacked = torch.stack(views) if views else None
        return {"images": stacked, "indices": np.array(read, dtype=np.int64), "skipped": skipped}


def centred(
    images: Images, indices: np.ndarray, size: tuple[int, int], batch: int = 256, workers: int = 0
) -> DataLoader[dict[str, Any]]:
    """All of `indices` once, in order, without augmentation; what cannot be read is left out and named."""
    return DataLoader(Centred(images, indices, size, batch), batch_size=None, num_workers=workers)

"""From images to batches. The sample at global position i is a function of (seed, i) alone: resuming needs no replay.

n training images, b images of a batch (one process's share of an optimiser step), C channels, h x w pixels of a view
"""

import copy
import signal
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from .decode import Unreadable
from .images import Images
from .order import positions
from .picture import Box, Picture, detail
from .resample import Packing, Stack, join, likely_bytes
from .slots import Slots, ahead, keep_freed_memory
from .views import UNIFORMS, Crop, centre

Skips = list[tuple[str, str]]  # (name, reason) of images that could not be read
CPU = torch.device("cpu")
PIECE = 128  # most images that a worker hands over at a time: 40 MB of photographs
AHEAD = 2  # pieces that each worker has ready or at work


def uniforms(seed: int, stream: int, start: int, count: int) -> np.ndarray:
    """The random numbers of those positions, [count, UNIFORMS] in [0, 1): the same however they are batched.

    Every crop of a sample has a `stream` of its own. Philox counts in blocks of four numbers.
    """
    bits = np.random.Philox(key=np.array([seed, stream], dtype=np.uint64), counter=start * (UNIFORMS // 4))
    return np.random.Generator(bits).random((count, UNIFORMS))


@dataclass(frozen=True)
class Plan:
    """Which positions this process draws: one global batch a step, shared equally by the ranks."""

    batch: int  # images of one optimiser step, over all processes
    rank: int
    ranks: int

    def __post_init__(self) -> None:
        if self.batch % self.ranks:
            raise ValueError(
                f"batch size {self.batch} cannot be shared equally by {self.ranks} processes: it has to be a multiple "
                f"of {self.ranks}"
            )

    @property
    def share(self) -> int:
        """Images of one optimiser step of this process."""
        return self.batch // self.ranks

    def start(self, step: int) -> int:
        """The first global position of this process's share of a step's batch."""
        return step * self.batch + self.rank * self.share


class Draws(Dataset[dict[str, Any]]):
    """Item k: the k-th piece of what this process sees, {"views": one batch a crop, "skipped": Skips}.

    A piece is a step's share, or one of the equal parts it is cut into, so that neither waiting for the first batch nor
    memory grows with the batch. On a CPU its views are a tensor [b, C, h, w] of uint8 or uint16. For a GPU they are
    `Regions`: that resizes whole batches faster than the workers can.
    """

    def __init__(
        self,
        images: Images,
        indices: np.ndarray,
        crops: Sequence[Crop],
        size: tuple[int, int],
        seed: int,
        plan: Plan,
        device: torch.device = CPU,
    ):
        self.images, self.indices, self.crops = images, indices, crops
        self.size, self.seed, self.plan, self.device = size, seed, plan, device
        self.pieces = -(-plan.share // PIECE)  # of one step
        self.slots: Slots | None = None  # where workers leave regions; what they hand over has none then
        blocks = images.source.blocks
        self.blocks = None if blocks is None else blocks[indices].tobytes()

    def __getitem__(self, k: int) -> dict[str, Any]:
        step, piece = divmod(k, self.pieces)
        first, end = (p * self.plan.share // self.pieces for p in (piece, piece + 1))
        start, count, n = self.plan.start(step) + first, end - first, len(self.indices)
        skipped: Skips = []
        slots = self.slots.of(k).unbind() if self.slots else [None] * len(self.crops)
        views = [_batch(self.images, self.size, count, self.device, slot) for slot in slots]
        drawn = positions(n, self.seed, start, count, self.blocks)
        self.images.source.expect(self.indices[drawn])
        numbers = [uniforms(self.seed, c, start, count) for c in range(len(self.crops))]
        for j, at in enumerate(drawn.tolist()):
            picture, boxes = self._readable(at, [u[j] for u in numbers], skipped)
            for batch, (box, flip) in zip(views, boxes, strict=True):
                batch.add(*picture.part(box, self.size), flip)
        return {"views": [batch.done() for batch in views], "skipped": skipped}

    def _readable(self, at: int, numbers: list[np.ndarray], skipped: Skips) -> tuple[Picture, list[tuple[Box, bool]]]:
        """The image at `at`, or the next one that can be read, and where it is cut."""
        n = len(self.indices)
        for step in range(n):
            i = int(self.indices[(at + step) % n])
            try:
                image = self.images.open(i)
                boxes = [
                    crop.draw(image.height, image.width, self.size, u)
                    for crop, u in zip(self.crops, numbers, strict=True)
                ]
                return image.at(detail([box for box, _ in boxes], self.size)), boxes
            except Unreadable as e:
                skipped.append((self.images.source.names[i], str(e)))
        raise ValueError(f"{self.images.source.where}: none of the {n} training images can be read")


def _batch(
    images: Images, size: tuple[int, int], count: int, device: torch.device, slot: Tensor | None = None
) -> Packing | Stack:
    """What becomes of crops: they are resized on the device if that is a GPU, otherwise where they are read."""
    share = get_worker_info() is not None
    if device.type == "cuda":
        return Packing(count, size, images.channels, images.bits, share, slot)
    return Stack(count, size, images.channels, images.bits, share)


def batches(draws: Draws, start_step: int, steps: int, workers: int) -> Iterator[dict[str, Any]]:
    """This process's shares of the optimiser steps start_step .. steps - 1, in order."""
    numbers = range(start_step * draws.pieces, steps * draws.pieces)
    if draws.device.type == "cuda" and workers and Slots.possible():
        # A piece is copied out of its slot before the next one is asked for: so many can be filled meanwhile.
        room = min(PIECE, draws.plan.share) * likely_bytes(draws.size, draws.images.channels, draws.images.bits)
        slots = Slots(AHEAD * workers + 1, len(draws.crops), room)
        draws = copy.copy(draws)
        draws.slots = slots
        parts = zip(numbers, _loader(draws, numbers, workers, CPU), strict=True)

        def piece() -> dict[str, Any]:
            k, part = next(parts)
            return part | {"views": slots.emptied(k, part["views"])}

        yield from ahead(lambda: _joined([piece() for _ in range(draws.pieces)]), steps - start_step)
    else:
        loader = iter(_loader(draws, numbers, workers, draws.device))
        for _ in range(start_step, steps):
            yield _joined([next(loader) for _ in range(draws.pieces)])


def _joined(parts: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "views": [join(views) for views in zip(*(part["views"] for part in parts), strict=True)],
        "skipped": [skip for part in parts for skip in part["skipped"]],
    }


def _loader(
    dataset: Dataset[dict[str, Any]], sampler: Iterable[int], workers: int, device: torch.device
) -> DataLoader[dict[str, Any]]:
    return DataLoader(
        dataset,
        batch_size=None,
        sampler=sampler,
        num_workers=workers,
        prefetch_factor=AHEAD if workers else None,
        pin_memory=device.type == "cuda",
        worker_init_fn=_begin_worker if workers else None,
    )


def _begin_worker(worker: int) -> None:
    """One thread each. Ctrl-C reaches the workers too; the loop wants to finish its step with them."""
    torch.set_num_threads(1)
    keep_freed_memory()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


class Centred(Dataset[dict[str, Any]]):
    """Item k: the k-th batch of `indices`, cut at the centre: {"images": as views, or None, "indices", "skipped"}."""

    def __init__(
        self,
        images: Images,
        indices: np.ndarray,
        size: tuple[int, int],
        batch: int,
        device: torch.device = CPU,
    ):
        self.images, self.indices, self.size, self.batch, self.device = images, indices, size, batch, device

    def __len__(self) -> int:
        return -(-len(self.indices) // self.batch)

    def __getitem__(self, k: int) -> dict[str, Any]:
        wanted, read, skipped = self.indices[k * self.batch : (k + 1) * self.batch], [], []
        views = _batch(self.images, self.size, len(wanted), self.device)
        if len(wanted) and np.ptp(wanted) < 8 * len(wanted):  # a few of many are better read one by one
            self.images.source.expect(wanted)
        for i in wanted.tolist():
            try:
                image = self.images.open(i)
                box = centre(image.height, image.width, self.size)
                views.add(*image.at(detail([box], self.size)).part(box, self.size), False)
            except Unreadable as e:
                skipped.append((self.images.source.names[i], str(e)))
                continue
            read.append(i)
        return {
            "images": views.done() if read else None,
            "indices": np.array(read, dtype=np.int64),
            "skipped": skipped,
        }


def centred(
    images: Images,
    indices: np.ndarray,
    size: tuple[int, int],
    batch: int = 256,
    workers: int = 0,
    device: torch.device = CPU,
) -> DataLoader[dict[str, Any]]:
    """All of `indices` once, in order, without augmentation; what cannot be read is left out and named."""
    dataset = Centred(images, indices, size, batch, device)
    return _loader(dataset, range(len(dataset)), workers, device)

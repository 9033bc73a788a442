"""From images to batches. The sample at global position i is a function of (seed, i) alone: resuming needs no replay.

n training images, b images of a batch (one process's share of an optimiser step), C channels, h x w pixels of a view,
M classes
"""

import copy
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from .augment import Augment
from .crops import UNIFORMS, Crop, cut, inside, larger
from .decode.picture import Box, Picture, detail
from .decode.unreadable import Unreadable
from .images import Images
from .order import positions
from .resample import Packing, Stack, join, likely_bytes
from .sources.source import Source
from .transfer import Slots, ahead, keep_freed_memory

T = TypeVar("T")
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


def readable(
    source: Source, indices: Iterable[int], read: Callable[[int], T], skipped: Skips
) -> Iterator[tuple[int, T]]:
    """(i, what `read` makes of image i) of all that can be read, in order; the others are noted in `skipped`."""
    for i in indices:
        try:
            found = read(i)
        except Unreadable as e:
            skipped.append((source.names[i], str(e)))
            continue
        yield i, found


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
    `Regions`: that resizes whole batches faster than the workers can. `augment` sees crops that are resized and
    flipped: with it they are tensors for a GPU, too. `labelled`: a piece has "label" as well, [b] int64 of the images
    that were really read, or [b, M] float32, 0 and 1, where images have several labels.
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
        *,
        labelled: bool = False,
        augment: Augment | None = None,
    ):
        self.images, self.indices, self.crops = images, indices, crops
        self.size, self.seed, self.plan, self.device = size, seed, plan, device
        self.labels: np.ndarray | None = None
        if labelled:
            source = images.source
            self.labels = source.labels if source.labels is not None else source.multi_hot
            if self.labels is None:
                raise ValueError(f"{source.where}: images without labels: {'; '.join(source.notes)}")
        self.augment = augment
        if augment:
            augment.check(images.channels, images.bits)
        self.resized_on = CPU if augment else device
        self.pieces = -(-plan.share // PIECE)  # of one step
        self.slots: Slots | None = None  # where workers leave regions; what they hand over has none then
        blocks = images.source.blocks
        self.blocks = None if blocks is None else blocks[indices].tobytes()

    def span(self, k: int) -> tuple[int, int]:
        """(the first global position of piece k, how many there are)."""
        step, piece = divmod(k, self.pieces)
        first, end = (p * self.plan.share // self.pieces for p in (piece, piece + 1))
        return self.plan.start(step) + first, end - first

    def __getitem__(self, k: int) -> dict[str, Any]:
        (start, count), n = self.span(k), len(self.indices)
        skipped: Skips = []
        slots = self.slots.of(k).unbind() if self.slots else [None] * len(self.crops)
        views = [_batch(self.images, self.size, count, self.resized_on, slot) for slot in slots]
        drawn = positions(n, self.seed, start, count, self.blocks)
        self.images.source.expect(self.indices[drawn])
        numbers = np.array([uniforms(self.seed, c, start, count) for c in range(len(self.crops))])
        read: list[int] = []
        for j, at in enumerate(drawn.tolist()):
            i, (picture, boxes) = self.one(at, self._cut, numbers[:, j], skipped)
            for batch, (box, flip) in zip(views, boxes, strict=True):
                batch.add(*picture.region(box, self.size), flip)
            read.append(i)
        item = {"views": [batch.done() for batch in views], "skipped": skipped}
        if self.augment:
            for view, u in zip(item["views"], numbers, strict=True):
                _augment(view, self.augment, u[:, -1])
        if self.labels is not None:
            label = torch.from_numpy(self.labels[read])
            item["label"] = label if label.dtype == torch.int64 else label.float()
        return item

    def one(self, at: int, read: Callable[[int, np.ndarray], T], u: np.ndarray, skipped: Skips) -> tuple[int, T]:
        """(i, what `read` makes of it with the random numbers u) of the image at `at`, or the next that can be read."""
        n, source = len(self.indices), self.images.source
        following = (int(self.indices[(at + step) % n]) for step in range(n))
        found = next(readable(source, following, lambda i: read(i, u), skipped), None)
        if found is None:
            raise ValueError(f"{source.where}: none of the {n} training images can be read ({skipped[-1][1]})")
        return found

    def _cut(self, i: int, numbers: np.ndarray) -> tuple[Picture, list[tuple[Box, bool]]]:
        """Image i, and its box and flip for each crop, by random numbers [crops, UNIFORMS]."""
        image = self.images.open(i)
        draws = zip(self.crops, numbers, strict=True)
        boxes = [crop.draw(image.height, image.width, self.size, u) for crop, u in draws]
        return image.at(detail([box for box, _ in boxes], self.size)), boxes


def _augment(views: Tensor, augment: Augment, u: np.ndarray) -> None:
    """In place, [b, C, h, w] by random numbers [b] in [0, 1)."""
    for view, key in zip(views, (u * 2**53).astype(np.int64).tolist(), strict=True):  # all bits that they have
        view.copy_(torch.from_numpy(augment(view.permute(1, 2, 0).numpy(), key)).permute(2, 0, 1))


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
    if draws.resized_on.type == "cuda" and workers and Slots.possible():
        # A piece is copied out of its slot before the next one is asked for: so many can be filled meanwhile.
        room = min(PIECE, draws.plan.share) * likely_bytes(draws.size, draws.images.channels, draws.images.bits)
        slots = Slots(AHEAD * workers + 1, len(draws.crops), room)
        draws = copy.copy(draws)
        draws.slots = slots
        parts = zip(numbers, loader(draws, numbers, workers, CPU), strict=True)

        def piece() -> dict[str, Any]:
            k, part = next(parts)
            return part | {"views": slots.emptied(k, part["views"])}

        yield from ahead(lambda: _joined([piece() for _ in range(draws.pieces)]), steps - start_step)
    else:
        pieces = iter(loader(draws, numbers, workers, draws.device))
        for _ in range(start_step, steps):
            yield _joined([next(pieces) for _ in range(draws.pieces)])


def _joined(parts: list[dict[str, Any]]) -> dict[str, Any]:
    whole = {
        "views": [join(views) for views in zip(*(part["views"] for part in parts), strict=True)],
        "skipped": [skip for part in parts for skip in part["skipped"]],
    }
    labels = [part["label"] for part in parts if "label" in part]
    if not labels:
        return whole
    return whole | {"label": torch.cat(labels) if isinstance(labels[0], Tensor) else type(labels[0]).joined(labels)}


def loader(
    dataset: Dataset[dict[str, Any]], sampler: Iterable[int], workers: int, device: torch.device
) -> DataLoader[dict[str, Any]]:
    return DataLoader(
        dataset,
        batch_size=None,
        sampler=sampler,
        num_workers=workers,
        prefetch_factor=AHEAD if workers else None,
        pin_memory=device.type == "cuda",
        worker_init_fn=begin_worker if workers else None,
    )


def begin_worker(worker: int) -> None:
    """One thread each. Ctrl-C reaches them too, and the loop wants to finish its step with them. They end with it."""
    torch.set_num_threads(1)
    keep_freed_memory()
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _end_with(parent: int) -> None:
    """Workers of a process that was killed would wait for each other's pipes for ever."""
    while os.getppid() == parent:
        time.sleep(2)
    os._exit(1)


class Centred(Dataset[dict[str, Any]]):
    """Item k: the k-th batch of `indices`, cut at the centre: {"images": as views, or None, "indices", "skipped"}.

    `share` of the short side is what the cut keeps; 0.875: resized to 256, cut 224.
    """

    def __init__(
        self,
        images: Images,
        indices: np.ndarray,
        size: tuple[int, int],
        batch: int,
        device: torch.device = CPU,
        share: float = 1.0,
    ):
        self.images, self.indices, self.size, self.batch, self.device = images, indices, size, batch, device
        self.share, self.larger = share, larger(size, share)

    def __len__(self) -> int:
        return -(-len(self.indices) // self.batch)

    def boxes(self, height: int, width: int) -> tuple[Box, Box]:
        """What is resized to `larger`, and the box in it that is cut."""
        return cut(height, width, self.size, self.share)

    def __getitem__(self, k: int) -> dict[str, Any]:
        wanted, read = self.indices[k * self.batch : (k + 1) * self.batch], []
        skipped: Skips = []
        views = _batch(self.images, self.size, len(wanted), self.device)
        if len(wanted) and np.ptp(wanted) < 8 * len(wanted):  # a few of many are better read one by one
            self.images.source.expect(wanted)
        for i, (region, box) in readable(self.images.source, wanted.tolist(), self._cut, skipped):
            views.add(region, box, False)
            read.append(i)
        return {
            "images": views.done() if read else None,
            "indices": np.array(read, dtype=np.int64),
            "skipped": skipped,
        }

    def _cut(self, i: int) -> tuple[np.ndarray, Box]:
        """What of image i is needed, and the box in it that becomes the view."""
        image = self.images.open(i)
        outer, box = self.boxes(image.height, image.width)
        region, place = image.at(detail([outer], self.larger)).region(outer, self.larger)
        return region, inside(box, outer, place)


def centred(
    images: Images,
    indices: np.ndarray,
    size: tuple[int, int],
    batch: int = 256,
    workers: int = 0,
    device: torch.device = CPU,
    share: float = 1.0,
) -> DataLoader[dict[str, Any]]:
    """All of `indices` once, in order, without augmentation; what cannot be read is left out and named."""
    dataset = Centred(images, indices, size, batch, device, share)
    return loader(dataset, range(len(dataset)), workers, device)

"""Images with their masks as batches: cut at random scales for training, whole for measuring.

The sample at global position i is a function of (seed, i) alone, as in `loader.py`.
b images, C channels, h x w pixels of the network's input, H x W of an image
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from .decode.picture import Box, Picture, detail
from .images import Images
from .loader import CPU, Draws, Plan, Skips, loader, readable, uniforms
from .masks import VOID, Meaning, mask_of, nearest
from .order import positions
from .resample import resized

TRIES = 10  # as mmsegmentation's RandomCrop: so many places until no class covers too much, then the last


@dataclass(frozen=True)
class Scaling:
    """A random scale, a random crop of it of the network's size, a flip: ADE20K's usual augmentation (mmsegmentation).

    At scale 1 the short side is as long as the network's: 512 pixels for crops of 512. What is left of the view where a
    scaled image is smaller is filled with the mean colour, and its mask with void.
    """

    scale: tuple[float, float] = (0.5, 2.0)
    most: float = 0.75  # of a crop that one class may cover; 1: crops are not drawn again
    flip: float = 0.5  # probability

    def __post_init__(self) -> None:
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f"--settings.scale is {self.scale}: two factors, 0 < smallest <= largest")
        if not 0 < self.most <= 1:
            raise ValueError(f"--settings.cat-max-ratio is {self.most}: a share above 0, at most 1")

    def places(
        self, height: int, width: int, size: tuple[int, int], u: np.ndarray
    ) -> tuple[tuple[int, int], bool, Iterator[Box]]:
        """((h', w') of the view that are filled, flip, boxes of the image to choose from), from `UNIFORMS` numbers."""
        draws: list[float] = u.tolist()
        factor = min(size) / min(height, width) * (self.scale[0] + draws[0] * (self.scale[1] - self.scale[0]))
        tall, wide = (max(1, math.floor(n * factor + 0.5)) for n in (height, width))
        h, w = min(size[0], tall), min(size[1], wide)
        x, y = width / wide, height / tall  # pixels of the image to one that is scaled

        def boxes() -> Iterator[Box]:
            for down, across in zip(draws[2 : 2 + TRIES], draws[2 + TRIES : 2 + 2 * TRIES], strict=True):
                top, left = int(down * (tall - h + 1)), int(across * (wide - w + 1))
                yield (left * x, top * y, (left + w) * x, (top + h) * y)

        return (h, w), draws[1] < self.flip, boxes()

    def draw(self, mask: np.ndarray, size: tuple[int, int], u: np.ndarray) -> tuple[Box, bool, np.ndarray]:
        """(box, flip, its mask [h', w'], not flipped) for class numbers [H, W]."""
        shape, flip, boxes = self.places(mask.shape[0], mask.shape[1], size, u)
        box, cut = (0.0, 0.0, 0.0, 0.0), mask
        for box in boxes:
            cut = nearest(mask, box, shape)
            counts = np.bincount(cut[cut != VOID].astype(np.int64))
            if np.count_nonzero(counts) > 1 and counts.max() < self.most * counts.sum():
                break
            if self.most == 1:
                break
        return box, flip, cut


class MaskedDraws(Draws):
    """As `Draws` of one view, with "label": class numbers [b, h, w] int16, VOID where there is none.

    Resized where they are read, for a GPU too: regions that fill different parts of a view are not one batch for it.
    """

    def __init__(
        self,
        images: Images,
        indices: np.ndarray,
        size: tuple[int, int],
        seed: int,
        plan: Plan,
        device: torch.device = CPU,
        *,
        scaling: Scaling,
        meaning: Meaning,
        mean: Sequence[float],
    ):
        super().__init__(images, indices, [], size, seed, plan, device)
        self.resized_on = CPU
        self.scaling, self.meaning = scaling, meaning
        self.blank = images.coloured(mean)

    def __getitem__(self, k: int) -> dict[str, Any]:
        start, count = self.span(k)
        drawn = positions(len(self.indices), self.seed, start, count, self.blocks)
        self.images.source.expect(self.indices[drawn])
        views = self.blank.repeat(count, 1, *self.size)
        label = torch.full((count, *self.size), VOID, dtype=torch.int16)
        skipped: Skips = []
        for view, mask, at, u in zip(views, label, drawn.tolist(), uniforms(self.seed, 0, start, count), strict=True):
            _, (picture, box, flip, cut) = self.one(at, self._pair, u, skipped)
            h, w = cut.shape
            view[:, :h, :w] = resized(*picture.region(box, (h, w)), flip, (h, w))
            mask[:h, :w] = torch.from_numpy(cut[:, ::-1].copy() if flip else cut)
        return {"views": [views], "label": label, "skipped": skipped}

    def _pair(self, i: int, u: np.ndarray) -> tuple[Picture, Box, bool, np.ndarray]:
        """Image i, where it is cut, whether it is flipped, and its mask there, not flipped."""
        image = self.images.open(i)
        whole = mask_of(self.images.source, i, (image.height, image.width), self.meaning)
        box, flip, cut = self.scaling.draw(whole, self.size, u)
        return image.at(detail([box], cut.shape)), box, flip, cut


@dataclass(frozen=True)
class Whole:
    """An image as it is measured, and its mask as it is."""

    index: int
    image: Tensor  # [C, h', w'] uint8 or uint16
    mask: Tensor  # [H, W] int16


class Wholes(Dataset[dict[str, Any]]):
    """Item k: the k-th few of `indices`: {"found": Wholes, "skipped": Skips}.

    `keep`: the image's own aspect ratio, scaled until it just covers `size`, as a multiple of nothing; False: `size`.
    """

    def __init__(
        self, images: Images, indices: np.ndarray, size: tuple[int, int], meaning: Meaning, keep: bool, batch: int = 8
    ):
        self.images, self.indices, self.size, self.meaning, self.keep = images, indices, size, meaning, keep
        self.batch = batch

    def __len__(self) -> int:
        return -(-len(self.indices) // self.batch)

    def __getitem__(self, k: int) -> dict[str, Any]:
        wanted = self.indices[k * self.batch : (k + 1) * self.batch].tolist()
        skipped: Skips = []
        found = [whole for _, whole in readable(self.images.source, wanted, self._whole, skipped)]
        return {"found": found, "skipped": skipped}

    def _whole(self, i: int) -> Whole:
        image = self.images.open(i)
        mask = mask_of(self.images.source, i, (image.height, image.width), self.meaning)
        size = covering(image.height, image.width, self.size) if self.keep else self.size
        box = (0.0, 0.0, float(image.width), float(image.height))
        view = resized(*image.at(detail([box], size)).region(box, size), False, size)
        return Whole(i, view, torch.from_numpy(mask))


def covering(height: int, width: int, size: tuple[int, int]) -> tuple[int, int]:
    """The image scaled until it has `size` at least in both directions, and just that in one."""
    factor = max(size[0] / height, size[1] / width)
    return max(size[0], math.floor(height * factor + 0.5)), max(size[1], math.floor(width * factor + 0.5))


def wholes(
    images: Images, indices: np.ndarray, size: tuple[int, int], meaning: Meaning, keep: bool, workers: int = 0
) -> DataLoader[dict[str, Any]]:
    """All of `indices` once, in order; what cannot be read is left out and named."""
    dataset = Wholes(images, indices, size, meaning, keep)
    return loader(dataset, range(len(dataset)), workers, CPU)

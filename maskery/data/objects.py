"""Images with their objects as batches: scaled and cut for training, whole for measuring.

The sample at global position i is a function of (seed, i) alone, as in `loader.py`.
b images, T the most objects that one of them has, C channels, h x w pixels of the network's input
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from .crops import UNIFORMS
from .decode.image import Encoded
from .decode.picture import Box, Picture, detail
from .decode.unreadable import Unreadable
from .images import Images
from .loader import CPU, Draws, Plan, Skips, loader, readable, uniforms
from .masks import nearest
from .order import positions
from .resample import resized
from .sources.coco import CocoSource
from .sources.rle import shape_mask

NOTHING = -1  # the class of a row that is only there because another image has more objects
SEEN = 1.0  # pixels of a view that a box has to be wide and high, or its object is not in the view


@dataclass(frozen=True)
class Targets:
    """The objects of b images, padded to the most that one of them has: micro-batches are cut along the images."""

    boxes: Tensor  # [b, T, 4] float32, left, top, right, bottom in pixels of the view
    classes: Tensor  # [b, T] int64, NOTHING in rows that pad
    bits: Tensor  # [b, T, P] uint8: h x w pixels of each mask, eight to a byte; P = 0 without masks
    extent: Tensor  # [b, 2] int64, (height, width) of the view that the image fills, from its top left

    def __len__(self) -> int:
        return len(self.classes)

    def to(self, device: torch.device, non_blocking: bool = False) -> Self:
        return type(self)(*(getattr(self, f.name).to(device, non_blocking=non_blocking) for f in fields(self)))

    def masks(self, i: int, size: tuple[int, int]) -> Tensor:
        """[K, h, w] uint8 of the objects of image i."""
        bits = self.bits[i, self.classes[i] != NOTHING]
        shifts = torch.arange(7, -1, -1, device=bits.device, dtype=torch.uint8)
        pixels = (bits[:, :, None] >> shifts & 1).flatten(1)[:, : size[0] * size[1]]
        return pixels.unflatten(1, size)

    @classmethod
    def of(cls, each: Sequence["View"], size: tuple[int, int], masks: bool) -> Self:
        """One row an image."""
        rows, width = max((len(view.classes) for view in each), default=0), -(-size[0] * size[1] // 8) * masks
        boxes = torch.zeros(len(each), rows, 4)
        classes = torch.full((len(each), rows), NOTHING)
        bits = torch.zeros(len(each), rows, width, dtype=torch.uint8)
        for i, view in enumerate(each):
            n = len(view.classes)
            boxes[i, :n], classes[i, :n] = torch.from_numpy(view.boxes), torch.from_numpy(view.classes)
            if masks:
                bits[i, :n] = torch.from_numpy(np.packbits(view.masks.reshape(n, size[0] * size[1]), axis=1))
        return cls(boxes, classes, bits, torch.tensor([view.shape for view in each]).view(-1, 2))

    @classmethod
    def joined(cls, parts: Sequence["Targets"]) -> Self:
        """Images behind each other, with as many rows as any of them has."""
        rows = max(part.classes.shape[1] for part in parts)

        def padded(x: Tensor, value: int) -> Tensor:
            return F.pad(x, (0, 0) * (x.ndim - 2) + (0, rows - x.shape[1]), value=value)

        return cls(
            torch.cat([padded(part.boxes, 0) for part in parts]),
            torch.cat([padded(part.classes, NOTHING) for part in parts]),
            torch.cat([padded(part.bits, 0) for part in parts]),
            torch.cat([part.extent for part in parts]),
        )


@dataclass(frozen=True)
class View:
    """What of an image's objects a view shows: K of them."""

    boxes: np.ndarray  # [K, 4] float32
    classes: np.ndarray  # [K] int64
    masks: np.ndarray  # [K, h, w] uint8; [K, 0, 0] without masks
    shape: tuple[int, int]  # (height, width) that the image fills


def view_of(
    source: CocoSource, i: int, box: Box, shape: tuple[int, int], flip: bool, size: tuple[int, int], masks: bool
) -> View:
    """The objects of image i in a `box` of it that fills `shape` of a view of `size`; no crowds.

    With masks a box is the smallest one around what is left of its mask, as detectron2 does after a random crop.
    """
    objects, (left, top, right, bottom) = source.objects(i), box
    height, width = source.sizes[i].tolist()
    y, x = shape[0] / (bottom - top), shape[1] / (right - left)
    kept = ~objects.crowd
    boxes = (objects.boxes[kept].astype(np.float64) - (left, top, left, top)) * (x, y, x, y)
    if flip:
        boxes = np.stack([shape[1] - boxes[:, 2], boxes[:, 1], shape[1] - boxes[:, 0], boxes[:, 3]], 1)
    boxes = boxes.clip(0, (shape[1], shape[0], shape[1], shape[0]))
    seen: np.ndarray = np.all(boxes[:, 2:] - boxes[:, :2] >= SEEN, axis=1)
    pixels = np.zeros((len(boxes), *size), np.uint8) if masks else np.zeros((len(boxes), 0, 0), np.uint8)
    if masks:
        for k, j in enumerate(np.flatnonzero(kept).tolist()):
            if not seen[k]:
                continue
            cut = nearest(shape_mask(objects.shapes[j], (height, width)), box, shape)
            pixels[k, : shape[0], : shape[1]] = cut[:, ::-1] if flip else cut
            rows, columns = (np.flatnonzero(pixels[k].any(axis)) for axis in (1, 0))
            seen[k] = len(rows) > 0
            if seen[k]:
                boxes[k] = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
    return View(boxes[seen].astype(np.float32), objects.classes[kept][seen], pixels[seen], shape)


def opened(images: Images, i: int) -> Encoded | Picture:
    """Image i; `Unreadable` also where the json says another size: no box would be where its object is."""
    image, source = images.open(i), images.source
    assert isinstance(source, CocoSource)
    height, width = source.sizes[i].tolist()
    if (image.height, image.width) != (height, width):
        raise Unreadable(
            f"{image.width} x {image.height} pixels (as its EXIF turns it), the json says {width} x {height}"
        )
    return image


@dataclass(frozen=True)
class Jitter:
    """Large-scale jitter (Ghiasi et al. 2021): a random scale, a random crop of the view's size, a flip.

    At scale 1 the whole image just fits into the view. What is left of the view is filled with the mean colour.
    """

    scale: tuple[float, float] = (0.1, 2.0)
    flip: float = 0.5  # probability

    def __post_init__(self) -> None:
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f"--settings.scale is {self.scale}: two factors, 0 < smallest <= largest")

    def place(self, height: int, width: int, size: tuple[int, int], u: np.ndarray) -> tuple[tuple[int, int], Box, bool]:
        """((h', w') of the view that are filled, box of the image, flip), from `UNIFORMS` numbers."""
        scale, flip, down, across = (float(v) for v in u[:4])
        factor = min(size[0] / height, size[1] / width) * (self.scale[0] + scale * (self.scale[1] - self.scale[0]))
        tall, wide = (max(1, math.floor(n * factor + 0.5)) for n in (height, width))
        h, w = min(size[0], tall), min(size[1], wide)
        y, x = height / tall, width / wide  # pixels of the image to one that is scaled
        top, left = int(down * (tall - h + 1)), int(across * (wide - w + 1))
        return (h, w), (left * x, top * y, (left + w) * x, (top + h) * y), flip < self.flip


WHOLE = Jitter((1.0, 1.0), 0.0)
NO_NUMBERS = np.zeros(UNIFORMS)


class ObjectDraws(Draws):
    """As `Draws` of one view, with "label": `Targets`. Resized where they are read, as in `masked.py`."""

    def __init__(
        self,
        images: Images,
        indices: np.ndarray,
        size: tuple[int, int],
        seed: int,
        plan: Plan,
        device: torch.device = CPU,
        *,
        jitter: Jitter,
        mean: Sequence[float],
        masks: bool,
    ):
        super().__init__(images, indices, [], size, seed, plan, device)
        self.resized_on = CPU
        self.jitter, self.masks, self.blank = jitter, masks, images.coloured(mean)

    def __getitem__(self, k: int) -> dict[str, Any]:
        start, count = self.span(k)
        drawn_at = positions(len(self.indices), self.seed, start, count, self.blocks)
        self.images.source.expect(self.indices[drawn_at])
        views, found, source = self.blank.repeat(count, 1, *self.size), [], self.images.source
        assert isinstance(source, CocoSource)
        skipped: Skips = []
        for view, at, u in zip(views, drawn_at.tolist(), uniforms(self.seed, 0, start, count), strict=True):
            i, (pixels, box, flip) = self.one(at, self._seen, u, skipped)
            h, w = pixels.shape[1:]
            view[:, :h, :w] = pixels
            found.append(view_of(source, i, box, (h, w), flip, self.size, self.masks))
        return {"views": [views], "label": Targets.of(found, self.size, self.masks), "skipped": skipped}

    def _seen(self, i: int, u: np.ndarray) -> tuple[Tensor, Box, bool]:
        """The part of image i that is seen [C, h', w'], where that is in the image, and whether it is flipped."""
        image = opened(self.images, i)
        shape, box, flip = self.jitter.place(image.height, image.width, self.size, u)
        return resized(*image.at(detail([box], shape)).region(box, shape), flip, shape), box, flip


class Fitted(Dataset[dict[str, Any]]):
    """Item k: the k-th few of `indices`, whole: {"images": [b, C, h, w], "extent": [b, 2], "indices", "skipped"}."""

    def __init__(self, images: Images, indices: np.ndarray, size: tuple[int, int], mean: Sequence[float], batch: int):
        self.images, self.indices, self.size, self.batch = images, indices, size, batch
        self.blank = images.coloured(mean)

    def __len__(self) -> int:
        return -(-len(self.indices) // self.batch)

    def __getitem__(self, k: int) -> dict[str, Any]:
        wanted, views, shapes, read = self.indices[k * self.batch : (k + 1) * self.batch].tolist(), [], [], []
        skipped: Skips = []
        for i, pixels in readable(self.images.source, wanted, self._whole, skipped):
            h, w = pixels.shape[1:]
            view = self.blank.repeat(1, *self.size)
            view[:, :h, :w] = pixels
            views.append(view)
            shapes.append((h, w))
            read.append(i)
        return {
            "images": torch.stack(views) if read else None,
            "extent": torch.tensor(shapes).view(-1, 2),
            "indices": np.array(read, np.int64),
            "skipped": skipped,
        }

    def _whole(self, i: int) -> Tensor:
        """[C, h', w']"""
        image = opened(self.images, i)
        shape, box, _ = WHOLE.place(image.height, image.width, self.size, NO_NUMBERS)
        return resized(*image.at(detail([box], shape)).region(box, shape), False, shape)


def fitted(
    images: Images, indices: np.ndarray, size: tuple[int, int], mean: Sequence[float], batch: int, workers: int = 0
) -> DataLoader[dict[str, Any]]:
    """All of `indices` once, in order; what cannot be read is left out and named."""
    dataset = Fitted(images, indices, size, mean, batch)
    return loader(dataset, range(len(dataset)), workers, CPU)

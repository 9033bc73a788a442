"""Images with objects: large-scale jitter for training, whole images for measuring.

b images, T the most objects that one of them has, C channels, h x w pixels of the network's input
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .crops import EvalCrop, ViewBox, check_scale, scaled_crop
from .decode.image import Encoded
from .decode.picture import Picture
from .decode.unreadable import Unreadable
from .images import Images
from .masks import nearest
from .sources.coco import CocoSource
from .sources.rle import shape_mask
from .sources.source import Source
from .train_dataset import Sample, SampledImage, Target, ViewSampler

NO_OBJECT = -1  # the class of a row that is only there because another image has more objects
MIN_SIDE = 1.0  # pixels of a view that a box has to be wide and high, or its object is left out


@dataclass(frozen=True)
class ObjectTargets:
    """The objects of b images, padded to the most that one of them has: micro-batches are cut along the images."""

    boxes: Tensor  # [b, T, 4] float32, left, top, right, bottom in pixels of the view
    classes: Tensor  # [b, T] int64, NO_OBJECT in rows of padding
    bits: Tensor  # [b, T, P] uint8: h x w pixels of each mask, eight to a byte; P = 0 without masks
    extent: Tensor  # [b, 2] int64, (height, width) that the image fills, from the view's top left

    def __len__(self) -> int:
        return len(self.classes)

    def to(self, device: torch.device, non_blocking: bool = False) -> Self:
        return type(self)(*(getattr(self, f.name).to(device, non_blocking=non_blocking) for f in fields(self)))

    def masks(self, i: int, size: tuple[int, int]) -> Tensor:
        """Unpack the masks of image i, [K, h, w] uint8."""
        bits = self.bits[i, self.classes[i] != NO_OBJECT]
        shifts = torch.arange(7, -1, -1, device=bits.device, dtype=torch.uint8)
        pixels = (bits[:, :, None] >> shifts & 1).flatten(1)[:, : size[0] * size[1]]
        return pixels.unflatten(1, size)

    @classmethod
    def stack(cls, images: Sequence["VisibleObjects"], size: tuple[int, int], masks: bool) -> Self:
        """Stack the objects of images whose views have `size`."""
        rows, width = max((len(each.classes) for each in images), default=0), -(-size[0] * size[1] // 8) * masks
        boxes = torch.zeros(len(images), rows, 4)
        classes = torch.full((len(images), rows), NO_OBJECT)
        bits = torch.zeros(len(images), rows, width, dtype=torch.uint8)
        for i, each in enumerate(images):
            n = len(each.classes)
            boxes[i, :n], classes[i, :n] = torch.from_numpy(each.boxes), torch.from_numpy(each.classes)
            if masks:
                bits[i, :n] = torch.from_numpy(np.packbits(each.masks.reshape(n, size[0] * size[1]), axis=1))
        return cls(boxes, classes, bits, torch.tensor([each.extent for each in images]).view(-1, 2))

    @classmethod
    def cat(cls, parts: Sequence["ObjectTargets"]) -> Self:
        """Concatenate batches, with as many rows as any of them has."""
        rows = max(part.classes.shape[1] for part in parts)

        def padded(x: Tensor, value: int) -> Tensor:
            return F.pad(x, (0, 0) * (x.ndim - 2) + (0, rows - x.shape[1]), value=value)

        return cls(
            torch.cat([padded(part.boxes, 0) for part in parts]),
            torch.cat([padded(part.classes, NO_OBJECT) for part in parts]),
            torch.cat([padded(part.bits, 0) for part in parts]),
            torch.cat([part.extent for part in parts]),
        )


@dataclass(frozen=True)
class VisibleObjects:
    """The K objects of an image that a view shows."""

    boxes: np.ndarray  # [K, 4] float32
    classes: np.ndarray  # [K] int64
    masks: np.ndarray  # [K, h, w] uint8; [K, 0, 0] without masks
    extent: tuple[int, int]  # (height, width) that the image fills


def visible_objects(source: CocoSource, i: int, view: ViewBox, size: tuple[int, int], masks: bool) -> VisibleObjects:
    """Return the objects of image i that a view of `size` shows; no crowds.

    With masks a box is the smallest one around the visible part of its mask, as in detectron2 after a random crop.
    """
    objects, (left, top, right, bottom) = source.objects(i), view.box
    h, w = view.size
    y, x = h / (bottom - top), w / (right - left)
    single = ~objects.crowd
    boxes = (objects.boxes[single].astype(np.float64) - (left, top, left, top)) * (x, y, x, y)
    if view.flip:
        boxes = np.stack([w - boxes[:, 2], boxes[:, 1], w - boxes[:, 0], boxes[:, 3]], 1)
    boxes = boxes.clip(0, (w, h, w, h))
    visible: np.ndarray = np.all(boxes[:, 2:] - boxes[:, :2] >= MIN_SIDE, axis=1)
    pixels = np.zeros((len(boxes), *(size if masks else (0, 0))), np.uint8)
    for k, j in enumerate(np.flatnonzero(single).tolist() if masks else ()):
        if not visible[k]:
            continue
        mask = nearest(shape_mask(objects.shapes[j], tuple(source.sizes[i].tolist())), view.box, view.size)
        pixels[k, :h, :w] = mask[:, ::-1] if view.flip else mask
        rows, columns = (np.flatnonzero(pixels[k].any(axis)) for axis in (1, 0))
        visible[k] = len(rows) > 0
        if visible[k]:
            boxes[k] = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
    return VisibleObjects(
        boxes[visible].astype(np.float32), objects.classes[single][visible], pixels[visible], view.size
    )


def check_size(source: Source, i: int, image: Encoded | Picture) -> None:
    """`Unreadable` where the json gives an image another size: no box would be where its object is."""
    assert isinstance(source, CocoSource)
    height, width = source.sizes[i].tolist()
    if (image.height, image.width) != (height, width):
        raise Unreadable(
            f"{image.width} x {image.height} pixels (as its EXIF turns it), the json says {width} x {height}"
        )


@dataclass(frozen=True)
class ScaleJitter:
    """Large-scale jitter (Ghiasi et al. 2021): a random scale, a random crop of the view's size, a flip.

    At scale 1 the whole image just fits into the view. What is left of the view is filled with the mean colour.
    """

    scale: tuple[float, float] = (0.1, 2.0)
    flip: float = 0.5  # probability

    def __post_init__(self) -> None:
        check_scale(self.scale)

    def sample(self, height: int, width: int, size: tuple[int, int], u: np.ndarray) -> ViewBox:
        """Crop an image of height x width by `UNIFORMS` numbers."""
        scale, flip, down, across = (float(v) for v in u[:4])
        factor = min(size[0] / height, size[1] / width) * (self.scale[0] + scale * (self.scale[1] - self.scale[0]))
        return scaled_crop((height, width), factor, size, (down, across), flip < self.flip)


@dataclass(frozen=True)
class ObjectSampler(ViewSampler):
    """One view of each image whose size is the json's."""

    jitter: ScaleJitter

    def sample(self, images: Images, i: int, size: tuple[int, int], u: np.ndarray) -> SampledImage:
        image = images.open(i)
        check_size(images.source, i, image)
        view = self.jitter.sample(image.height, image.width, size, u[0])
        return SampledImage(image.at(view.detail), [view])


def object_targets(source: Source, size: tuple[int, int], masks: bool) -> Target:
    """Target: `ObjectTargets` of the views."""
    assert isinstance(source, CocoSource)
    return partial(_stack_objects, source, size, masks)


def _stack_objects(source: CocoSource, size: tuple[int, int], masks: bool, samples: Sequence[Sample]) -> ObjectTargets:
    objects = [visible_objects(source, sample.index, sample.views[0], size, masks) for sample in samples]
    return ObjectTargets.stack(objects, size, masks)


@dataclass(frozen=True)
class FittingImage(EvalCrop):
    """All of an image at its own aspect ratio, scaled until it just fits into the view."""

    def __call__(self, height: int, width: int) -> ViewBox:
        return scaled_crop((height, width), min(self.size[0] / height, self.size[1] / width), self.size, (0, 0))

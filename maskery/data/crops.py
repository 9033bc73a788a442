"""Geometry: which part of an image a view shows. Drawn from given random numbers, so that a draw can be repeated.

A box is (left, top, right, bottom) in pixels of its image, at full size.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .decode.picture import Box
from .resample import Regions

TRIES = 10  # as torchvision's RandomResizedCrop: so many draws until a crop fits, then the largest central one
UNIFORMS = 2 * TRIES + 4  # random numbers one sample needs (a multiple of 4); the last is not for its geometry


@dataclass(frozen=True)
class Crop:
    """A random crop, resized to the size of the view, and a flip: MAE's only augmentation.

    Two views share their geometry when they hold the same `Crop` object.
    """

    scale: tuple[float, float] = (0.2, 1.0)  # share of the image's area that is kept (MAE's reference code)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)  # distortion of the view's aspect ratio, width to height
    flip: float = 0.5  # probability of a horizontal mirror image

    def __post_init__(self) -> None:
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"crop scale is {self.scale}: two shares of the area, 0 < smallest <= largest <= 1")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError(f"crop ratio is {self.ratio}: two aspect ratios, 0 < smallest <= largest")
        if not 0 <= self.flip <= 1:
            raise ValueError(f"crop flip is {self.flip}: a probability between 0 and 1")

    def draw(self, height: int, width: int, size: tuple[int, int], u: np.ndarray) -> tuple[Box, bool]:
        """Box and flip for an image of height x width from `UNIFORMS` numbers `u` in [0, 1).

        The distribution is that of torchvision's RandomResizedCrop; for a view that is not square the ratio is
        relative to the view's own, so that (1, 1) never distorts.
        """
        view = size[1] / size[0]
        low, high = math.log(self.ratio[0]), math.log(self.ratio[1])
        draws: list[float] = u.tolist()
        flip = draws[2 * TRIES + 2] < self.flip
        for share, distortion in zip(draws[:TRIES], draws[TRIES : 2 * TRIES], strict=True):
            area = height * width * (self.scale[0] + share * (self.scale[1] - self.scale[0]))
            ratio = math.exp(low + distortion * (high - low)) * view
            w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < w <= width and 0 < h <= height:
                top, left = int(draws[2 * TRIES] * (height - h + 1)), int(draws[2 * TRIES + 1] * (width - w + 1))
                return (left, top, left + w, top + h), flip
        return centre(height, width, size, self.ratio), flip


def centre(height: int, width: int, size: tuple[int, int], ratio: tuple[float, float] = (1.0, 1.0)) -> Box:
    """The largest central box, of whole pixels, whose aspect ratio is the view's, or at most `ratio` away from it."""
    view = size[1] / size[0]
    aspect = min(max(width / height, view * ratio[0]), view * ratio[1])
    w, h = min(float(width), height * aspect), min(float(height), width / aspect)
    left, top = round((width - w) / 2), round((height - h) / 2)
    return (left, top, max(round((width + w) / 2), left + 1), max(round((height + h) / 2), top + 1))


def larger(size: tuple[int, int], share: float) -> tuple[int, int]:
    """The size to resize to when the cut of `size` is to keep `share` of it."""
    if not 0.5 <= share <= 1:
        raise ValueError(f"crop share is {share}: between 0.5 and 1")
    return math.floor(size[0] / share + 0.5), math.floor(size[1] / share + 0.5)


def cut(height: int, width: int, size: tuple[int, int], share: float) -> tuple[Box, Box]:
    """(what is resized to `larger(size, share)`, the box in it that becomes the view): with share 1, `centre` twice.

    Otherwise the box is what torchvision's Resize and CenterCrop show, its rounding included: 0.875 is Resize(256),
    CenterCrop(224). At its edges, what lies beyond them is seen as well, as when one resizes first and cuts then.
    """
    if share == 1:
        return (box := centre(height, width, size)), box
    big = larger(size, share)
    if width * big[0] >= height * big[1]:  # wider than the view
        whole = big[0], width * big[0] // height
    else:
        whole = height * big[1] // width, big[1]

    def middle(h: int, w: int) -> Box:
        top, left = round((whole[0] - h) / 2), round((whole[1] - w) / 2)
        x, y = width / whole[1], height / whole[0]
        return (left * x, top * y, min((left + w) * x, width), min((top + h) * y, height))

    return middle(*big), middle(*size)


def inside(box: Box, outer: Box, place: Box) -> Box:
    """Where a box lies when `outer`, which is around it, lies at `place`."""
    if box == outer:
        return place
    x, y = ((place[i + 2] - place[i]) / (outer[i + 2] - outer[i]) for i in (0, 1))
    left, top = place[0] + x * (box[0] - outer[0]), place[1] + y * (box[1] - outer[1])
    right, bottom = place[2] - x * (outer[2] - box[2]), place[3] - y * (outer[3] - box[3])
    return (left, top, right, bottom)


def to_float(images: Tensor | Regions | Sequence[Regions], device: torch.device) -> Tensor:
    """What the loader hands out - views of uint8 or uint16, or regions to be resized - as float32 in [0, 1] there."""
    if isinstance(images, Tensor):
        top = 255.0 if images.dtype == torch.uint8 else 65535.0
        return images.to(device, non_blocking=True).float().div_(top)
    if isinstance(images, Regions):
        return images.resized(device)
    parts = [part.resized(device) for part in images]
    return parts[0] if len(parts) == 1 else torch.cat(parts)

"""Which part of an image a view shows. Random crops are functions of given random numbers, so they can be repeated.

A box is (left, top, right, bottom) in pixels of its image at full size; sizes are (height, width).
"""

import abc
import math
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

import numpy as np
from torch import Tensor

from .decode.picture import Box, Picture, detail
from .resample import resized

TRIES = 10  # as torchvision's RandomResizedCrop: so many tries until a crop fits, then the largest central one
UNIFORMS = 2 * TRIES + 4  # random numbers a sample needs (a multiple of 4); the last is not for its geometry


@dataclass(frozen=True)
class ViewBox:
    """The part of an image that a view shows."""

    box: Box  # of the image
    size: tuple[int, int]  # it is resized to; smaller than the view where the image does not fill it
    flip: bool = False
    context: tuple[Box, tuple[int, int]] | None = None  # what is read around the box, and resized to; None: the box

    @property
    def detail(self) -> float:
        """The least number of decoded pixels, to one of the image, that the view needs."""
        box, size = self.context or (self.box, self.size)
        return detail([box], size)

    def region(self, picture: Picture) -> tuple[np.ndarray, Box]:
        """Return the pixels to resize from, [H', W', C], and the box in them."""
        if self.context is None:
            return picture.region(self.box, self.size)
        outer, size = self.context
        region, place = picture.region(outer, size)
        return region, box_within(self.box, outer, place)

    def pixels(self, picture: Picture) -> Tensor:
        """Return the resized and flipped pixels, [C, *size], of the picture's type."""
        return resized(*self.region(picture), self.flip, self.size)


class RandomCrop(Protocol):
    def sample(self, height: int, width: int, size: tuple[int, int], u: np.ndarray) -> ViewBox:
        """Crop an image of height x width by `UNIFORMS` numbers `u` in [0, 1)."""
        ...


@dataclass(frozen=True)
class Crop:
    """A random resized crop and a horizontal flip: MAE's only augmentation.

    Two views share their geometry when they hold the same `Crop` object.
    """

    scale: tuple[float, float] = (0.2, 1.0)  # fraction of the image's area (MAE's reference code)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)  # distortion of the view's aspect ratio, width to height
    flip: float = 0.5  # probability of a horizontal flip

    def __post_init__(self) -> None:
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"crop scale is {self.scale}: two fractions of the area, 0 < smallest <= largest <= 1")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError(f"crop ratio is {self.ratio}: two aspect ratios, 0 < smallest <= largest")
        if not 0 <= self.flip <= 1:
            raise ValueError(f"crop flip is {self.flip}: a probability between 0 and 1")

    def sample(self, height: int, width: int, size: tuple[int, int], u: np.ndarray) -> ViewBox:
        """Crop an image of height x width by `UNIFORMS` numbers `u` in [0, 1).

        The distribution is that of torchvision's RandomResizedCrop; for a view that is not square the ratio is
        relative to the view's own, so that (1, 1) never distorts.
        """
        view = size[1] / size[0]
        low, high = math.log(self.ratio[0]), math.log(self.ratio[1])
        numbers: list[float] = u.tolist()
        down, across, mirror = numbers[2 * TRIES : 2 * TRIES + 3]
        for fraction, distortion in zip(numbers[:TRIES], numbers[TRIES : 2 * TRIES], strict=True):
            area = height * width * (self.scale[0] + fraction * (self.scale[1] - self.scale[0]))
            ratio = math.exp(low + distortion * (high - low)) * view
            w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < w <= width and 0 < h <= height:
                top, left = int(down * (height - h + 1)), int(across * (width - w + 1))
                return ViewBox((left, top, left + w, top + h), size, mirror < self.flip)
        return ViewBox(center_box(height, width, size, self.ratio), size, mirror < self.flip)


@dataclass(frozen=True)
class EvalCrop(abc.ABC):
    """What an evaluation shows of an image: the same every time. Subclasses are final."""

    size: tuple[int, int]  # of the views
    fill: tuple[float, ...] | None = field(default=None, kw_only=True)  # [C] colour in [0, 1] of uncovered pixels
    stacked: ClassVar[bool] = True  # whether all views have this size

    @abc.abstractmethod
    def __call__(self, height: int, width: int) -> ViewBox:
        """Crop an image of height x width."""


@dataclass(frozen=True)
class CenterCrop(EvalCrop):
    """torchvision's Resize and CenterCrop: `fraction` of the resized image is kept (timm's crop_pct).

    0.875 is Resize(256), CenterCrop(224), rounding included. Pixels just beyond the crop contribute to its edges, as
    when an image is resized before it is cropped.
    """

    fraction: float = 1.0

    def __post_init__(self) -> None:
        resize_size(self.size, self.fraction)

    def __call__(self, height: int, width: int) -> ViewBox:
        if self.fraction == 1:
            return ViewBox(center_box(height, width, self.size), self.size)
        large = resize_size(self.size, self.fraction)
        if width * large[0] >= height * large[1]:  # wider than the view
            full = large[0], width * large[0] // height
        else:
            full = height * large[1] // width, large[1]

        def middle(h: int, w: int) -> Box:
            top, left = round((full[0] - h) / 2), round((full[1] - w) / 2)
            x, y = width / full[1], height / full[0]
            return (left * x, top * y, min((left + w) * x, width), min((top + h) * y, height))

        return ViewBox(middle(*self.size), self.size, context=(middle(*large), large))


@dataclass(frozen=True)
class WholeImage(EvalCrop):
    """All of an image, resized to the view whatever its aspect ratio."""

    def __call__(self, height: int, width: int) -> ViewBox:
        return ViewBox((0, 0, width, height), self.size)


def center_box(height: int, width: int, size: tuple[int, int], ratio: tuple[float, float] = (1.0, 1.0)) -> Box:
    """Return the largest central box, in whole pixels, whose aspect ratio is the view's, or at most `ratio` from it."""
    view = size[1] / size[0]
    aspect = min(max(width / height, view * ratio[0]), view * ratio[1])
    w, h = min(float(width), height * aspect), min(float(height), width / aspect)
    left, top = round((width - w) / 2), round((height - h) / 2)
    return (left, top, max(round((width + w) / 2), left + 1), max(round((height + h) / 2), top + 1))


def resize_size(size: tuple[int, int], fraction: float) -> tuple[int, int]:
    """Return the size to resize to when a center crop of `size` keeps `fraction` of it."""
    if not 0.5 <= fraction <= 1:
        raise ValueError(f"crop fraction is {fraction}: between 0.5 and 1")
    return math.floor(size[0] / fraction + 0.5), math.floor(size[1] / fraction + 0.5)


def box_within(box: Box, outer: Box, place: Box) -> Box:
    """Return where a box lies when `outer`, which encloses it, lies at `place`."""
    if box == outer:
        return place
    x, y = ((place[i + 2] - place[i]) / (outer[i + 2] - outer[i]) for i in (0, 1))
    left, top = place[0] + x * (box[0] - outer[0]), place[1] + y * (box[1] - outer[1])
    right, bottom = place[2] - x * (outer[2] - box[2]), place[3] - y * (outer[3] - box[3])
    return (left, top, right, bottom)


def check_scale(scale: tuple[float, float]) -> None:
    """ValueError unless these are the smallest and the largest factor of a random scale."""
    if not 0 < scale[0] <= scale[1]:
        raise ValueError(f"--settings.scale is {scale}: two factors, 0 < smallest <= largest")


def scaled_size(height: int, width: int, factor: float) -> tuple[int, int]:
    """Return the size of an image scaled by `factor`, in whole pixels."""
    return max(1, math.floor(height * factor + 0.5)), max(1, math.floor(width * factor + 0.5))


def scaled_crop(
    image: tuple[int, int], factor: float, size: tuple[int, int], corner: tuple[float, float], flip: bool = False
) -> ViewBox:
    """Crop at most `size` of an `image` scaled by `factor`; `corner`: its top and left, from 0 to below 1."""
    tall, wide = scaled_size(*image, factor)
    h, w = min(size[0], tall), min(size[1], wide)
    y, x = image[0] / tall, image[1] / wide  # pixels of the image to one of the scaled image
    top, left = int(corner[0] * (tall - h + 1)), int(corner[1] * (wide - w + 1))
    return ViewBox((left * x, top * y, (left + w) * x, (top + h) * y), (h, w), flip)

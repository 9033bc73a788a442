"""The pixels of an image, perhaps reduced, with exact positions in the full one.

One image on its way into a batch:

    Encoded              bytes, and the full size H x W                         `image.open_image`
    Picture              [h, w, C] uint8 or uint16, upright, reduced to the     `Encoded.at(detail)`
                         detail that the crops need
    region, box          [h', w', C]: the pixels under a crop, and where the    `Picture.region(crop, size)`
                         crop lies in them, in fractions of pixels
    Regions, Stack       the regions of a batch with their boxes, padded        `data/resample.py`
    slot                 their place in a buffer that moves to the device       `data/transfer.py`

H height, W width, C channels. Boxes are (left, top, right, bottom); sizes are (height, width).
"""

import math
from dataclasses import dataclass, replace

import numpy as np

from . import pixels

Box = tuple[float, float, float, float]
EPS = 1e-6  # pixels: what rounding errors may move an edge that lies between two pixels


@dataclass(frozen=True)
class Picture:
    """The pixels of an image of `height` x `width`, upright; the array may be a smaller copy of it.

    Boxes are given in pixels of the image. `extent` is where the image lies in the array, in pixels of the array: one
    reduced by a factor f has ceil(H / f) rows, of which the last covers fewer rows of the image than the others - or
    the first, when it was turned after it was reduced. So no position is rounded to the smaller grid.
    """

    array: np.ndarray  # [h, w, C] uint8 or uint16, any strides
    height: int
    width: int
    extent: Box

    @classmethod
    def of(cls, array: np.ndarray) -> "Picture":
        height, width = array.shape[:2]
        return cls(array, height, width, (0.0, 0.0, width, height))

    @classmethod
    def of_reduced(cls, array: np.ndarray, height: int, width: int, factor: int, orientation: int = 1) -> "Picture":
        """From an array as stored, 1 / `factor` of the stored `height` x `width`."""
        upright = pixels.upright(array, orientation)
        if orientation in (5, 6, 7, 8):
            height, width = width, height
        left = upright.shape[1] - width / factor if orientation in (2, 3, 6, 7) else 0.0
        top = upright.shape[0] - height / factor if orientation in (3, 4, 7, 8) else 0.0
        return cls(upright, height, width, (left, top, left + width / factor, top + height / factor))

    @property
    def nbytes(self) -> int:
        return self.array.nbytes

    def at(self, detail: float) -> "Picture":
        """The picture itself: it is decoded already. (`Encoded.at` decodes.)"""
        return self

    def with_full_size(self, height: int, width: int) -> "Picture":
        """The same pixels as a copy of an image of that size."""
        return replace(self, height=height, width=width)

    def reduced_by(self, factor: int) -> "Picture":
        """Downsample by an integer factor with box averaging."""
        if factor == 1:
            return self
        left, top, right, bottom = (edge / factor for edge in self.extent)
        return replace(self, array=pixels.shrink(self.array, factor), extent=(left, top, right, bottom))

    def region(self, box: Box, size: tuple[int, int]) -> tuple[np.ndarray, Box]:
        """([h', w', C], box in it): the pixels that a view of `size` needs of a box of the image.

        No pixel outside the box is included, as when one crops first and resizes then. Where the box has twice the
        view's pixels in both directions or more, they are reduced by an integer factor.
        """
        left, top, right, bottom = self._in_array(box)
        x, y = max(0, math.floor(left + EPS)), max(0, math.floor(top + EPS))
        array = self.array[y : max(math.ceil(bottom - EPS), y + 1), x : max(math.ceil(right - EPS), x + 1)]
        factor = max(1, int(min((right - left) / size[1], (bottom - top) / size[0]) + EPS))
        if factor > 1:
            array = pixels.shrink(array, factor)
        height, width = array.shape[:2]
        inside = (max(0.0, left - x), max(0.0, top - y), right - x, bottom - y)
        left, top, right, bottom = (edge / factor for edge in inside)
        return array, (left, top, min(right, width), min(bottom, height))

    def _in_array(self, box: Box) -> Box:
        left, top, right, bottom = self.extent
        x, y = (right - left) / self.width, (bottom - top) / self.height
        return (left + x * box[0], top + y * box[1], left + x * box[2], top + y * box[3])


def detail(boxes: list[Box], size: tuple[int, int]) -> float:
    """The least scale of the image at which every box still has the view's pixels in both directions."""
    return max(max(size[0] / (bottom - top), size[1] / (right - left)) for left, top, right, bottom in boxes)

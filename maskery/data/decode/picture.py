"""A decoded image that may have fewer pixels than the original, and still knows where everything lies.

H height, W width, C channels. Boxes are (left, top, right, bottom); sizes are (height, width).
"""

import math
from dataclasses import dataclass, replace

import numpy as np

from . import pixels

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Picture:
    """The pixels of an image of `height` x `width`, upright, of which the array may be a smaller copy.

    Boxes are given in pixels of the image. `whole` is where the image lies in the array, in pixels of the array: one
    reduced by a factor f has ceil(H / f) rows, of which the last stands for fewer rows of the image than the others -
    or the first, when it was turned after it was reduced. So no position is rounded to the smaller grid.
    """

    array: np.ndarray  # [h, w, C] uint8 or uint16, any strides
    height: int
    width: int
    whole: Box

    @classmethod
    def of(cls, array: np.ndarray) -> "Picture":
        height, width = array.shape[:2]
        return cls(array, height, width, (0.0, 0.0, width, height))

    @classmethod
    def reduced(cls, array: np.ndarray, height: int, width: int, factor: int, orientation: int = 1) -> "Picture":
        """Of an array as it is stored, by 1 / `factor` smaller than the `height` x `width` that are stored."""
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
        """As it is: it is decoded already. (`Encoded.at` decodes.)"""
        return self

    def standing_for(self, height: int, width: int) -> "Picture":
        """The same picture as a copy of an image of that size."""
        return replace(self, height=height, width=width)

    def shrunk(self, factor: int) -> "Picture":
        """Reduced by a whole factor, by means of squares of pixels."""
        if factor == 1:
            return self
        left, top, right, bottom = (edge / factor for edge in self.whole)
        return replace(self, array=pixels.shrink(self.array, factor), whole=(left, top, right, bottom))

    def part(self, box: Box, size: tuple[int, int]) -> tuple[np.ndarray, Box]:
        """([h, w, C], box in it): what a view of `size` needs of a box of the image.

        No pixel outside the box is handed out, as when one crops first and resizes then. Where the box has twice the
        view's pixels in both directions or more, they are reduced by a whole factor.
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
        left, top, right, bottom = self.whole
        x, y = (right - left) / self.width, (bottom - top) / self.height
        return (left + x * box[0], top + y * box[1], left + x * box[2], top + y * box[3])


EPS = 1e-6  # pixels: what rounding errors may move an edge that lies between two pixels


def detail(boxes: list[Box], size: tuple[int, int]) -> float:
    """The least number of pixels, to one of the image, that gives every box the view's pixels in both directions."""
    return max(max(size[0] / (bottom - top), size[1] / (right - left)) for left, top, right, bottom in boxes)

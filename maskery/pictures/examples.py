"""Strips of uncropped images of different sizes, a row each: the image, its labels, the prediction.

B images, C channels, H x W pixels
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.dataset import ImageData, spread
from ..data.views import to_float
from .segments import legend
from .strip import strip

SIDE, EXAMPLES = 320, 8  # pixels of an image's long side; images in a strip


def whole_image(data: ImageData, i: int, size: Sequence[int] | None = None) -> Tensor:
    """Read image `i` uncropped, [C, H, W] in [0, 1]; resized to `size` (height, width) if given."""
    array = data.images.open(i).at(1.0).array
    image = to_float(torch.from_numpy(array.copy()).permute(2, 0, 1)[None], torch.device("cpu"))
    return (image if size is None else F.interpolate(image, tuple(size), mode="area"))[0]


class ExampleStrip:
    """A strip of some of the images `indices`, evenly spread, whose rows are added one by one."""

    def __init__(self, indices: np.ndarray, captions: Sequence[str]):
        self.captions, self.shown = captions, set(spread(indices, EXAMPLES).tolist())
        self.rows: list[list[Tensor]] = []
        self.classes: set[int] = set()  # that occur in the rows

    def __contains__(self, i: int) -> bool:
        return i in self.shown

    def add(self, columns: Sequence[Tensor], classes: Iterable[int]) -> None:
        """Add a row: one picture [C, H, W] in [0, 1] per caption, and the classes that occur in it."""
        self.rows.append([scaled(column[None]) for column in columns])
        self.classes.update(classes)

    def write(self, path: Path, title: str, names: Sequence[str]) -> None:
        columns = zip(self.captions, zip(*self.rows, strict=True), strict=True)
        pictures = {caption: padded(images) for caption, images in columns}
        strip(pictures, path, title, legend=legend(names, self.classes))


def scaled(image: Tensor) -> Tensor:
    """Resize an image [1, C, H, W] to a long side of SIDE without mixing colours."""
    longest = max(image.shape[2:])
    return F.interpolate(image, [max(1, round(n * SIDE / longest)) for n in image.shape[2:]], mode="nearest")


def padded(images: Sequence[Tensor]) -> Tensor:
    """Centre images [1, C, H_i, W_i] on white ones of one size, [B, C, H, W]."""
    height, width = (max(image.shape[axis] for image in images) for axis in (2, 3))
    same_size = []
    for image in images:
        down, right = height - image.shape[2], width - image.shape[3]
        same_size.append(F.pad(image, (right // 2, right - right // 2, down // 2, down - down // 2), value=1.0))
    return torch.cat(same_size)

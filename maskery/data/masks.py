"""Segmentation masks: files -> values -> class numbers, one a pixel.

H x W pixels, M classes
"""

import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from PIL import Image

from ..terminal import Tick, no_progress
from .decode.image import read_header
from .decode.picture import Box
from .decode.unreadable import Unreadable, reading, reason
from .sources.source import Source

VOID = -1  # class number of unlabelled pixels: they have no loss and are not counted
FORMATS = ("PNG", "TIFF", "BMP", "GIF")
_UNKNOWN = -2
_VALUES = 1 << 16


@dataclass(frozen=True)
class LabelMap:
    """The classes that the values of a mask stand for."""

    ids: tuple[int, ...]  # [M] the value of each class
    void: tuple[int, ...] = (255,)  # values of void

    @cached_property
    def table(self) -> np.ndarray:
        """[65536] int16: value -> class number, VOID, or _UNKNOWN."""
        table = np.full(_VALUES, _UNKNOWN, np.int16)
        table[list(self.ids)] = np.arange(len(self.ids))
        table[list(self.void)] = VOID
        return table

    def classes(self, values: np.ndarray, name: str) -> np.ndarray:
        """Values [H, W] -> class numbers [H, W] int16. ValueError naming the mask and the value that is no class."""
        classes = self.table[values]
        if classes.min() == _UNKNOWN:
            raise ValueError(self.unknown_value(name, int(values[classes == _UNKNOWN][0])))
        return classes

    def unknown_value(self, name: str, value: int) -> str:
        void = ", ".join(map(str, self.void)) or "nothing"
        lows, highs = min(self.ids), max(self.ids)
        return (
            f"the mask of {name} has the value {value}: the {len(self.ids)} classes have values from {lows} to "
            f"{highs}, and void is {void} (--settings.ignore-index)"
        )


def decode_mask(data: bytes, name: str) -> np.ndarray:
    """Values [H, W], uint8 or uint16: palette indices, grey levels. `Unreadable` for damaged files.

    ValueError for files that cannot hold values: pictures of colours, and JPEG, which changes them.
    """
    if data[:2] == b"\xff\xd8":
        raise ValueError(f"the mask of {name} is a JPEG, which does not keep class values: PNG does")
    with reading("mask"), Image.open(io.BytesIO(data), formats=FORMATS) as image:
        mode, values = image.mode, np.array(image)
    if mode not in ("1", "L", "P", "I", "I;16", "I;16B"):
        raise ValueError(
            f"the mask of {name} is a picture of colours ({mode}): one value a pixel is read, as palette or grey"
        )
    if values.min() < 0 or values.max() >= _VALUES:
        raise ValueError(f"the mask of {name} has the value {int(values.max())}: up to {_VALUES - 1} are read")
    return values.astype(np.uint16 if values.itemsize > 1 else np.uint8)


def mask_of(source: Source, i: int, size: tuple[int, int], label_map: LabelMap) -> np.ndarray:
    """Class numbers [H, W] int16 of image i, which has `size`. `Unreadable`, ValueError as in `decode_mask`."""
    name = source.names[i]
    values = values_of(source, i)
    if values.shape != size:
        raise ValueError(other_size(name, values.shape, size))
    return label_map.classes(values, name)


def values_of(source: Source, i: int) -> np.ndarray:
    """The values of image i's mask, as `decode_mask` reads them."""
    try:
        data = source.read_mask(i)
    except OSError as e:
        raise Unreadable(f"mask: {reason(e)}") from e
    if not data:
        raise Unreadable("mask: 0 bytes")
    return decode_mask(data, source.names[i])


def other_size(name: str, mask: tuple[int, ...], image: tuple[int, int]) -> str:
    return (
        f"the mask of {name} has {mask[1]} x {mask[0]} pixels, the image {image[1]} x {image[0]} (as its EXIF turns it)"
    )


def nearest(mask: np.ndarray, box: Box, size: tuple[int, int]) -> np.ndarray:
    """Resize the box of a mask [H, W] to `size` by nearest neighbour."""
    left, top, right, bottom = box
    rows = np.floor(top + (np.arange(size[0]) + 0.5) * ((bottom - top) / size[0])).astype(np.int64)
    columns = np.floor(left + (np.arange(size[1]) + 0.5) * ((right - left) / size[1])).astype(np.int64)
    return mask[rows.clip(0, mask.shape[0] - 1)[:, None], columns.clip(0, mask.shape[1] - 1)]


@dataclass(frozen=True)
class MaskSurvey:
    """Counts of the values in all masks of a data set."""

    pixels: np.ndarray  # [65536] int64, pixels of every value
    first: np.ndarray  # [65536] int64, the first image that has the value, -1 = none
    unreadable: tuple[tuple[str, str], ...]  # (name, reason), of images or masks


def survey_masks(source: Source, indices: Sequence[int] | np.ndarray, progress: Tick = no_progress) -> MaskSurvey:
    """Read every mask, and the size of every image. ValueError in one line for the first that does not fit."""
    pixels, first = np.zeros(_VALUES, np.int64), np.full(_VALUES, -1, np.int64)
    unreadable = []

    def count(i: int) -> np.ndarray | str:
        try:
            values, header = values_of(source, i), read_header(source.read(i))
        except (Unreadable, OSError) as e:
            return reason(e)
        if values.shape != (header.height, header.width):
            raise ValueError(other_size(source.names[i], values.shape, (header.height, header.width)))
        return np.bincount(values.ravel(), minlength=256)

    with ThreadPoolExecutor() as pool:
        for start in range(0, len(indices), 256):  # of many, few are in memory at a time
            part = np.asarray(indices[start : start + 256])
            source.expect(part)
            for i, counts in zip(part.tolist(), pool.map(count, part.tolist()), strict=True):
                if isinstance(counts, str):
                    unreadable.append((source.names[i], counts))
                    continue
                values = np.flatnonzero(counts)
                pixels[values] += counts[values]
                first[values] = np.where(first[values] < 0, i, first[values])
            progress(start + len(part), len(indices))
    return MaskSurvey(pixels, first, tuple(unreadable))

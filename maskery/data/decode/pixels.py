"""Arithmetic on decoded images. H height, W width, C channels; arrays are [H, W, C], uint8 or uint16."""

import numpy as np
from PIL import Image


def resize(
    image: np.ndarray, height: int, width: int, box: tuple[float, float, float, float] | None = None
) -> np.ndarray:
    """[H, W, C] -> [height, width, C] by Pillow's antialiased bicubic filter, in the image's own dtype.

    `box` = (left, top, right, bottom) in pixels, fractions allowed, is the part to take (None: all), as in Pillow's
    `resize(box=...)`. Any number of channels; none of them is taken for an alpha. Raises ValueError for a box outside
    the image.
    """
    if image.dtype == np.uint8 and image.shape[2] == 3:
        small = Image.fromarray(np.ascontiguousarray(image)).resize((width, height), Image.Resampling.BICUBIC, box)
        return np.array(small)
    out = np.empty((height, width, image.shape[2]), image.dtype)
    for c in range(image.shape[2]):
        # 16 bit goes through float32, which holds every uint16 exactly; Pillow's own 16-bit modes differ by version.
        plane = image[:, :, c] if image.dtype == np.uint8 else image[:, :, c].astype(np.float32)
        small = Image.fromarray(np.ascontiguousarray(plane)).resize((width, height), Image.Resampling.BICUBIC, box)
        out[:, :, c] = _rounded(np.asarray(small), image.dtype)
    return out


def reduction(height: int, width: int, min_side: int | None) -> int:
    """Largest whole factor to shrink by that leaves the short side at `min_side` or more (1: leave it)."""
    return 1 if min_side is None else max(1, min(height, width) // min_side)


def shrink(image: np.ndarray, factor: int) -> np.ndarray:
    """[H, W, C] -> [ceil(H / factor), ceil(W / factor), C]: means of squares of pixels, as Pillow's `Image.reduce`."""
    if factor == 1:
        return image
    if image.dtype == np.uint8 and image.shape[2] == 3:
        return np.array(Image.fromarray(np.ascontiguousarray(image)).reduce(factor))
    deep = np.float32 if image.dtype == np.uint16 else np.uint8
    planes = [Image.fromarray(image[:, :, c].astype(deep)).reduce(factor) for c in range(image.shape[2])]
    return np.stack([_rounded(np.asarray(plane), image.dtype) for plane in planes], axis=2)


def _rounded(plane: np.ndarray, dtype: np.dtype) -> np.ndarray:
    if plane.dtype == dtype:
        return plane
    return np.clip(np.rint(plane), 0, np.iinfo(dtype).max).astype(dtype)


def upright(image: np.ndarray, orientation: int) -> np.ndarray:
    """[H, W, C] as stored -> as seen, by the EXIF or TIFF `orientation` 1..8 (anything else counts as 1)."""
    if orientation in (5, 6, 7, 8):
        image = image.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    return image


def luma(image: np.ndarray) -> np.ndarray:
    """RGB [H, W, 3] -> grey [H, W, 1] by ITU-R 601, in Pillow's fixed-point arithmetic."""
    weights = np.array([19595, 38470, 7471], np.uint32)  # sum 65536: the largest uint16 still fits
    grey = (image * weights).sum(axis=2, dtype=np.uint32, keepdims=True) + np.uint32(0x8000)
    return (grey >> np.uint32(16)).astype(image.dtype)


def rgb_of_cmyk(image: np.ndarray) -> np.ndarray:
    """CMYK [H, W, 4] -> RGB [H, W, 3] the way Pillow does: (1 - c) (1 - k), without a colour profile."""
    full = float(np.iinfo(image.dtype).max)
    ink = image.astype(np.float64)
    return np.rint((full - ink[:, :, :3]) * (full - ink[:, :, 3:]) / full).astype(image.dtype)


def to_bits(image: np.ndarray, bits: int) -> np.ndarray:
    """uint8 or uint16 -> uint8 (`bits` 8: rounded to nearest) or uint16 (`bits` 16: 255 becomes 65535)."""
    if bits == 8 and image.dtype == np.uint16:
        return ((image.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if bits == 16 and image.dtype == np.uint8:
        return image.astype(np.uint16) * np.uint16(257)
    return image


def stretch(image: np.ndarray, bits: int) -> np.ndarray:
    """Values of `bits` bits -> the full range of uint8 (up to 8 bits) or uint16 (9 to 16 bits), rounded."""
    dtype = np.dtype(np.uint8 if bits <= 8 else np.uint16)
    full = 2**bits - 1
    if bits not in (8, 16):
        image = (image.astype(np.uint32) * np.iinfo(dtype).max + full // 2) // full
    return image.astype(dtype, copy=False)

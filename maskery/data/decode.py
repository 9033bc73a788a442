"""The bytes of one image -> an array. JPEG, PNG, WebP, BMP, GIF and TIFF.

H height, W width, C channels. Sizes are those of the picture as seen, after EXIF rotation.
"""

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO, Literal

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from . import pixels
from .pixels import resize
from .png16 import chunks, decode_png16
from .tiff import decode_tiff
from .tiff_page import survey_pages
from .unreadable import DAMAGE, Unreadable, reading

__all__ = ["Header", "Unreadable", "decode", "read_header", "resize"]

_MAGIC = {
    b"\xff\xd8": "JPEG",
    b"\x89PNG": "PNG",
    b"RIFF": "WEBP",
    b"BM": "BMP",
    b"GIF8": "GIF",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
}
_ORIENTATION = 0x0112
_GREY = ("1", "L", "LA", "I", "I;16", "I;16B")


@dataclass(frozen=True)
class Header:
    """What a file says about its picture, pixels unread.

    `channels`: 1 grey, 3 colour (RGB, RGBA, palette, CMYK), n for a TIFF of n bands or n stacked pages. `bits`: 8 or
    16. `pages`: full pictures in a TIFF, 1 for all other formats. `format`: JPEG, PNG, WEBP, BMP, GIF or TIFF.
    """

    height: int
    width: int
    channels: int
    bits: int
    pages: int
    format: str


def read_header(
    data: bytes | str | os.PathLike[str] | BinaryIO, pages: Literal["first", "channels"] = "first"
) -> Header:
    """Size, channels and depth of an encoded image, without decoding pixels.

    `data`: the bytes, a path, or an open binary file that can seek; of the latter two only the start is read.
    `pages`: "channels" counts a TIFF's pages as channels. Raises `Unreadable` for what is no image that `decode` reads,
    OSError for a path that cannot be opened.
    """
    with _opened(data) as file:
        kind = _kind(file)
        with reading(kind):
            if kind == "TIFF":
                page, count = survey_pages(file, stacked=pages == "channels")
                height, width = page.height, page.width
                channels = page.channels * count if pages == "channels" else page.channels
                bits, turned = 8 if page.bits <= 8 else 16, page.orientation in (5, 6, 7, 8)
            else:
                with Image.open(file, formats=[kind]) as image:
                    width, height = image.size
                    channels = 1 if _is_grey(image) else 3
                    bits, turned = 16 if _is_deep(image) else 8, _orientation(image, file) in (5, 6, 7, 8)
                count = 1
        if not height * width * channels:
            raise Unreadable(f"damaged {kind}: {width} x {height} pixels of {channels} channels")
        if turned:
            height, width = width, height
        return Header(height, width, channels, bits, count, kind)


def decode(
    data: bytes,
    *,
    channels: int,
    bits: int = 8,
    pages: Literal["first", "channels"] = "first",
    min_side: int | None = None,
) -> np.ndarray:
    """Encoded bytes -> [H, W, channels], uint8 (`bits` 8) or uint16 (`bits` 16), C-contiguous, upright.

    Grey becomes `channels` 3 by repetition, colour becomes `channels` 1 by luma (ITU-R 601). Transparency is dropped as
    Pillow's `convert("RGB")` does: the colours stored under transparent pixels show, nothing is blended; only
    `channels` 4 of an RGBA image gives its four channels as stored. 16-bit values come down to 8 bits by
    v * 255 / 65535, rounded; 8-bit values go up by 257. `pages`: "first", or "channels" to stack a TIFF's pages as
    channels; of an animation the first frame. `min_side`: the image may come back smaller, by a whole factor, with its
    short side at min(min_side, its original short side) or more; that makes large JPEGs several times faster. None:
    full size.

    Raises `Unreadable` for truncated and damaged files, other channel counts, decompression bombs, and bytes that are
    no image.
    """
    if channels < 1 or bits not in (8, 16) or pages not in ("first", "channels"):
        raise ValueError(
            f"cannot decode to {channels} channels of {bits} bits, pages {pages!r}: bits are 8 or 16, pages 'first' or "
            "'channels'"
        )
    if min_side is not None and min_side < 1:
        raise ValueError(f"min_side is {min_side}: at least 1, or None for full size")
    file = io.BytesIO(data)
    kind = _kind(file)
    with reading(kind):
        if kind == "TIFF":
            array = decode_tiff(file, stacked=pages == "channels", samples=channels)
            array = pixels.shrink(array, pixels.reduction(*array.shape[:2], min_side))
        else:
            array = _by_pillow(file, kind, channels, min_side)
        if not array.size:
            raise Unreadable(f"damaged {kind}: an array of shape {array.shape}")
        return np.ascontiguousarray(pixels.to_bits(_to_channels(array, channels), bits))


def _by_pillow(file: io.BytesIO, kind: str, channels: int, min_side: int | None) -> np.ndarray:
    with Image.open(file, formats=[kind]) as image:
        orientation = _orientation(image, file)
        if _is_deep(image):
            if image.mode.startswith("I"):
                array = np.array(image).astype(np.uint16)[:, :, None]
            else:
                array = decode_png16(file, image.size, _rawmode(image), interlaced=bool(image.info.get("interlace")))
                if array.shape[2] in (2, 4) and array.shape[2] != channels:
                    array = array[:, :, :-1]  # alpha
            array = pixels.shrink(array, pixels.reduction(*array.shape[:2], min_side))
        else:
            if min_side is not None:
                image.draft("", (min_side, min_side))  # JPEG: a DCT of 1/2, 1/4 or 1/8 the size
            image.load()
            mode = "L" if _is_grey(image) else "RGBA" if image.mode == "RGBA" and channels == 4 else "RGB"
            flat = image if image.mode == mode else image.convert(mode)
            if mode == "RGB" and channels == 1:
                flat = flat.convert("L")
            factor = pixels.reduction(flat.height, flat.width, min_side)
            array = np.array(flat if factor == 1 else flat.reduce(factor))
            array = array.reshape(*array.shape[:2], -1)
        return pixels.upright(array, orientation)


def _to_channels(array: np.ndarray, channels: int) -> np.ndarray:
    have = array.shape[2]
    if have == channels:
        return array
    if have == 1 and channels == 3:
        return np.repeat(array, 3, axis=2)
    if have == 3 and channels == 1:
        return pixels.luma(array)
    raise Unreadable(f"{have} channels where {channels} are wanted")


def _is_deep(image: Image.Image) -> bool:
    """16 bits a sample. Colour PNGs of 16 bits have an 8-bit mode; only the decoder's argument shows it."""
    return image.mode.startswith("I") or ";16" in _rawmode(image)


def _is_grey(image: Image.Image) -> bool:
    return image.mode in _GREY or _rawmode(image) == "LA;16B"  # which Pillow reads as RGBA


def _rawmode(image: Image.Image) -> str:
    """How the samples of a PNG lie in the file, "" for other formats."""
    return str(image.tile[0][3]) if isinstance(image, PngImageFile) and image.tile else ""


def _orientation(image: Image.Image, file: BinaryIO) -> int:
    """The EXIF orientation 1..8. EXIF that cannot be parsed counts as none: the pixels are good without it."""
    try:
        if image.format == "PNG" and "exif" not in image.info:
            # PngImageFile.getexif would decode all pixels to find an eXIf chunk behind them.
            for kind, length in chunks(file):
                if kind == b"eXIf":
                    image.info["exif"] = file.read(length)
        return int(Image.Image.getexif(image).get(_ORIENTATION, 1))
    except DAMAGE:
        return 1


@contextmanager
def _opened(data: bytes | str | os.PathLike[str] | BinaryIO) -> Iterator[BinaryIO]:
    if isinstance(data, (bytes, bytearray, memoryview)):
        yield io.BytesIO(data)
    elif isinstance(data, (str, os.PathLike)):
        with open(data, "rb") as file:
            yield file
    else:
        yield data


def _kind(file: BinaryIO) -> str:
    """The format by the first bytes."""
    start = file.read(12)
    file.seek(0)
    if not start:
        raise Unreadable("0 bytes")
    for magic, kind in _MAGIC.items():
        if start.startswith(magic) and (kind != "WEBP" or start[8:] == b"WEBP"):
            return kind
    raise Unreadable(f"not an image of a format that is read (begins with {start[:8]!r})")

"""The bytes of one image -> an array. JPEG, PNG, WebP, BMP, GIF, TIFF, and NumPy's as raw packs have them.

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

from . import jpeg, npy, pixels
from .picture import EPS, Picture
from .pixels import resize
from .png16 import chunks, decode_png16
from .tiff import decode_tiff
from .tiff_page import survey_pages
from .unreadable import DAMAGE, Unreadable, reading

__all__ = ["Encoded", "Header", "Unreadable", "decode", "open_image", "picture", "read_header", "resize"]

Pages = Literal["first", "channels"]  # of a TIFF: its first page, or all of them as channels
_MAGIC = {
    b"\xff\xd8": "JPEG",
    b"\x89PNG": "PNG",
    npy.MAGIC: "NPY",
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
    16. `pages`: full pictures in a TIFF, 1 for all other formats. `format`: JPEG, PNG, WEBP, BMP, GIF, TIFF
    or NPY.
    """

    height: int
    width: int
    channels: int
    bits: int
    pages: int
    format: str


def read_header(data: bytes | str | os.PathLike[str] | BinaryIO, pages: Pages = "first") -> Header:
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
            elif kind == "NPY":
                (height, width, channels), dtype, alpha, _ = npy.npy_header(file.read(256))
                channels, bits, turned, count = 3 if alpha else channels, 8 * dtype.itemsize, False, 1
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


@dataclass(frozen=True)
class Encoded:
    """An image whose size is known and whose pixels are still to be decoded. Raises `Unreadable` when they are."""

    data: bytes
    height: int  # of what it is (perhaps a smaller copy of), as seen, after EXIF rotation
    width: int
    stored: tuple[int, int]  # of what is in `data`, likewise
    channels: int  # that are wanted
    bits: int
    pages: Pages
    jpeg: jpeg.Frame | None  # of a JPEG that the fast decoder can read
    orientation: int  # of such a JPEG

    def at(self, detail: float) -> Picture:
        """Decoded with at least `detail` pixels, in both directions, to one of the image, or with all there are.

        A JPEG comes at the coarsest scale of its DCT that suffices, all others as they are.
        """
        has = min(self.stored[0] / self.height, self.stored[1] / self.width)
        return self.reduced(int(has / detail + EPS)).standing_for(self.height, self.width)

    def reduced(self, factor: int) -> Picture:
        """Decoded; a JPEG at the coarsest scale of its DCT that is no coarser than 1 / `factor`."""
        found = self._decoded(factor)
        if (found.height, found.width) != self.stored:
            height, width = self.stored
            raise Unreadable(f"damaged: {found.width} x {found.height} pixels, the header says {width} x {height}")
        return found

    def _decoded(self, factor: int) -> Picture:
        if self.jpeg:
            scale = next(s for s in jpeg.SCALES if s <= max(1, factor))
            array = jpeg.decode(self.data, self.jpeg, scale, grey=self.jpeg.components == 1 == self.channels)
            if array is not None:
                array = _finished(array, self.channels, self.bits)
                return Picture.reduced(array, self.jpeg.height, self.jpeg.width, scale, self.orientation)
        file = io.BytesIO(self.data)
        kind = _kind(file)
        with reading(kind):
            if kind == "TIFF":
                array = decode_tiff(file, stacked=self.pages == "channels", samples=self.channels)  # upright
                stored, scale, orientation = array.shape[:2], 1, 1
            elif kind == "NPY":
                array, alpha = npy.decode_npy(self.data)
                array = array[:, :, :3] if alpha and self.channels != 4 else array
                array, stored, scale, orientation = array.copy(), array.shape[:2], 1, 1
            else:
                array, stored, scale, orientation = _by_pillow(file, kind, self.channels, factor)
            if not array.size:
                raise Unreadable(f"damaged {kind}: an array of shape {array.shape}")
            array = _finished(array, self.channels, self.bits)
        return Picture.reduced(array, stored[0], stored[1], scale, orientation)


def open_image(
    data: bytes,
    *,
    channels: int,
    bits: int = 8,
    pages: Pages = "first",
    full: tuple[int, int] | None = None,
) -> Encoded:
    """The size of an image, before its pixels are decoded to [H, W, channels] of `bits` bits (see `decode`).

    `full`: (height, width) of the image that `data` is a smaller copy of. Raises `Unreadable` for bytes whose header
    says already that they are none that can be read.
    """
    if channels < 1 or bits not in (8, 16) or pages not in ("first", "channels"):
        raise ValueError(
            f"cannot decode to {channels} channels of {bits} bits, pages {pages!r}: bits are 8 or 16, pages 'first' or "
            "'channels'"
        )
    if data[:2] == b"\xff\xd8" and channels in (1, 3) and (found := jpeg.frame(data)):
        orientation = _orientation_of_jpeg(data) if found.app1 else 1
        stored = (found.height, found.width)
        if orientation in (5, 6, 7, 8):
            stored = (found.width, found.height)
    else:
        header = read_header(data, pages)
        found, orientation, stored = None, 1, (header.height, header.width)
    height, width = full or stored
    return Encoded(data, height, width, stored, channels, bits, pages, found, orientation)


def decode(
    data: bytes,
    *,
    channels: int,
    bits: int = 8,
    pages: Pages = "first",
    min_side: int | None = None,
) -> np.ndarray:
    """Encoded bytes -> [H, W, channels], uint8 (`bits` 8) or uint16 (`bits` 16), C-contiguous, upright.

    Grey becomes `channels` 3 by repetition, colour becomes `channels` 1 by luma (ITU-R 601). Transparency is dropped as
    Pillow's `convert("RGB")` does: the colours stored under transparent pixels show, nothing is blended; only
    `channels` 4 of an RGBA image gives its four channels as stored. 16-bit values come down to 8 bits by
    v * 255 / 65535, rounded; 8-bit values go up by 257. `pages`: "first", or "channels" to stack a TIFF's pages as
    channels; of an animation the first frame. `min_side`: see `picture`.

    Raises `Unreadable` for truncated and damaged files, other channel counts, decompression bombs, and bytes that are
    no image.
    """
    image = open_image(data, channels=channels, bits=bits, pages=pages)
    return np.ascontiguousarray(picture(image, min_side).array)


def picture(image: Encoded, min_side: int | None = None) -> Picture:
    """Decoded; smaller, by a whole factor, with its short side at min(min_side, its original short side) or more.

    That makes large JPEGs several times faster. None: full size. Raises `Unreadable`.
    """
    if min_side is not None and min_side < 1:
        raise ValueError(f"min_side is {min_side}: at least 1, or None for full size")
    found = image.reduced(pixels.reduction(*image.stored, min_side))
    height, width = found.array.shape[:2]
    return found.shrunk(pixels.reduction(height, width, min_side)).standing_for(image.height, image.width)


def _by_pillow(file: io.BytesIO, kind: str, channels: int, factor: int) -> tuple[np.ndarray, tuple[int, int], int, int]:
    """(array as stored, size as stored, factor it was reduced by, orientation)."""
    with Image.open(file, formats=[kind]) as image:
        orientation, (width, height) = _orientation(image, file), image.size
        if _is_deep(image):
            if image.mode.startswith("I"):
                array = np.array(image).astype(np.uint16)[:, :, None]
            else:
                array = decode_png16(file, image.size, _rawmode(image), interlaced=bool(image.info.get("interlace")))
                if array.shape[2] in (2, 4) and array.shape[2] != channels:
                    array = array[:, :, :-1]  # alpha
            return array, (height, width), 1, orientation
        scale = 1
        if kind == "JPEG" and min(height, width) >= factor:
            scale = next(s for s in jpeg.SCALES if s <= max(1, factor))
            image.draft("", (width // scale, height // scale))  # Pillow takes the scale that gives just this
        image.load()
        mode = "L" if _is_grey(image) else "RGBA" if image.mode == "RGBA" and channels == 4 else "RGB"
        flat = image if image.mode == mode else image.convert(mode)
        if mode == "RGB" and channels == 1:
            flat = flat.convert("L")
        array = np.array(flat)
        return array.reshape(*array.shape[:2], -1), (height, width), scale, orientation


def _finished(array: np.ndarray, channels: int, bits: int) -> np.ndarray:
    return pixels.to_bits(_to_channels(array, channels), bits)


def _orientation_of_jpeg(data: bytes) -> int:
    with reading("JPEG"):
        file = io.BytesIO(data)
        with Image.open(file, formats=["JPEG"]) as image:
            return _orientation(image, file)


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

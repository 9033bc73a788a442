"""The bytes of one image -> an array. JPEG, PNG, WebP, BMP, GIF, TIFF, and NumPy's as raw packs have them.

`open_image` reads the size only, so that a crop can be drawn before its pixels are decoded (`Encoded.at`). How an image
goes on from there: `picture.py`. H height, W width, C channels. Sizes are those of the picture as seen, after EXIF
rotation.
"""

import contextlib
import io
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from . import jpeg, npy, pixels
from .picture import EPS, Picture
from .tiff import decode_tiff, survey_pages
from .unreadable import Unreadable, reading

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
_TURNED = (5, 6, 7, 8)  # orientations that swap height and width
_GREY = ("1", "L", "LA", "I", "I;16", "I;16B")


# --------------------------------------------------------------------------------------------------------- the header
@dataclass(frozen=True)
class Header:
    """The facts in a file's header, pixels unread.

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


def read_header(data: bytes, pages: Pages = "first") -> Header:
    """Size, channels and depth of an encoded image, without decoding pixels.

    `pages`: "channels" counts a TIFF's pages as channels. Raises `Unreadable` for what is no image that `decode` reads.
    """
    kind, n = _format(data), 1
    with reading(kind):
        if kind == "TIFF":
            page, n = survey_pages(io.BytesIO(data), stacked=pages == "channels")
            height, width = _upright_size(page.height, page.width, page.orientation)
            channels = page.channels * n if pages == "channels" else page.channels
            bits = 8 if page.bits <= 8 else 16
        elif kind == "NPY":
            (height, width, channels), dtype, alpha, _ = npy.npy_header(data[:256])
            channels, bits = 3 if alpha else channels, 8 * dtype.itemsize
        else:
            with Image.open(io.BytesIO(data), formats=[kind]) as image:
                channels, bits = 1 if _is_grey(image) else 3, 16 if _is_deep(image) else 8
                height, width = _upright_size(image.height, image.width, _orientation(image, data))
    if not height * width * channels:
        raise Unreadable(f"damaged {kind}: {width} x {height} pixels of {channels} channels")
    return Header(height, width, channels, bits, n, kind)


# --------------------------------------------------------------------------------------------------------- the pixels
@dataclass(frozen=True)
class Encoded:
    """An image whose size is known and whose pixels are still to be decoded. Raises `Unreadable` when they are."""

    data: bytes
    height: int  # of the full image, of which `data` may be a smaller copy
    width: int
    stored: tuple[int, int]  # (height, width) of the image in `data`
    channels: int  # to decode to
    bits: int
    pages: Pages
    jpeg: jpeg.Frame | None  # of a JPEG that the fast decoder can read
    orientation: int  # of such a JPEG

    def at(self, detail: float) -> Picture:
        """Decode with at least `detail` pixels per pixel of the image in both directions, or with all there are.

        A JPEG comes at the coarsest scale of its DCT that suffices, all others as they are.
        """
        available = min(self.stored[0] / self.height, self.stored[1] / self.width)
        return self.reduced(int(available / detail + EPS)).with_full_size(self.height, self.width)

    def reduced(self, factor: int) -> Picture:
        """Decode; a JPEG at the coarsest scale of its DCT that is no coarser than 1 / `factor`."""
        picture = (self._by_simplejpeg(factor) if self.jpeg else None) or self._by_format(factor)
        if (picture.height, picture.width) != self.stored:
            height, width = self.stored
            raise Unreadable(f"damaged: {picture.width} x {picture.height} pixels, the header says {width} x {height}")
        return picture

    def _by_simplejpeg(self, factor: int) -> Picture | None:
        """None for what makes libjpeg warn: Pillow decides on that."""
        assert self.jpeg
        scale = jpeg.scale_for(factor)
        array = jpeg.decode_jpeg(self.data, self.jpeg, scale, grey=self.jpeg.components == 1 == self.channels)
        if array is None:
            return None
        return Picture.of_reduced(self._converted(array), self.jpeg.height, self.jpeg.width, scale, self.orientation)

    def _by_format(self, factor: int) -> Picture:
        kind = _format(self.data)
        with reading(kind):
            if kind == "TIFF":
                array = decode_tiff(io.BytesIO(self.data), stacked=self.pages == "channels", samples=self.channels)
                picture = Picture.of(array)
            elif kind == "NPY":
                array, alpha = npy.decode_npy(self.data)
                picture = Picture.of((array[:, :, :3] if alpha and self.channels != 4 else array).copy())
            else:
                picture = _by_pillow(self.data, kind, self.channels, factor)
            if not picture.array.size:
                raise Unreadable(f"damaged {kind}: an array of shape {picture.array.shape}")
            return replace(picture, array=self._converted(picture.array))

    def _converted(self, array: np.ndarray) -> np.ndarray:
        return pixels.to_bits(_to_channels(array, self.channels), self.bits)


def open_image(
    data: bytes, *, channels: int, bits: int = 8, pages: Pages = "first", full: tuple[int, int] | None = None
) -> Encoded:
    """Read the size of an image, before its pixels are decoded to [H, W, channels] of `bits` bits (see `decode`).

    `full`: (height, width) of the image that `data` is a smaller copy of. Raises `Unreadable` for bytes whose header
    shows already that they are no readable image.
    """
    if channels < 1 or bits not in (8, 16) or pages not in ("first", "channels"):
        raise ValueError(
            f"cannot decode to {channels} channels of {bits} bits, pages {pages!r}: bits are 8 or 16, pages 'first' or "
            "'channels'"
        )
    frame, orientation = None, 1
    if data[:2] == b"\xff\xd8" and channels in (1, 3) and (frame := jpeg.read_frame(data)):
        if frame.app1:
            with reading("JPEG"), Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
                orientation = _orientation(image, data)
        stored = _upright_size(frame.height, frame.width, orientation)
    else:
        header = read_header(data, pages)
        stored = (header.height, header.width)
    height, width = full or stored
    return Encoded(data, height, width, stored, channels, bits, pages, frame, orientation)


def decode(
    data: bytes, *, channels: int, bits: int = 8, pages: Pages = "first", min_side: int | None = None
) -> np.ndarray:
    """Encoded bytes -> [H, W, channels], uint8 (`bits` 8) or uint16 (`bits` 16), C-contiguous, upright.

    Grey becomes `channels` 3 by repetition, colour becomes `channels` 1 by luma (ITU-R 601). Transparency is dropped as
    Pillow's `convert("RGB")` does: the colours stored under transparent pixels show, nothing is blended; only
    `channels` 4 of an RGBA image gives its four channels as stored. 16-bit values come down to 8 bits by
    v * 255 / 65535, rounded; 8-bit values go up by 257. `pages`: "first", or "channels" to stack a TIFF's pages as
    channels; of an animation the first frame. `min_side`: see `decode_picture`.

    Raises `Unreadable` for truncated and damaged files, other channel counts, decompression bombs, and bytes that are
    no image.
    """
    image = open_image(data, channels=channels, bits=bits, pages=pages)
    return np.ascontiguousarray(decode_picture(image, min_side).array)


def decode_picture(image: Encoded, min_side: int | None = None) -> Picture:
    """Decode; reduce by an integer factor to a short side of min(min_side, the original short side) or more.

    That makes large JPEGs several times faster. None: full size. Raises `Unreadable`.
    """
    if min_side is not None and min_side < 1:
        raise ValueError(f"min_side is {min_side}: at least 1, or None for full size")
    decoded = image.reduced(pixels.reduction(*image.stored, min_side))
    height, width = decoded.array.shape[:2]
    return decoded.reduced_by(pixels.reduction(height, width, min_side)).with_full_size(image.height, image.width)


def _by_pillow(data: bytes, kind: str, channels: int, factor: int) -> Picture:
    with Image.open(io.BytesIO(data), formats=[kind]) as image:
        orientation, (width, height), scale = _orientation(image, data), image.size, 1
        if _is_deep(image):
            array = _deep(image, data, channels)
        else:
            if kind == "JPEG" and min(height, width) >= factor:
                scale = jpeg.scale_for(factor)
                image.draft("", (width // scale, height // scale))  # Pillow takes the scale that gives just this
            image.load()
            mode = "L" if _is_grey(image) else "RGBA" if image.mode == "RGBA" and channels == 4 else "RGB"
            flat = image if image.mode == mode else image.convert(mode)
            if mode == "RGB" and channels == 1:
                flat = flat.convert("L")
            array = np.array(flat)
            array = array.reshape(*array.shape[:2], -1)
    return Picture.of_reduced(array, height, width, scale, orientation)


def _deep(image: Image.Image, data: bytes, channels: int) -> np.ndarray:
    """[H, W, C] uint16. Alpha is dropped unless it makes up the `channels`."""
    if image.mode.startswith("I"):
        return np.array(image).astype(np.uint16)[:, :, None]
    import imagecodecs  # large, and only this kind of file needs it

    samples = len(_rawmode(image).partition(";")[0])  # LA, RGB, RGBA: one colour that is transparent is no alpha
    array = imagecodecs.png_decode(data)[:, :, :samples]  # Pillow has no mode for 16-bit colour
    return array[:, :, :-1] if samples in (2, 4) and samples != channels else array


def _to_channels(array: np.ndarray, channels: int) -> np.ndarray:
    have = array.shape[2]
    if have == channels:
        return array
    if have == 1 and channels == 3:
        return np.repeat(array, 3, axis=2)
    if have == 3 and channels == 1:
        return pixels.luma(array)
    raise Unreadable(f"{have} channels where {channels} are wanted")


# ------------------------------------------------------------------------------------------------------------ by Pillow
def _is_deep(image: Image.Image) -> bool:
    """16 bits a sample. Colour PNGs of 16 bits have an 8-bit mode; only the decoder's argument shows it."""
    return image.mode.startswith("I") or ";16" in _rawmode(image)


def _is_grey(image: Image.Image) -> bool:
    return image.mode in _GREY or _rawmode(image) == "LA;16B"  # which Pillow reads as RGBA


def _rawmode(image: Image.Image) -> str:
    """How the samples of a PNG lie in the file, "" for other formats."""
    return str(image.tile[0][3]) if isinstance(image, PngImageFile) and image.tile else ""


def _orientation(image: Image.Image, data: bytes) -> int:
    """The EXIF orientation 1..8. EXIF that cannot be parsed counts as none: the pixels are good without it."""
    if image.format == "PNG" and "exif" not in image.info:
        # PngImageFile.getexif would decode all pixels to find an eXIf chunk behind them.
        image.info["exif"] = _exif_of_png(data)
    with contextlib.suppress(Exception):
        return int(Image.Image.getexif(image).get(_ORIENTATION, 1))
    return 1


def _exif_of_png(data: bytes) -> bytes:
    at = 8
    while at < len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        if data[at + 4 : at + 8] == b"eXIf":
            return data[at + 8 : at + 8 + length]
        at += 12 + length  # a checksum follows the data
    return b""


def _upright_size(height: int, width: int, orientation: int) -> tuple[int, int]:
    return (width, height) if orientation in _TURNED else (height, width)


def _format(data: bytes) -> str:
    """The format by the first bytes."""
    if not data:
        raise Unreadable("0 bytes")
    for magic, name in _MAGIC.items():
        if data.startswith(magic) and (name != "WEBP" or data[8:12] == b"WEBP"):
            return name
    raise Unreadable(f"not an image of a format that is read (begins with {data[:8]!r})")

"""Encode an image for a packed copy: upright, at the pack's size.

H, W height and width of the picture as seen; C channels.
"""

import io
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import tifffile
from PIL import Image

from ..decode.image import Header, Pages, decode, read_header
from ..decode.npy import encode_npy
from ..decode.pixels import resize
from ..decode.tiff import survey_pages

Format = Literal["jpeg", "raw"]


@dataclass(frozen=True)
class Encoding:
    """How images are packed. A resumed pack has to have the same."""

    short_side: int = 256  # pixels; smaller images are not enlarged; 0: full size
    format: Format = "jpeg"  # or raw pixels
    quality: int = 90  # of JPEG, 1 to 100
    channels: int | None = None  # of every image; None: its own, with alpha
    bits: Literal[8, 16] | None = None  # likewise
    pages: Pages = "first"

    def __post_init__(self) -> None:
        if self.short_side < 0:
            raise ValueError(f"short side is {self.short_side}: pixels, or 0 for full size")
        if self.format not in get_args(Format):
            raise ValueError(f"format is {self.format!r}: one of {', '.join(get_args(Format))}")
        if not 1 <= self.quality <= 100:
            raise ValueError(f"quality is {self.quality}: 1 to 100")


@dataclass(frozen=True)
class EncodedImage:
    """`kind`: "copied" (a JPEG as it was), "jpeg", "png", "tiff" or "raw"."""

    data: bytes
    size: tuple[int, int]  # (H, W)
    full: tuple[int, int]  # (H, W) before packing
    kind: str


def encode(data: bytes, encoding: Encoding) -> EncodedImage:
    """Encode the image in `data` again. Raises `Unreadable`.

    A JPEG that is upright, sequential and small enough is copied: encoding it again would only cost quality. JPEG holds
    8 bits of one or three channels; anything else is packed without loss, as PNG where Pillow writes it (RGBA, 16-bit
    grey), otherwise as TIFF with deflate (16-bit colour, many bands).
    """
    header = read_header(data, encoding.pages)
    full = (header.height, header.width)
    alpha = encoding.channels in (None, 4) and _has_alpha(data, header)
    channels = encoding.channels or (4 if alpha else header.channels)
    bits = encoding.bits or (16 if header.bits == 16 else 8)
    size = packed_size(*full, encoding.short_side)
    # Twice the target is enough for a bicubic filter to look as from full size (Pillow's `reducing_gap`).
    min_side = 2 * min(size) if size != full else None
    image = decode(data, channels=channels, bits=bits, pages=encoding.pages, min_side=min_side)
    if image.shape[:2] != size:
        image = resize(image, *size)
    if encoding.format == "raw":
        return EncodedImage(encode_npy(image, alpha=alpha), size, full, "raw")
    if size == full and channels == header.channels and _plain_jpeg(data, header):
        return EncodedImage(data, size, full, "copied")
    packed, kind = _compress(image, alpha, encoding.quality)
    return EncodedImage(packed, size, full, kind)


def packed_size(height: int, width: int, short_side: int) -> tuple[int, int]:
    """Return (height, width) with the short side at `short_side` at most, the other in proportion."""
    short = min(height, width)
    if not 0 < short_side < short:
        return height, width
    return round(height * short_side / short), round(width * short_side / short)


def _compress(image: np.ndarray, alpha: bool, quality: int) -> tuple[bytes, str]:
    """Return the bytes of a file, and its kind."""
    out, channels, deep = io.BytesIO(), image.shape[2], image.dtype == np.uint16
    if not deep and channels in (1, 3):
        Image.fromarray(image[:, :, 0] if channels == 1 else image).save(out, "JPEG", quality=quality)
        return out.getvalue(), "jpeg"
    if (deep and channels == 1) or (not deep and alpha):
        Image.fromarray(image[:, :, 0] if channels == 1 else image).save(out, "PNG")
        return out.getvalue(), "png"
    colour = channels == 3 or alpha
    extra = ["unassalpha"] if alpha else [0] * (channels - 1 if not colour else 0)
    tifffile.imwrite(
        out,
        image,
        photometric="rgb" if colour else "minisblack",
        planarconfig="contig",
        extrasamples=extra,
        compression="zlib",
        metadata=None,
    )
    return out.getvalue(), "tiff"


def _has_alpha(data: bytes, header: Header) -> bool:
    """Whether the image has an alpha channel beside three colours."""
    if header.channels != 3 or header.format == "JPEG":
        return False
    file = io.BytesIO(data)
    if header.format == "TIFF":
        page, _ = survey_pages(file, stacked=False)
        return page.kind == "rgb" and page.alpha
    with Image.open(file) as image:
        return image.mode == "RGBA"


def _plain_jpeg(data: bytes, header: Header) -> bool:
    """Whether every decoder reads this JPEG quickly and alike: upright, sequential, grey or colour."""
    if header.format != "JPEG":
        return False
    with Image.open(io.BytesIO(data)) as image:
        upright = Image.Image.getexif(image).get(0x0112, 1) in (0, 1)
        return upright and image.mode in ("L", "RGB") and not image.info.get("progressive")

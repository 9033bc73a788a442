"""JPEG of 8 bits by simplejpeg (libjpeg-turbo), with Pillow for all other kinds.

Chosen by measurement (`benchmarks/LOG.md`): up to 1.5 times as fast as Pillow into an array, no slower than torchcodec,
OpenCV and imagecodecs, of which the first and the last cannot decode at 1/2, 1/4 or 1/8 of the size; MIT, kept up,
1 MB, needs only numpy. Its pixels are Pillow's bit for bit at every scale: which of the two read a file does not show.
"""

from dataclasses import dataclass

import numpy as np
import simplejpeg
from PIL import Image

SCALES = (8, 4, 2, 1)  # whole factors by which the DCT can shrink, and both decoders do it in the same way

_FRAMES = (0xC0, 0xC1, 0xC2)  # baseline, extended, progressive; what else there is goes to Pillow
_BARE = (0x01, *range(0xD0, 0xD9))  # markers without a length


@dataclass(frozen=True)
class Frame:
    """The facts in the markers before the pixels."""

    height: int  # as stored, before EXIF rotation
    width: int
    components: int  # 1 grey, 3 colour
    app1: bool  # there is EXIF or XMP, which may turn the picture


def read_frame(data: bytes) -> Frame | None:
    """The frame of a JPEG of 8 bits and 1 or 3 components; None for all others, damaged ones among them.

    By hand, as simplejpeg's header does not tell EXIF, for which the whole file would have to be searched, nor 12 bits.
    """
    at, end, app1 = 2, len(data) - 10, False
    size: tuple[int, int, int] | None = None  # height, width, components
    while at < end:
        if data[at] != 0xFF:
            return None
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        if marker in _BARE:
            at += 2
            continue
        if marker == 0xDA:  # pixels begin
            break
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            if marker not in _FRAMES or size or data[at + 4] != 8:
                return None
            size = (data[at + 5] << 8 | data[at + 6], data[at + 7] << 8 | data[at + 8], data[at + 9])
        app1 |= marker == 0xE1
        at += 2 + (data[at + 2] << 8 | data[at + 3])
    else:
        return None
    if not size or size[2] not in (1, 3) or not size[0] * size[1]:
        return None
    if Image.MAX_IMAGE_PIXELS is not None and size[0] * size[1] > 2 * Image.MAX_IMAGE_PIXELS:
        return None  # a decompression bomb: Pillow says so
    return Frame(*size, app1)


def scale_for(factor: int) -> int:
    """The coarsest scale of the DCT that is no coarser than 1 / `factor`."""
    return next(scale for scale in SCALES if scale <= max(1, factor))


def decode_jpeg(data: bytes, frame: Frame, scale: int, *, grey: bool) -> np.ndarray | None:
    """[ceil(H / scale), ceil(W / scale), 1 or 3] as stored; None for what makes libjpeg warn: Pillow decides on that.

    `scale` is one of `SCALES`. `grey` asks for one channel and is only for files of one component.
    """
    height, width = -(-frame.height // scale), -(-frame.width // scale)
    try:
        pixels = simplejpeg.decode_jpeg(
            data, "GRAY" if grey else "RGB", min_height=height, min_width=width, min_factor=scale
        )
    except ValueError:
        return None
    return pixels if pixels.shape[:2] == (height, width) else None

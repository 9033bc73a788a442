"""16-bit colour PNG in full depth, with Pillow's own decoder.

Pillow has no 16-bit colour mode and keeps the high byte of each sample. Its PNG decoder can be asked for the low byte
as well, by naming the other byte order; the two readings together are the sample.
"""

import io
import zlib
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
from PIL import Image


def chunks(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """(type, length) of each chunk of a PNG; the file stands at the chunk's data when it is handed out.

    Ends at IEND or where the file ends.
    """
    position = 8
    while True:
        file.seek(position)
        head = file.read(8)
        if len(head) < 8:
            return
        length, kind = int.from_bytes(head[:4], "big"), head[4:]
        yield kind, length
        if kind == b"IEND":
            return
        position += 12 + length


def _compressed(file: BinaryIO) -> bytes:
    parts = io.BytesIO()
    for kind, length in chunks(file):
        if kind != b"IDAT":
            continue
        data = file.read(length)
        if len(data) < length:
            raise EOFError(f"image data end {length - len(data)} bytes early")
        if zlib.crc32(data, zlib.crc32(kind)) != int.from_bytes(file.read(4), "big"):
            raise ValueError("a checksum of the image data is wrong")
        parts.write(data)
    return parts.getvalue()


def decode_png16(file: BinaryIO, size: tuple[int, int], rawmode: str, *, interlaced: bool) -> np.ndarray:
    """A PNG that Pillow would read with `rawmode` RGB;16B, RGBA;16B or LA;16B -> uint16 [H, W, 3, 4 or 2].

    `size` is (width, height). Raises ValueError, EOFError or OSError for damaged data.
    """
    data = _compressed(file)

    def read(mode: str, raw: str) -> np.ndarray:
        return np.asarray(Image.frombytes(mode, size, data, "zip", raw, int(interlaced))).astype(np.uint16)

    if rawmode == "LA;16B":
        grey_alpha = read("RGBA", "RGBA")  # four plain bytes: grey high, grey low, alpha high, alpha low
        return grey_alpha[:, :, 0::2] << 8 | grey_alpha[:, :, 1::2]
    mode = rawmode.partition(";")[0]
    return read(mode, rawmode) << 8 | read(mode, f"{mode};16L")

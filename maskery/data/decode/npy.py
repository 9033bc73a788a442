"""Pixels as they are, in NumPy's `.npy` format: what a raw pack holds. H height, W width, C channels.

A picture is an array [H, W, C] of uint8 or uint16 in C order. One with alpha is an array [H, W] of the fields r, g, b,
a, so that four bands and three colours with alpha are told apart. `numpy.load` reads both.
"""

import io
import tokenize
from functools import lru_cache

import numpy as np

from ...text import one_line
from .unreadable import Unreadable

MAGIC = b"\x93NUMPY"
_ALPHA = {np.dtype(kind): np.dtype([(field, kind) for field in "rgba"]) for kind in ("|u1", "<u2")}


def encode_npy(image: np.ndarray, *, alpha: bool = False) -> bytes:
    """[H, W, C], uint8 or uint16, -> the bytes of a `.npy` file. `alpha`: the last of four channels is one."""
    image = np.ascontiguousarray(image)
    out = io.BytesIO()
    np.save(out, image.view(_ALPHA[image.dtype])[:, :, 0] if alpha else image, allow_pickle=False)
    return out.getvalue()


def npy_header(start: bytes) -> tuple[tuple[int, int, int], np.dtype, bool, int]:
    """((H, W, C), uint8 or uint16, has alpha, where the pixels begin), from the first bytes of a file.

    Raises `Unreadable` for arrays of other kinds.
    """
    return _parse_header(start[: 10 + int.from_bytes(start[8:10], "little")])


@lru_cache(maxsize=64)  # images of one size have one header
def _parse_header(header: bytes) -> tuple[tuple[int, int, int], np.dtype, bool, int]:
    file = io.BytesIO(header)
    try:
        if np.lib.format.read_magic(file) != (1, 0):
            raise ValueError("its version is not 1.0")
        shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(file)
    except (ValueError, TypeError, tokenize.TokenError) as error:
        raise Unreadable(f"truncated or damaged NPY: {one_line(error)}") from error
    alpha = dtype in _ALPHA.values()
    if alpha:
        shape, dtype = (*shape, 4), np.dtype(dtype["r"])
    if dtype not in _ALPHA or len(shape) != 3 or fortran_order or not all(isinstance(s, int) and s > 0 for s in shape):
        raise Unreadable(f"NPY of {dtype}, shape {shape}: uint8 or uint16 of height, width and channels are read")
    return shape, dtype, alpha, file.tell()


def decode_npy(data: bytes) -> tuple[np.ndarray, bool]:
    """(array [H, W, C], has alpha); the array looks at `data` and cannot be written. Raises `Unreadable`."""
    shape, dtype, alpha, begin = npy_header(data)
    if len(data) - begin != int(np.prod(shape)) * dtype.itemsize:
        raise Unreadable(f"truncated NPY: {len(data) - begin} bytes of pixels for shape {shape}")
    return np.frombuffer(data, dtype, offset=begin).reshape(shape), alpha

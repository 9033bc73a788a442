"""Pixels as they are, in NumPy's `.npy` format: what a raw pack holds. H height, W width, C channels.

A picture is an array [H, W, C] of uint8 or uint16 in C order. One with alpha is an array [H, W] of the fields r, g, b,
a, so that four bands and three colours with alpha are told apart. `numpy.load` reads both.
"""

import ast
import io

import numpy as np

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
    version, field = start[6:8], 2 if start[6:7] == b"\x01" else 4
    begin = 8 + field + int.from_bytes(start[8 : 8 + field], "little")
    if version[:1] not in (b"\x01", b"\x02", b"\x03") or len(start) < begin or begin > 10_000:
        raise Unreadable("truncated or damaged NPY: its header is not complete")
    try:
        about = ast.literal_eval(start[8 + field : begin].decode("latin-1").strip())
        shape, dtype = tuple(about["shape"]), np.dtype(about["descr"])
        c_order = not about["fortran_order"]
    except (ValueError, SyntaxError, KeyError, TypeError) as error:
        raise Unreadable("damaged NPY: its header cannot be read") from error
    alpha = dtype in _ALPHA.values()
    if alpha:
        shape, dtype = (*shape, 4), np.dtype(dtype["r"])
    if dtype not in _ALPHA or len(shape) != 3 or not c_order or not all(isinstance(s, int) and s > 0 for s in shape):
        raise Unreadable(f"NPY of {dtype}, shape {shape}: uint8 or uint16 of height, width and channels are read")
    return shape, dtype, alpha, begin


def decode_npy(data: bytes) -> tuple[np.ndarray, bool]:
    """(array [H, W, C], has alpha); the array looks at `data` and cannot be written. Raises `Unreadable`."""
    shape, dtype, alpha, begin = npy_header(data)
    if len(data) - begin != int(np.prod(shape)) * dtype.itemsize:
        raise Unreadable(f"truncated NPY: {len(data) - begin} bytes of pixels for shape {shape}")
    return np.frombuffer(data, dtype, offset=begin).reshape(shape), alpha

"""Shapes of COCO's json - polygons, run lengths - as masks and back, by faster-coco-eval (extra: detect).

H x W pixels
"""

from typing import Any

import numpy as np

from ...text import needs_extra

MISSING = needs_extra("reading objects", "faster-coco-eval", "detect")
_LEAST_NUMBERS = 6  # of a polygon: three points


def mask_api() -> Any:
    """COCO's mask functions. ValueError naming the extra where they are not installed."""
    try:
        from faster_coco_eval.core import mask
    except ImportError:
        raise ValueError(MISSING) from None
    return mask


def usable_shape(shape: Any, size: tuple[int, int]) -> Any:
    """The shape without degenerate polygons; None when nothing is left or the run lengths have another size."""
    if isinstance(shape, dict):
        counts = shape.get("counts")
        fits = isinstance(counts, str | list) and list(shape.get("size") or ()) == list(size)
        if fits and isinstance(counts, list):
            fits = all(type(n) is int and n >= 0 for n in counts) and sum(counts) == size[0] * size[1]
        return {"counts": counts, "size": list(size)} if fits else None
    if not isinstance(shape, list):
        return None
    return [
        p for p in shape if isinstance(p, list) and len(p) >= _LEAST_NUMBERS and len(p) % 2 == 0 and _finite(p)
    ] or None


def _finite(numbers: list[Any]) -> bool:
    return all(isinstance(n, int | float) and n == n and abs(n) < 1e7 for n in numbers)


def run_lengths(shape: Any, size: tuple[int, int]) -> dict[str, Any]:
    """Compress a shape to run lengths."""
    api = mask_api()
    if isinstance(shape, list):
        return api.merge(api.frPyObjects(shape, *size))
    return api.frPyObjects(shape, *size) if isinstance(shape["counts"], list) else shape


def shape_mask(shape: Any, size: tuple[int, int]) -> np.ndarray:
    """Draw a shape as a mask [H, W] uint8, 0 and 1."""
    return mask_api().decode(run_lengths(shape, size))


def encode_mask(mask: np.ndarray) -> dict[str, Any]:
    """Compress a mask [H, W] to run lengths that json takes."""
    rle = mask_api().encode(np.asfortranarray(mask.astype(np.uint8)))
    counts = rle["counts"].decode() if isinstance(rle["counts"], bytes) else rle["counts"]
    return {"size": list(rle["size"]), "counts": counts}

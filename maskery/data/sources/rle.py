"""Shapes of COCO's json - polygons, run lengths - as masks and back, by faster-coco-eval (extra: maskery[detect]).

H x W pixels
"""

from typing import Any

import numpy as np

MISSING = "objects need the library faster-coco-eval: pip install 'maskery[detect]'"
_FEWEST = 6  # numbers of a polygon: three points


def mask_api() -> Any:
    """COCO's mask functions. ValueError naming the extra where they are not installed."""
    try:
        from faster_coco_eval.core import mask
    except ImportError:
        raise ValueError(MISSING) from None
    return mask


def drawable(shape: Any, size: tuple[int, int]) -> Any:
    """The shape without what makes no polygon, None when nothing is left or run lengths are those of another size."""
    if isinstance(shape, dict):
        counts = shape.get("counts")
        right = isinstance(counts, str | list) and list(shape.get("size") or ()) == list(size)
        if right and isinstance(counts, list):
            right = all(type(n) is int and n >= 0 for n in counts) and sum(counts) == size[0] * size[1]
        return {"counts": counts, "size": list(size)} if right else None
    if not isinstance(shape, list):
        return None
    return [p for p in shape if isinstance(p, list) and len(p) >= _FEWEST and len(p) % 2 == 0 and _finite(p)] or None


def _finite(numbers: list[Any]) -> bool:
    return all(isinstance(n, int | float) and n == n and abs(n) < 1e7 for n in numbers)


def runs(shape: Any, size: tuple[int, int]) -> dict[str, Any]:
    """A shape as compressed run lengths."""
    api = mask_api()
    if isinstance(shape, list):
        return api.merge(api.frPyObjects(shape, *size))
    return api.frPyObjects(shape, *size) if isinstance(shape["counts"], list) else shape


def drawn(shape: Any, size: tuple[int, int]) -> np.ndarray:
    """A shape as a mask [H, W] uint8, 0 and 1."""
    return mask_api().decode(runs(shape, size))


def encoded(mask: np.ndarray) -> dict[str, Any]:
    """A mask [H, W] as compressed run lengths that json takes."""
    rle = mask_api().encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(rle["size"]), "counts": _text(rle["counts"])}


def _text(counts: str | bytes) -> str:
    return counts.decode() if isinstance(counts, bytes) else counts

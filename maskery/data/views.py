"""Batches of views: resized on the CPU, or regions that a GPU resizes.

b views of h x w pixels, C channels
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from .crops import ViewBox
from .decode.picture import Box
from .resample import Regions, ViewFormat, resized

CPU = torch.device("cpu")


class ViewStack:
    """Collects views in one tensor [count, C, h, w], each resized when it is added."""

    def __init__(self, form: ViewFormat, count: int, fill: Tensor | None = None):
        """`fill` [C, 1, 1]: the colour of what images do not fill."""
        self._views = _memory(count * form.nbytes).view(form.dtype).view(count, form.channels, *form.size)
        if fill is not None:
            self._views.copy_(fill)
        self._used = 0

    def add(self, region: np.ndarray, box: Box, view: ViewBox) -> None:
        h, w = view.size
        self._views[self._used, :, :h, :w] = resized(region, box, view.flip, view.size)
        self._used += 1

    def done(self) -> Tensor:
        return self._views[: self._used]


class RegionBuffer:
    """Collects the pixels that views are resized from, one region behind the other."""

    def __init__(self, form: ViewFormat, count: int, given: Tensor | None = None):
        """`given`: memory that the receiver shares; only what does not fit into it is sent."""
        self._format, self._given = form, given
        self._buffer = _memory(count * likely_bytes(form)) if given is None else given
        self._bytes = self._buffer.numpy()
        self._used, self._rows = 0, []

    def add(self, region: np.ndarray, box: Box, view: ViewBox) -> None:
        end = self._used + region.nbytes
        if end > self._bytes.size:
            larger = _memory(2 * end)
            larger[: self._used] = self._buffer[: self._used]
            self._buffer, self._bytes = larger, larger.numpy()
        self._bytes[self._used : end].view(region.dtype).reshape(region.shape)[...] = region
        self._rows.append((self._used, *region.shape[:2], *box, view.flip))
        self._used = end

    def done(self) -> Regions:
        table = torch.tensor(self._rows, dtype=torch.float64)
        # Not even an empty view of the given memory: sending one would move all of it.
        pixels = torch.empty(0, dtype=torch.uint8) if self._buffer is self._given else self._buffer[: self._used]
        return Regions(pixels, table, self._format)


def likely_bytes(form: ViewFormat) -> int:
    """Estimate the bytes of a region: three times its view's; photographs usually need twice, at most about four."""
    return 3 * form.nbytes


def _memory(size: int) -> Tensor:
    """Allocate bytes; in a loader process shared memory, because others would be copied when they are sent."""
    if get_worker_info() is not None:
        return torch.empty(0, dtype=torch.uint8).set_(torch.UntypedStorage._new_shared(size))
    return torch.empty(size, dtype=torch.uint8)


def join_views(parts: Sequence[Tensor] | Sequence[Regions]) -> Tensor | list[Regions]:
    """Join the pieces of a batch into what `to_float` takes."""
    regions = [part for part in parts if isinstance(part, Regions)]
    tensors = [part for part in parts if isinstance(part, Tensor)]
    return regions or (tensors[0] if len(tensors) == 1 else torch.cat(tensors))


def to_float(images: Tensor | Regions | Sequence[Regions], device: torch.device) -> Tensor:
    """Convert the loader's views, uint8, uint16 or regions to be resized, to float32 in [0, 1] on the device."""
    if isinstance(images, Tensor):
        top = 255.0 if images.dtype == torch.uint8 else 65535.0
        return images.to(device, non_blocking=True).float().div_(top)
    if isinstance(images, Regions):
        return images.resized(device)
    parts = [part.resized(device) for part in images]
    return parts[0] if len(parts) == 1 else torch.cat(parts)

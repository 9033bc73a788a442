"""Crops resized: one at a time on the CPU, whole batches as two matrix products on a device.

b views of h x w pixels, C channels; H, W the largest region of those that are resized together. Both ways compute what
Pillow's `resize((w, h), BICUBIC, box=box)` does on the region: antialiased bicubic, a = -0.5, columns first; 8 bits are
rounded and clamped to whole levels after each direction. So a run sees the same pixels on whichever device. (Pillow 13
takes the rows first where that is less work, mostly for tall images: then one pixel in five differs by one level.)
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .decode.picture import Box
from .decode.pixels import resize

CHUNK = 64  # regions that a device resizes at a time: bounds what padding and positions take, about 0.5 GB at 224


def resized(region: np.ndarray, box: Box, flip: bool, size: tuple[int, int]) -> Tensor:
    """The box of a region [H, W, C] (uint8 or uint16) at `size`: [C, h, w] of the same type, on the CPU.

    torch is four times as fast as Pillow here, but only takes whole regions.
    """
    height, width = region.shape[:2]
    if (height, width) == size and box == (0, 0, width, height):
        view = _tensor(region).permute(2, 0, 1)
    elif box == (0, 0, width, height):
        pixels = _tensor(region)[None].permute(0, 3, 1, 2)  # [1, C, H, W], channels last: faster
        if pixels.dtype == torch.uint8:
            view = F.interpolate(pixels, size, mode="bicubic", antialias=True)[0]
        else:
            exact = F.interpolate(pixels.float(), size, mode="bicubic", antialias=True)[0]
            view = exact.round_().clamp_(0, 65535).to(torch.uint16)
    else:
        view = torch.from_numpy(resize(region, *size, box)).permute(2, 0, 1)
    return view.flip(-1) if flip else view


def _tensor(array: np.ndarray) -> Tensor:
    """Copied only if it has to be; mirrored by its EXIF, an image of one pixel is contiguous with negative strides."""
    plain = array.flags.c_contiguous and array.flags.writeable and min(array.strides) >= 0
    return torch.from_numpy(array if plain else array.copy())


@dataclass(frozen=True)
class Regions:
    """b crops on their way to a device that resizes them: pixels of many sizes, one behind the other.

    On 500 x 375 photographs that is 300 KB a crop; padded to the largest they would be 750 KB.
    """

    pixels: Tensor  # [nbytes] uint8: of each region [H_i, W_i, C], uint8, or uint16 in the machine's order of bytes
    table: Tensor  # [b, 8] float64: first byte, H_i, W_i, left, top, right, bottom, flip
    size: tuple[int, int]
    channels: int
    bits: int

    def __len__(self) -> int:
        return len(self.table)

    @property
    def nbytes(self) -> int:
        first, height, width = self.table[-1, :3].long().tolist() if len(self) else (0, 0, 0)
        return first + height * width * self.channels * self.bits // 8

    def pin_memory(self, device: str | None = None) -> "Regions":
        return replace(self, pixels=self.pixels.pin_memory())

    def resized(self, device: torch.device, precision: torch.dtype | None = None) -> Tensor:
        """[b, C, h, w] float32 in [0, 1] on the device.

        `precision` of the products; None: float16 on a GPU for 8 bits, which holds all 256 levels exactly (by count,
        float32 would cost about a twentieth of a ViT-B's step), float32 otherwise.
        """
        if precision is None:
            precision = torch.float16 if device.type == "cuda" and self.bits == 8 else torch.float32
        pixels = self.pixels.to(device, non_blocking=True)
        if self.bits == 16:
            pixels = pixels.view(torch.int16)
        parts = [self._products(pixels, rows, device, precision) for rows in self.table.split(CHUNK)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _products(self, pixels: Tensor, rows: Tensor, device: torch.device, precision: torch.dtype) -> Tensor:
        height, width = (-(-int(rows[:, i].max()) // 32) * 32 for i in (1, 2))  # few shapes, and fit for tensor cores
        # 32-bit positions need their own start: a batch may be larger than 2 GB.
        first, last = int(rows[0, 0]), int(rows[-1, 0] + rows[-1, 1] * rows[-1, 2] * self.channels * self.bits // 8)
        pixels = pixels[first * 8 // self.bits : last * 8 // self.bits]
        table = rows.clone()
        table[:, 0] = (table[:, 0] - first) * 8 // self.bits
        table = (table.pin_memory() if device.type == "cuda" else table).to(device, non_blocking=True)
        begin, tall, wide = table[:, :3].int().unbind(1)
        left, top, right, bottom, flip = table[:, 3:].float().unbind(1)

        y = torch.arange(height, device=device, dtype=torch.int32)[:, None, None]
        c = torch.arange(self.channels, device=device, dtype=torch.int32)[:, None]
        x = torch.arange(width, device=device, dtype=torch.int32)
        at = begin[:, None, None, None] + (y * wide[:, None, None, None] + x) * self.channels + c  # [b, H, C, W]
        # What lies beyond a region has no weight: any pixel will do.
        values = pixels.index_select(0, at.clamp_(max=len(pixels) - 1).flatten())
        if self.bits == 16:
            values = values.int() & 0xFFFF
        values = values.view(len(rows), height * self.channels, width)

        h, w = self.size
        columns = weights(left, right, wide, w, width, flip)  # [b, w, W]
        lines = weights(top, bottom, tall, h, height)  # [b, h, H]
        levels = 255 if self.bits == 8 else 65535
        values = _product(values, columns.mT, precision)
        if self.bits == 8:  # as Pillow does; 16 bits it takes as floats
            values = values.round_().clamp_(0, levels)
        values = _product(lines, values.view(len(rows), height, self.channels * w), precision)
        values = values.round_().clamp_(0, levels).div_(levels)
        return values.view(len(rows), h, self.channels, w).transpose(1, 2).contiguous()  # [b, C, h, w]


def _product(a: Tensor, b: Tensor, precision: torch.dtype) -> Tensor:
    """[b, n, m] of float32, from factors rounded to `precision`; tensor cores add up in float32 as well."""
    a, b = a.to(precision), b.to(precision)
    if precision == torch.float32 or a.device.type == "cpu":
        return torch.bmm(a.float(), b.float())
    return torch.bmm(a, b, out_dtype=torch.float32)


def weights(first: Tensor, last: Tensor, length: Tensor, n: int, most: int, flip: Tensor | None = None) -> Tensor:
    """How much of each of `most` pixels is in each of n, [b, n, most]: rows sum to one, as in Pillow's Resample.c.

    Per sample [b]: the box's edges `first` and `last` in pixels, the `length` of the line they lie on, and whether to
    mirror.
    """
    i = torch.arange(n, device=first.device, dtype=torch.float32).expand(len(first), n)
    if flip is not None:
        i = torch.where(flip[:, None] > 0, n - 1 - i, i)
    scale = ((last - first) / n)[:, None]
    centre = first[:, None] + (i + 0.5) * scale  # [b, n]
    k = torch.arange(most, device=first.device, dtype=torch.float32)
    x = ((k + 0.5 - centre[:, :, None]) / scale.clamp(min=1.0)[:, :, None]).abs_()
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    weight = torch.where(x < 1, near, far).mul_((x < 2) & (k < length[:, None, None]))
    return weight / weight.sum(-1, keepdim=True)


class Stack:
    """Collects crops as views of one tensor, resizing each."""

    def __init__(self, count: int, size: tuple[int, int], channels: int, bits: int, share: bool):
        item = bits // 8
        self._views = room(count * channels * size[0] * size[1] * item, share)
        self._views = self._views.view(torch.uint8 if bits == 8 else torch.uint16).view(count, channels, *size)
        self._size, self._used = size, 0

    def add(self, region: np.ndarray, box: Box, flip: bool) -> None:
        self._views[self._used] = resized(region, box, flip, self._size)
        self._used += 1

    def done(self) -> Tensor:
        return self._views[: self._used]


class Packing:
    """Collects crops as they are, one behind the other in one buffer."""

    def __init__(
        self,
        count: int,
        size: tuple[int, int],
        channels: int,
        bits: int,
        share: bool,
        slot: Tensor | None = None,
    ):
        """`slot`: memory that the receiver has as well; only what does not fit into it is sent."""
        self._shape, self._share = (size, channels, bits), share
        self._slot = slot
        self._buffer = room(count * likely_bytes(size, channels, bits), share) if slot is None else slot
        self._bytes = self._buffer.numpy()
        self._used, self._rows = 0, []

    def add(self, region: np.ndarray, box: Box, flip: bool) -> None:
        end = self._used + region.nbytes
        if end > self._bytes.size:
            larger = room(2 * end, self._share)
            larger[: self._used] = self._buffer[: self._used]
            self._buffer, self._bytes = larger, larger.numpy()
        self._bytes[self._used : end].view(region.dtype).reshape(region.shape)[...] = region
        self._rows.append((self._used, *region.shape[:2], *box, flip))
        self._used = end

    def done(self) -> Regions:
        table = torch.tensor(self._rows, dtype=torch.float64)
        # Not even an empty view of the slot: sending one would move all of the slot's memory.
        pixels = torch.empty(0, dtype=torch.uint8) if self._buffer is self._slot else self._buffer[: self._used]
        return Regions(pixels, table, *self._shape)


def likely_bytes(size: tuple[int, int], channels: int, bits: int) -> int:
    """Of a crop before it is resized: three times its view's, of photographs usually twice, never above four or so."""
    return 3 * size[0] * size[1] * channels * bits // 8


def room(size: int, share: bool) -> Tensor:
    """So many bytes. `share`: what a loader process fills would be copied when it is sent, unless it lies there."""
    if share:
        return torch.empty(0, dtype=torch.uint8).set_(torch.UntypedStorage._new_shared(size))
    return torch.empty(size, dtype=torch.uint8)


def join(parts: Sequence[Tensor] | Sequence[Regions]) -> Tensor | list[Regions]:
    """Pieces of a batch as what `views.to_float` takes."""
    regions = [part for part in parts if isinstance(part, Regions)]
    tensors = [part for part in parts if isinstance(part, Tensor)]
    return regions or (tensors[0] if len(tensors) == 1 else torch.cat(tensors))

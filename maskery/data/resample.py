"""Resize crops: one at a time on the CPU, whole batches as two matrix products on a GPU.

b views of h x w pixels, C channels; H, W the largest region of those that are resized together. Both compute what
Pillow's `resize((w, h), BICUBIC, box=box)` computes on the region: antialiased bicubic, a = -0.5, columns first; 8 bits
are rounded and clamped to whole levels after each direction. So a run sees the same pixels on every device. (Pillow 13
takes the rows first where that is less work, mostly for tall images: then one pixel in five differs by one level.)
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .decode.picture import Box
from .decode.pixels import resize

CHUNK = 64  # regions that are resized together: bounds the memory for padding and positions, about 0.5 GB at 224


@dataclass(frozen=True)
class ViewFormat:
    """The shape and type of a view."""

    size: tuple[int, int]  # (h, w)
    channels: int
    bits: int  # 8 or 16

    @property
    def dtype(self) -> torch.dtype:
        return torch.uint8 if self.bits == 8 else torch.uint16

    @property
    def levels(self) -> int:
        """The highest value of a channel."""
        return (1 << self.bits) - 1

    @property
    def pixel_bytes(self) -> int:
        return self.channels * self.bits // 8

    @property
    def nbytes(self) -> int:
        return self.size[0] * self.size[1] * self.pixel_bytes


def resized(region: np.ndarray, box: Box, flip: bool, size: tuple[int, int]) -> Tensor:
    """Resize the box of a region [H, W, C] (uint8 or uint16) on the CPU: [C, h, w] of the same type.

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
    """Copy the array only if torch needs it: flipped by EXIF, one pixel is contiguous with negative strides."""
    plain = array.flags.c_contiguous and array.flags.writeable and min(array.strides) >= 0
    return torch.from_numpy(array if plain else array.copy())


@dataclass(frozen=True)
class Regions:
    """b crops on their way to a GPU that resizes them: pixels of regions of any sizes, one behind the other.

    On 500 x 375 photographs that is 300 KB a crop; padded to the largest they would be 750 KB.
    """

    pixels: Tensor  # [nbytes] uint8: of each region [H_i, W_i, C], uint8, or uint16 in the machine's byte order
    table: Tensor  # [b, 8] float64: first byte, H_i, W_i, left, top, right, bottom, flip
    format: ViewFormat  # of the views

    def __len__(self) -> int:
        return len(self.table)

    @property
    def nbytes(self) -> int:
        first, height, width = self.table[-1, :3].long().tolist() if len(self) else (0, 0, 0)
        return first + height * width * self.format.pixel_bytes

    def pin_memory(self, device: str | None = None) -> "Regions":
        return replace(self, pixels=self.pixels.pin_memory())

    def resized(self, device: torch.device, precision: torch.dtype | None = None) -> Tensor:
        """Resize on the device: [b, C, h, w] float32 in [0, 1].

        `precision` of the products; None: float16 on a GPU for 8 bits, which holds all 256 levels exactly (by count,
        float32 would cost about a twentieth of a ViT-B's step), float32 otherwise.
        """
        if precision is None:
            precision = torch.float16 if device.type == "cuda" and self.format.bits == 8 else torch.float32
        pixels = self.pixels.to(device, non_blocking=True)
        if self.format.bits == 16:
            pixels = pixels.view(torch.int16)
        parts = [self._resized_chunk(pixels, rows, precision) for rows in self.table.split(CHUNK)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _resized_chunk(self, pixels: Tensor, rows: Tensor, precision: torch.dtype) -> Tensor:
        """[chunk, C, h, w] of the regions in these rows of the table."""
        (h, w), C, levels = self.format.size, self.format.channels, self.format.levels
        height, width = (-(-int(rows[:, i].max()) // 32) * 32 for i in (1, 2))  # few shapes, and fit for tensor cores
        values, table = self._padded(pixels, rows, height, width)
        tall, wide = table[:, 1:3].int().unbind(1)
        left, top, right, bottom, flip = table[:, 3:].float().unbind(1)
        columns = weights(left, right, wide, w, width, flip)  # [chunk, w, W]
        lines = weights(top, bottom, tall, h, height)  # [chunk, h, H]
        values = _product(values, columns.mT, precision)
        if self.format.bits == 8:  # as Pillow does; 16 bits it takes as floats
            values = values.round_().clamp_(0, levels)
        values = _product(lines, values.view(len(rows), height, C * w), precision)
        values = values.round_().clamp_(0, levels).div_(levels)
        return values.view(len(rows), h, C, w).transpose(1, 2).contiguous()  # [chunk, C, h, w]

    def _padded(self, pixels: Tensor, rows: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Return the regions padded to one size, [chunk, H * C, W], and their rows of the table on the device."""
        device, C, item = pixels.device, self.format.channels, self.format.bits // 8
        # 32-bit positions need their own start: a batch may be larger than 2 GB.
        first, last = int(rows[0, 0]), int(rows[-1, 0] + rows[-1, 1] * rows[-1, 2] * self.format.pixel_bytes)
        pixels = pixels[first // item : last // item]
        table = rows.clone()
        table[:, 0] = (table[:, 0] - first) // item
        table = (table.pin_memory() if device.type == "cuda" else table).to(device, non_blocking=True)
        begin, _, wide = table[:, :3].int().unbind(1)
        y = torch.arange(height, device=device, dtype=torch.int32)[:, None, None]
        c = torch.arange(C, device=device, dtype=torch.int32)[:, None]
        x = torch.arange(width, device=device, dtype=torch.int32)
        at = begin[:, None, None, None] + (y * wide[:, None, None, None] + x) * C + c  # [chunk, H, C, W]
        # Pixels beyond a region have no weight: any value will do.
        values = pixels.index_select(0, at.clamp_(max=len(pixels) - 1).flatten())
        if self.format.bits == 16:
            values = values.int() & 0xFFFF
        return values.view(len(rows), height * C, width), table


def _product(a: Tensor, b: Tensor, precision: torch.dtype) -> Tensor:
    """Multiply factors rounded to `precision`: [b, n, m] float32; tensor cores accumulate in float32 as well."""
    a, b = a.to(precision), b.to(precision)
    if precision == torch.float32 or a.device.type == "cpu":
        return torch.bmm(a.float(), b.float())
    return torch.bmm(a, b, out_dtype=torch.float32)


def weights(first: Tensor, last: Tensor, length: Tensor, n: int, most: int, flip: Tensor | None = None) -> Tensor:
    """Weights of each of `most` input pixels in each of n output pixels, [b, n, most], as in Pillow's Resample.c.

    Rows sum to one. For each sample [b]: the box's edges `first` and `last` in pixels, the `length` of the line they
    lie on, and whether to flip it.
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

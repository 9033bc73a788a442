"""Geometry: which part of an image a view shows. Drawn from given random numbers, so that a draw can be repeated.

A box is (left, top, right, bottom) in pixels of its image. C channels, H x W pixels of an image, h x w of a view.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Box = tuple[float, float, float, float]
TRIES = 10  # as torchvision's RandomResizedCrop: so many draws until a crop fits, then the largest central one
UNIFORMS = 2 * TRIES + 4  # random numbers one sample needs (a multiple of 4)


@dataclass(frozen=True)
class Crop:
    """A random crop, resized to the size of the view, and a flip: MAE's only augmentation.

    Two views share their geometry when they hold the same `Crop` object.
    """

    scale: tuple[float, float] = (0.2, 1.0)  # share of the image's area that is kept (MAE's reference code)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)  # distortion of the view's aspect ratio, width to height
    flip: float = 0.5  # probability of a horizontal mirror image

    def __post_init__(self) -> None:
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"crop scale is {self.scale}: two shares of the area, 0 < smallest <= largest <= 1")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError(f"crop ratio is {self.ratio}: two aspect ratios, 0 < smallest <= largest")
        if not 0 <= self.flip <= 1:
            raise ValueError(f"crop flip is {self.flip}: a probability between 0 and 1")

    def draw(self, height: int, width: int, size: tuple[int, int], u: np.ndarray) -> tuple[Box, bool]:
        """Box and flip for an image of height x width from `UNIFORMS` numbers `u` in [0, 1).

        The distribution is that of torchvision's RandomResizedCrop; for a view that is not square the ratio is
        relative to the view's own, so that (1, 1) never distorts.
        """
        view = size[1] / size[0]
        areas = height * width * (self.scale[0] + u[:TRIES] * (self.scale[1] - self.scale[0]))
        low, high = math.log(self.ratio[0]), math.log(self.ratio[1])
        ratios = np.exp(low + u[TRIES : 2 * TRIES] * (high - low)) * view
        widths, heights = np.rint(np.sqrt(areas * ratios)), np.rint(np.sqrt(areas / ratios))
        fits = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
        flip = bool(u[2 * TRIES + 2] < self.flip)
        if not fits.any():
            return centre(height, width, size, self.ratio), flip
        first = int(fits.argmax())
        w, h = int(widths[first]), int(heights[first])
        top, left = int(u[2 * TRIES] * (height - h + 1)), int(u[2 * TRIES + 1] * (width - w + 1))
        return (left, top, left + w, top + h), flip


def centre(height: int, width: int, size: tuple[int, int], ratio: tuple[float, float] = (1.0, 1.0)) -> Box:
    """The largest central box whose aspect ratio is the view's, or at most `ratio` away from it."""
    view = size[1] / size[0]
    aspect = min(max(width / height, view * ratio[0]), view * ratio[1])
    w, h = min(float(width), height * aspect), min(float(height), width / aspect)
    left, top = (width - w) / 2, (height - h) / 2
    return (left, top, left + w, top + h)


def cut(image: np.ndarray, box: Box, flip: bool, size: tuple[int, int]) -> Tensor:
    """The box of an image [H, W, C] (uint8 or uint16), resized to `size` (bicubic, antialiased): [C, h, w], same type.

    Only pixels inside the box are looked at, as when one crops first and resizes then.
    """
    left, top, right, bottom = (round(edge) for edge in box)
    right, bottom = max(right, left + 1), max(bottom, top + 1)
    part = torch.from_numpy(image[top:bottom, left:right]).permute(2, 0, 1)[None]  # [1, C, H, W]
    if part.shape[2:] != size:
        deep = part.dtype != torch.uint8
        part = part.float() if deep else part
        part = F.interpolate(part, size, mode="bicubic", antialias=True)
        part = part.round().clamp(0, 65535).to(torch.uint16) if deep else part
    view = part[0]
    return view.flip(-1) if flip else view


def to_float(images: Tensor, device: torch.device) -> Tensor:
    """uint8 or uint16 images as they come from the loader -> float32 in [0, 1] on the device."""
    top = 255.0 if images.dtype == torch.uint8 else 65535.0
    return images.to(device, non_blocking=True).float().div_(top)

"""Attention as a heat map over the image; images with their hidden patches grey.

B images, C channels, N patches
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..nn.positions import Grid
from .reconstruction import GREY


def overlay(images: Tensor, attention: Tensor, grid: Grid) -> Tensor:
    """Overlay attention [B, N] on images [B, C, H, W] in [0, 1]: red where it is highest, blue where it is 0.

    Each row is scaled to its own highest value: even attention is red everywhere. In images without
    three channels the heat spans the image's own range, from dark to bright.
    """
    heat = attention.float() / attention.float().amax(1, keepdim=True).clamp_min(1e-30)
    heat = enlarge(heat, images, grid)  # [B, 1, H, W]
    if images.shape[1] == 3:
        colour = torch.cat([heat, 0 * heat, 1 - heat], dim=1)
    else:
        low, high = images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)
        colour = low + (high - low) * heat
    return (0.5 * images + 0.5 * colour).clamp(0, 1)


def masked(images: Tensor, hidden: Tensor, grid: Grid) -> Tensor:
    """Images [B, C, H, W] with hidden patches grey; `hidden` [B, N], 1 = hidden."""
    hidden = enlarge(hidden, images, grid)
    return (images * (1 - hidden) + GREY * hidden).clamp(0, 1)


def enlarge(values: Tensor, images: Tensor, grid: Grid) -> Tensor:
    """Repeat values of patches [B, N] over their pixels: [B, 1, H, W]."""
    return F.interpolate(values.unflatten(1, grid).unsqueeze(1), images.shape[2:], mode="nearest-exact")

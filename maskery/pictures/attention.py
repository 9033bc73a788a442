"""Where a network looks, laid over the image; what a mask hides.

B images, C channels, N patches
"""

import torch
from torch import Tensor

from ..nn.positions import Grid
from .reconstruction import GREY


def overlay(images: Tensor, attention: Tensor, grid: Grid) -> Tensor:
    """Images [B, C, H, W] in [0, 1] with attention [B, N] over them: red where it is highest, blue where there is none.

    Each row is scaled to its own highest value: even attention is red everywhere. Images that are not of three
    channels are shown stretched to their own range, so their heat is in that range: bright and dark.
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
    """Images [B, C, H, W] with their hidden patches grey; `hidden` [B, N], 1 = hidden."""
    hidden = enlarge(hidden, images, grid)
    return (images * (1 - hidden) + GREY * hidden).clamp(0, 1)


def enlarge(values: Tensor, images: Tensor, grid: Grid) -> Tensor:
    """One value a patch [B, N] -> one a pixel [B, 1, H, W]."""
    (rows, columns), (height, width) = grid, images.shape[2:]
    values = values.unflatten(1, grid).unsqueeze(1)
    return values.repeat_interleave(height // rows, 2).repeat_interleave(width // columns, 3)

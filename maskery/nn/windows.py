"""Attention within windows (ViTDet, Li et al. 2022, section 3): what makes large images affordable.

B batch, N = h x w patches, D width, s side of a window, n windows of an image, d = D / heads

Patches attend to those of their own window; there is no class token. A few blocks, evenly spread and the last of them
always, attend to all patches.
Stated: windows of 14 x 14 patches, four global blocks. Ours: no attention to padding at the edge (theirs: to zeros), no
relative positions.
"""

import math
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from .attention import masked_attention
from .positions import Grid
from .vit import Mix, ViT


def global_blocks(depth: int, count: int) -> tuple[int, ...]:
    """Blocks that attend to all patches, the first is 0: the last of each of `count` parts."""
    return tuple(math.ceil(depth * (i + 1) / count) - 1 for i in range(count))


def windowed(f: ViT, x: Tensor, side: int, everywhere: tuple[int, ...], paths: Tensor | None = None) -> Tensor:
    """Normalised images [B, C, H, W] -> patch tokens before the last norm, [B, N, D]; `paths` as `drop_paths`."""
    tokens, mix = f.embed(x)[:, 1:], window_attention(f.grid(x), side, x.device)
    for i, block in enumerate(f.blocks):
        path = None if paths is None else paths[:, i]
        tokens = block(tokens, paths=path) if i in everywhere else block(tokens, mix, paths=path)
    return tokens


def window_attention(grid: Grid, side: int, device: torch.device) -> Mix:
    """Attention of every patch to those of its own window."""
    (h, w), s = grid, side
    rows, columns = math.ceil(h / s), math.ceil(w / s)
    padding = (0, 0, 0, columns * s - w, 0, rows * s - h)

    def partition(t: Tensor) -> Tensor:
        """[B, heads, N, d] -> [B n, heads, s s, d]."""
        t = F.pad(t.unflatten(2, (h, w)), padding).unflatten(3, (columns, s)).unflatten(2, (rows, s))
        return t.permute(0, 2, 4, 1, 3, 5, 6).flatten(4, 5).flatten(0, 2)

    real = partition(torch.ones(1, 1, h * w, 1, device=device)).bool().mT if any(padding) else None  # [n, 1, 1, s s]

    def mix(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        attend = F.scaled_dot_product_attention
        if real is not None:
            attend = partial(masked_attention, mask=real.repeat(len(q), 1, 1, 1))
        x = attend(partition(q), partition(k), partition(v))
        x = x.unflatten(0, (len(q), rows, columns)).unflatten(4, (s, s)).permute(0, 3, 1, 4, 2, 5, 6)
        return x.flatten(4, 5).flatten(2, 3)[:, :, :h, :w].flatten(2, 3)  # [B, heads, N, d]

    return mix

"""Attention within windows (ViTDet, Li et al. 2022, section 3): what makes large images affordable.

B batch, N = h x w patches, D width, s side of a window, n windows of an image

Only patches are looked at, no class token; a few blocks, evenly spread, of which the last is one, look everywhere.
Stated: windows of 14 x 14 patches, four global blocks. Ours: what a window at the edge lacks is not looked at (theirs
are zeros that are), and there are no relative positions.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .positions import Grid
from .vit import Mix, ViT


def global_blocks(depth: int, count: int) -> tuple[int, ...]:
    """Which blocks look everywhere, the first is 0: the last of each of `count` parts."""
    return tuple(math.ceil(depth * (i + 1) / count) - 1 for i in range(count))


def windowed(f: ViT, x: Tensor, side: int, everywhere: tuple[int, ...], paths: Tensor | None = None) -> Tensor:
    """Normalised images [B, C, H, W] -> patch tokens before the last norm, [B, N, D]; `paths` as `drop_paths`."""
    tokens, mix = f.embed(x)[:, 1:], within(f.grid(x), side, x.device)
    for i, block in enumerate(f.blocks):
        path = None if paths is None else paths[:, i]
        tokens = block(tokens, paths=path) if i in everywhere else block(tokens, mix, paths=path)
    return tokens


def within(grid: Grid, side: int, device: torch.device) -> Mix:
    """Attention of every patch to those of its own window."""
    (h, w), s = grid, side
    rows, columns = math.ceil(h / s), math.ceil(w / s)
    down, right = rows * s - h, columns * s - w

    def cut(t: Tensor) -> Tensor:
        """[B, heads, N, d] -> [B, n, heads, s * s, d]."""
        t = F.pad(t.unflatten(2, (h, w)), (0, 0, 0, right, 0, down))
        return (
            t.unflatten(3, (columns, s))
            .unflatten(2, (rows, s))
            .permute(0, 2, 4, 1, 3, 5, 6)
            .flatten(4, 5)
            .flatten(1, 2)
        )

    there = None
    if down or right:
        there = F.pad(torch.ones(1, 1, h * w, 1, device=device).unflatten(2, (h, w)), (0, 0, 0, right, 0, down))
        there = there.flatten(2, 3).unflatten(2, (rows * s, columns * s))
        there = there.unflatten(3, (columns, s)).unflatten(2, (rows, s)).permute(0, 2, 4, 1, 3, 5, 6)
        there = there.flatten(4, 5).flatten(1, 2)[..., 0].bool()[:, :, :, None]  # [1, n, 1, 1, s * s]

    def mix(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = cut(q), cut(k), cut(v)
        B = len(q)
        mask = None if there is None else there.expand(B, -1, -1, -1, -1).flatten(0, 1)
        x = F.scaled_dot_product_attention(*(t.flatten(0, 1) for t in (q, k, v)), attn_mask=mask)
        x = x.unflatten(0, (B, rows, columns)).unflatten(4, (s, s))  # [B, rows, columns, heads, s, s, d]
        x = x.permute(0, 3, 1, 4, 2, 5, 6).flatten(4, 5).flatten(2, 3)  # [B, heads, rows * s, columns * s, d]
        return x[:, :, :h, :w].flatten(2, 3)

    return mix

"""A light decoder: SegFormer's all-MLP fusion (Xie et al. 2021) of tokens of several depths, then enlarged four times.

B batch, D width of the encoder, W width of the decoder, h x w patches

SegFormer fuses four scales of a hierarchical encoder. A plain transformer has one scale and several depths: every depth
gets a norm of its own, since the encoder's norm comes after the last. Two transposed convolutions enlarge the result as
in SAM's mask decoder (Kirillov et al. 2023). Both are our choice; the fusion is tested against transformers', with
GroupNorm in place of BatchNorm (see `upernet.py`).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .pyramid import upscale
from .upernet import conv_norm, norm


class AllMLP(nn.Module):
    """K maps [B, D, h, w], shallow first -> [B, W / 4, 4 h, 4 w]."""

    def __init__(self, dim: int, width: int, depths: int):
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(dim, eps=1e-6) for _ in range(depths))
        self.linears = nn.ModuleList(nn.Linear(dim, width) for _ in range(depths))
        self.fuse = conv_norm(depths * width, width, 1)
        half, quarter = width // 2, width // 4
        self.enlarge = nn.Sequential(upscale(width, half), norm(half), nn.GELU(), upscale(half, quarter), nn.GELU())

    def fused(self, maps: Sequence[Tensor]) -> Tensor:
        """[B, W, h, w]; the deepest first, as SegFormer has them."""
        layers = zip(maps, self.norms, self.linears, strict=True)
        levels = [linear(norm(x.permute(0, 2, 3, 1))).permute(0, 3, 1, 2) for x, norm, linear in layers]
        return self.fuse(torch.cat(levels[::-1], dim=1))

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        return self.enlarge(self.fused(maps))

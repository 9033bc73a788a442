"""The light transformer that fills in hidden patches.

B batch, N patches, K visible patches, D encoder width, d decoder width, P outputs per patch
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from . import positions
from .masking import Mask, take
from .positions import Grid
from .vit import Block, ViTConfig, init_linears


@dataclass(frozen=True)
class DecoderSize:
    dim: int = 512  # width d
    depth: int = 8
    heads: int = 16

    def __post_init__(self) -> None:
        if self.dim % self.heads:
            raise ValueError(f"a decoder width of {self.dim} cannot be shared equally by {self.heads} heads")


class Decoder(nn.Module):
    """Class and visible tokens -> one prediction for every patch (He et al. 2022, section 3 and reference code)."""

    def __init__(self, encoder: ViTConfig, size: DecoderSize, outputs: int):
        super().__init__()
        self.grid = encoder.grid
        self.embed = nn.Linear(encoder.dim, size.dim)
        self.mask_token = nn.Parameter(torch.empty(1, 1, size.dim))
        self.pos_embed = nn.Parameter(positions.sincos(size.dim, encoder.grid), requires_grad=False)
        self.blocks = nn.ModuleList(Block(size.dim, size.heads) for _ in range(size.depth))
        self.norm = nn.LayerNorm(size.dim, eps=1e-6)
        self.pred = nn.Linear(size.dim, outputs)
        init_linears(self)
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(self, z: Tensor, mask: Mask, grid: Grid | None = None) -> Tensor:
        """z [B, 1 + K, D] -> predictions [B, N, P]; `grid` when the image has another size than the configured one."""
        return self.predict(z, mask, grid)[:, 1:]

    def predict(self, z: Tensor, mask: Mask, grid: Grid | None = None) -> Tensor:
        """As `forward`, with a prediction from the class token first: [B, 1 + N, P]."""
        b, n = mask.restore.shape
        y = self.embed(z)  # [B, 1 + K, d]
        hidden = self.mask_token.to(y.dtype).expand(b, n + 1 - y.shape[1], -1)
        patches = take(torch.cat([y[:, 1:], hidden], dim=1), mask.restore)  # [B, N, d]
        y = torch.cat([y[:, :1], patches], dim=1) + positions.resize(self.pos_embed, self.grid, grid or self.grid)
        for block in self.blocks:
            y = block(y)
        return self.pred(self.norm(y))

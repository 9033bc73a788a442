"""The light transformer that fills in hidden patches.

B batch, N patches, K visible patches, D encoder width, d decoder width, P outputs per patch
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import positions
from .masking import Mask, hidden_places, take
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

    def forward(self, z: Tensor, mask: Mask, grid: Grid | None = None, *, hidden_only: bool = False) -> Tensor:
        """z [B, 1 + K, D] -> predictions [B, N, P]; `grid` when the image has another size than the configured one.

        `hidden_only`: of the hidden patches alone, [B, N - K, P] in the order of `masking.hidden_places`. Then the last
        block, the norm and the head skip the other tokens; the predictions are the same.
        """
        if hidden_only:
            return self.head(self.tokens(z, mask, grid), first=1 + mask.keep.shape[1])
        return self.predict(z, mask, grid)[:, 1:]

    def predict(self, z: Tensor, mask: Mask, grid: Grid | None = None) -> Tensor:
        """As `forward`, with a prediction from the class token first: [B, 1 + N, P]."""
        order = F.pad(mask.restore + 1, (1, 0))  # [B, 1 + N], where each token sits; the class token stays the first
        return take(self.head(self.tokens(z, mask, grid), first=0), order)

    def tokens(self, z: Tensor, mask: Mask, grid: Grid | None) -> Tensor:
        """Input of the first block: [B, 1 + N, d] in the order class, visible, hidden.

        A transformer does not depend on the order of its tokens. Reordering the positions, which have no gradient, is
        cheaper than scattering the tokens into the order of the image.
        """
        table = positions.resize(self.pos_embed, self.grid, grid or self.grid)  # [1, 1 + N, d]
        y = self.embed(z)  # [B, 1 + K, d]
        visible, hidden = (table[0, 1:][places] for places in (mask.keep, hidden_places(mask)))
        return torch.cat([y[:, :1] + table[:, :1], y[:, 1:] + visible, self.mask_token + hidden], dim=1)

    def head(self, y: Tensor, first: int) -> Tensor:
        """Predictions from the tokens `first` and later: [B, 1 + N, d] -> [B, 1 + N - first, P]."""
        count = y.shape[1] - first
        for i, block in enumerate(self.blocks, start=1):
            y = block(y, first=first if i == len(self.blocks) else 0)
        return self.pred(self.norm(y[:, -count:]))

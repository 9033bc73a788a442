"""A pretrained vision transformer that is not trained: features of every patch, and the class token's attention.

B batch, C channels, N patches, D width
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .positions import Grid
from .vit import ViT, ViTConfig

if TYPE_CHECKING:
    from ..weights.timm import TimmViT

CHUNK = 256  # images in one forward; enough to keep any GPU busy


class Frozen(nn.Module):
    """Holds a network in eval mode without gradients; moved with the method, but not part of its state dict.

    `config` says its patch size, width, mean and standard deviation; `note` describes it to people.
    """

    net: "ViT | TimmViT"
    mean: Tensor
    std: Tensor

    def __init__(self, net: "ViT | TimmViT", config: "ViTConfig | TimmViT", note: str = ""):
        super().__init__()
        self.patch_size, self.dim, self.note = config.patch_size, config.dim, note
        self.register_buffer("mean", torch.tensor(config.mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(config.std).view(-1, 1, 1), persistent=False)
        # Past nn.Module's registration: neither saved with the method, nor counted, nor trained.
        object.__setattr__(self, "net", net.requires_grad_(False).eval())

    def size(self, grid: Grid) -> tuple[int, int]:
        """(height, width) in pixels that give the teacher this grid of its own patches."""
        return grid[0] * self.patch_size, grid[1] * self.patch_size

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:  # what .to() and .cuda() go through
        self.net._apply(fn)
        return super()._apply(fn, recurse)

    @torch.no_grad()
    def attend(self, images: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
        """Images [B, C, H, W] in [0, 1] -> features of the grid's patches [B, N, D], attention to them [B, N], sum 1.

        The image is resized to give the teacher this grid. A process's batch goes through in chunks of `CHUNK` images.
        """
        parts = [self._attend(part, grid) for part in images.split(CHUNK)]
        if len(parts) == 1:
            return parts[0]
        features, attention = zip(*parts, strict=True)
        return torch.cat(features), torch.cat(attention)

    def _attend(self, images: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
        x = images.float()
        if x.shape[2:] != self.size(grid):
            x = F.interpolate(x, self.size(grid), mode="bicubic", antialias=True).clamp(0, 1)  # bicubic overshoots
        x = (x - self.mean) / self.std  # one channel is repeated to the teacher's three
        tokens, attention = self.net.attend(x)
        return tokens[:, -attention.shape[1] :], attention  # class and register tokens come first

"""Questions attending to an image: self-attention among their tokens, cross-attention to the image's, an MLP.

B images, Q questions about each, L tokens of each, S tokens of an image, D their width, W width of the questions
"""

import torch.nn.functional as F
from torch import Tensor, nn

from .text import padding_mask
from .vit import Attention, Mlp, class_attention


class CrossAttention(nn.Module):
    """Every token of every question attends to all tokens of its image, whose keys and values are made once."""

    def __init__(self, width: int, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(dim, 2 * width)
        self.proj = nn.Linear(width, width)

    def keys(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """[B, S, D] -> keys and values [B, heads, S, W / heads]."""
        k, v = self.kv(image).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return k, v

    def queries(self, x: Tensor) -> Tensor:
        """[B, Q, L, W] -> [B, heads, Q L, W / heads]."""
        return self.q(x).flatten(1, 2).unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def forward(self, x: Tensor, image: Tensor) -> Tensor:
        mixed = F.scaled_dot_product_attention(self.queries(x), *self.keys(image))
        return self.proj(mixed.transpose(1, 2).flatten(2)).unflatten(1, x.shape[1:3])  # [B, Q, L, W]


class FusionBlock(nn.Module):
    """Pre-norm, LayerNorm eps 1e-6. Without `dim` there is no cross-attention."""

    def __init__(self, width: int, dim: int | None, heads: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6) if dim else None
        self.cross = CrossAttention(width, dim, heads) if dim else None
        self.norm3 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = Mlp(width)

    def self_attention(self, x: Tensor, real: Tensor) -> Tensor:
        """[B, Q, L, W] -> the same, each question by itself."""
        mixed = self.attn(self.norm1(x).flatten(0, 1), padding_mask(real.flatten(0, 1)))
        return x + mixed.unflatten(0, x.shape[:2])

    def forward(self, x: Tensor, real: Tensor, image: Tensor | None) -> Tensor:
        """Questions [B, Q, L, W], which of their tokens are no padding [B, Q, L], an image's tokens [B, S, D]."""
        x = self.self_attention(x, real)
        if self.norm2 is not None and self.cross is not None and image is not None:
            x = x + self.cross(self.norm2(x), image)
        return x + self.mlp(self.norm3(x))


class Fusion(nn.Module):
    def __init__(self, width: int, dim: int | None, heads: int, depth: int):
        super().__init__()
        self.image = nn.LayerNorm(dim, eps=1e-6) if dim else None
        self.layers = nn.ModuleList(FusionBlock(width, dim, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, x: Tensor, real: Tensor, image: Tensor | None) -> Tensor:
        """As `FusionBlock` -> what the first token of each question has become, [B, Q, W]."""
        if self.image is not None and image is not None:
            image = self.image(image)
        for layer in self.layers:
            x = layer(x, real, image)
        return self.norm(x[:, :, 0])

    def attention(self, x: Tensor, real: Tensor, image: Tensor) -> Tensor:
        """Attention of the first token of each image's first question in the last layer: [B, S - 1], sum 1."""
        assert self.image is not None
        image, last = self.image(image), self.layers[-1]
        for layer in self.layers[:-1]:
            x = layer(x, real, image)
        assert isinstance(last, FusionBlock)
        assert last.cross is not None
        assert last.norm2 is not None
        x = last.norm2(last.self_attention(x, real)[:, :1, :1])
        return class_attention(last.cross.queries(x)[:, :, 0], last.cross.keys(image)[0])

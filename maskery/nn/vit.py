"""The plain vision transformer, under timm's parameter names.

B batch, C channels, N patches, K visible patches, S = 1 + N or 1 + K tokens (class token first), D width
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from . import positions
from .masking import Mask, take
from .positions import Grid

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Size:
    """Width D, number of blocks, number of heads."""

    dim: int
    depth: int
    heads: int


SIZES = {
    "vit-micro": Size(128, 6, 4),  # no published size: for CPUs, the demo and tests
    "vit-tiny": Size(192, 12, 3),
    "vit-small": Size(384, 12, 6),
    "vit-base": Size(768, 12, 12),
    "vit-large": Size(1024, 24, 16),
    "vit-huge": Size(1280, 32, 16),
}


@dataclass(frozen=True)
class ViTConfig:
    """Size, input and normalisation of one network. ValueError when they do not fit together."""

    dim: int = 768
    depth: int = 12
    heads: int = 12
    patch_size: int = 16
    image_size: tuple[int, int] = (224, 224)  # (height, width) in pixels
    mean: tuple[float, ...] = IMAGENET_MEAN  # per channel, of values in [0, 1]; the number of channels is its length
    std: tuple[float, ...] = IMAGENET_STD

    def __post_init__(self) -> None:
        positions.grid_of(self.image_size, self.patch_size)
        if self.dim % self.heads:
            raise ValueError(f"a width of {self.dim} cannot be shared equally by {self.heads} heads")
        if len(self.mean) != len(self.std) or not self.mean:
            raise ValueError(
                f"mean has {len(self.mean)} channels and std has {len(self.std)}: they need the same number"
            )
        if min(self.std) <= 0:
            raise ValueError(f"std is {self.std}: every channel's has to be above 0")

    @property
    def channels(self) -> int:
        return len(self.mean)

    @property
    def grid(self) -> Grid:
        return positions.grid_of(self.image_size, self.patch_size)

    @property
    def num_patches(self) -> int:
        return self.grid[0] * self.grid[1]


Mix = Callable[[Tensor, Tensor, Tensor], Tensor]  # queries, keys, values, each [B, heads, S, D/heads] -> the same


class PatchEmbed(nn.Module):
    """A non-overlapping convolution, computed as a matrix product over the requested patches."""

    def __init__(self, channels: int, dim: int, p: int):
        super().__init__()
        self.proj = nn.Conv2d(channels, dim, p, p)
        nn.init.xavier_uniform_(self.proj.weight.flatten(1))

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        """[B, C, H, W] -> [B, N, D], or [B, K, D] of the patches `keep` [B, K]."""
        weight = self.proj.weight
        p = weight.shape[-1]
        patches = x.unflatten(3, (-1, p)).unflatten(2, (-1, p)).permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
        if keep is not None:
            patches = take(patches, keep)
        return F.linear(patches, weight.flatten(1), self.proj.bias)


class Attention(nn.Module):
    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, mix: Mix = F.scaled_dot_product_attention, first: int = 0) -> Tensor:
        """[B, S, D] -> [B, S - first, D]: tokens before `first` serve as keys and values only."""
        if first:
            d = x.shape[-1]
            (wq, wkv), (bq, bkv) = (parameter.split([d, 2 * d]) for parameter in (self.qkv.weight, self.qkv.bias))
            q = F.linear(x[:, first:], wq, bq).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            k, v = F.linear(x, wkv, bkv).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        else:
            q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # [B, heads, S, D/heads]
        return self.proj(mix(q, k, v).transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    def __init__(self, dim: int):
        super().__init__()
        self.fc1 = nn.Linear(dim, 4 * dim)
        self.fc2 = nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """Pre-norm attention and MLP, LayerNorm eps 1e-6."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim)
        self.recompute = False  # activation checkpointing: save only the input for backward, and recompute the rest

    def forward(
        self, x: Tensor, mix: Mix = F.scaled_dot_product_attention, first: int = 0, paths: Tensor | None = None
    ) -> Tensor:
        """[B, S, D] -> [B, S - first, D]: tokens before `first` serve as keys and values only.

        `paths` [B, 2] scales what attention and MLP add for each image, see `drop_paths`.
        """
        if self.recompute and torch.is_grad_enabled():
            return checkpoint(self._forward, x, mix, first, paths, use_reentrant=False, preserve_rng_state=False)
        return self._forward(x, mix, first, paths)

    def _forward(self, x: Tensor, mix: Mix, first: int, paths: Tensor | None) -> Tensor:
        if paths is None:
            x = x[:, first:] + self.attn(self.norm1(x), mix, first)
            return x + self.mlp(self.norm2(x))
        x = x[:, first:] + paths[:, 0, None, None] * self.attn(self.norm1(x), mix, first)
        return x + paths[:, 1, None, None] * self.mlp(self.norm2(x))


class ViT(nn.Module):
    """Images in [0, 1] -> tokens; it normalises its own input.

    The state dict loads strictly into the timm model of the same size and the other way round.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: ViTConfig):
        super().__init__()
        self.config = config
        self.cls_token = nn.Parameter(torch.empty(1, 1, config.dim))
        self.pos_embed = nn.Parameter(positions.sincos(config.dim, config.grid), requires_grad=False)
        self.patch_embed = PatchEmbed(config.channels, config.dim, config.patch_size)
        self.blocks = nn.ModuleList(Block(config.dim, config.heads) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.dim, eps=1e-6)
        self.register_buffer("mean", torch.tensor(config.mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(config.std).view(-1, 1, 1), persistent=False)
        init_linears(self)
        nn.init.normal_(self.cls_token, std=0.02)

    def normalise(self, images: Tensor) -> Tensor:
        """[B, C, H, W] in [0, 1] -> zero mean and unit variance by the network's own mean and std."""
        return (images - self.mean).div_(self.std)

    def denormalise(self, x: Tensor) -> Tensor:
        """The inverse of `normalise`."""
        return x * self.std + self.mean

    def grid(self, images: Tensor) -> Grid:
        """(rows, columns) of the patches of images [B, C, H, W]."""
        return positions.grid_of((images.shape[2], images.shape[3]), self.config.patch_size)

    def embed(self, x: Tensor, mask: Mask | None = None) -> Tensor:
        """Normalised images -> tokens before the first block, [B, S, D]; hidden patches are not embedded."""
        table = positions.resize(self.pos_embed, self.config.grid, self.grid(x))  # [1, 1 + N, D]
        if mask is None:
            patches = self.patch_embed(x) + table[:, 1:]
        else:
            patches = self.patch_embed(x, mask.keep) + table[0, 1:][mask.keep]
        return torch.cat([(self.cls_token + table[:, :1]).expand(len(x), -1, -1), patches], dim=1)  # [B, S, D]

    def encode(self, x: Tensor, mask: Mask | None = None) -> Tensor:
        """Normalised images -> tokens after the last norm, [B, S, D]."""
        tokens = self.embed(x, mask)
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm(tokens)

    def layers(self, x: Tensor, wanted: Sequence[int]) -> list[Tensor]:
        """Normalised images -> tokens [B, 1 + N, D] after the blocks `wanted` (the first is 1), and the last norm."""
        return [self.norm(tokens) for tokens in self.after(x, wanted)]

    def after(self, x: Tensor, wanted: Sequence[int], paths: Tensor | None = None) -> list[Tensor]:
        """Normalised images -> tokens [B, 1 + N, D] after blocks `wanted`; `paths` [B, depth, 2] as `drop_paths`."""
        tokens, outputs = self.embed(x), {}
        for i in range(max(wanted)):
            tokens = self.blocks[i](tokens, paths=None if paths is None else paths[:, i])
            outputs[i + 1] = tokens
        return [outputs[i] for i in wanted]

    def trunk(self, x: Tensor, paths: Tensor | None = None) -> Tensor:
        """Normalised images -> tokens before the last norm, [B, 1 + N, D]; `paths` as `drop_paths`."""
        return self.after(x, (len(self.blocks),), paths)[0]

    def attend(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """`encode` without a mask, and the class token's attention in the last block: [B, 1 + N, D], [B, N].

        The attention is its softmax over all tokens, without itself, averaged over heads and scaled to sum 1.
        """
        attention: list[Tensor] = []

        def mix(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            attention.append(class_attention(q[:, :, 0], k))
            return F.scaled_dot_product_attention(q, k, v)

        tokens = self.embed(x)
        for block in self.blocks[:-1]:
            tokens = block(tokens)
        return self.norm(self.blocks[-1](tokens, mix)), attention[0]

    def forward(self, images: Tensor, mask: Mask | None = None) -> tuple[Tensor, Tensor]:
        """Images [B, C, H, W] in [0, 1] -> class token [B, D] and patch tokens [B, N, D] ([B, K, D] under a mask).

        Images may have any size that the patch size divides. ValueError when it does not, or when the number of
        channels differs from the network's.
        """
        if images.shape[1] != self.config.channels:
            raise ValueError(
                f"this network looks at {self.config.channels} channels, the images have {images.shape[1]}"
            )
        tokens = self.encode(self.normalise(images), mask)
        return tokens[:, 0], tokens[:, 1:]


def drop_paths(images: int, depth: int, rate: float, device: torch.device) -> Tensor:
    """Stochastic depth, [images, depth, 2]: 0 where a block's branch is dropped for an image, 1 / keep elsewhere.

    The rate grows linearly from 0 in the first block to `rate` in the last (Huang et al. 2016; timm's DropPath).
    """
    keep = 1 - torch.linspace(0, rate, depth, device=device)[:, None]  # [depth, 1]
    return (torch.rand(images, depth, 2, device=device) < keep) / keep


def class_attention(q: Tensor, k: Tensor, first: int = 1) -> Tensor:
    """One query per head [B, heads, d], keys [B, heads, S, d] -> attention to the patches [B, N], each row sums to 1.

    `first`: the token that is the first patch. Other rows of the S x S attention are never computed.
    """
    logits = (k.float() * q.float().unsqueeze(2)).sum(-1) * q.shape[-1] ** -0.5  # [B, heads, S], never in bf16
    patches = logits.softmax(-1)[..., first:].mean(1)  # [B, N]
    return patches / patches.sum(-1, keepdim=True).clamp_min(1e-30)


def recompute_blocks(module: nn.Module) -> None:
    """Turn on activation checkpointing of every block: one more forward, activations of one block at a time."""
    for m in module.modules():
        if isinstance(m, Block):
            m.recompute = True
    # Compiled, the side effects of a `Mix` (MixedAE's list of fractions) happen in forward, and not again in backward.
    torch._dynamo.config.skip_fwd_side_effects_in_bwd_under_checkpoint = True


def init_linears(module: nn.Module) -> None:
    """Xavier-uniform weights (a fused qkv as one matrix) and zero biases, as in MAE's reference code."""
    for m in module.modules():
        if isinstance(m, nn.Linear):
            nn.init.xavier_uniform_(m.weight)
            nn.init.zeros_(m.bias)

"""UPerNet (Xiao et al. 2018) on the tokens of a plain transformer, as BEiT's and MAE's segmentation code has it.

B batch, D width of the encoder, W width of the decoder, h x w patches

    levels       tokens of four depths, brought to h/2 .. 4 h lines: strides 4, 8, 16, 32 for patches of 16
    pooled       the coarsest level with its averages over 1, 4, 9 and 36 cells (PSPNet)
    top-down     every level is added to the finer one before it (FPN)
    fused        all levels, enlarged to the finest                                            [B, W, 4 h, 4 w]

transformers 5 has this decoder with BatchNorm, whose averages change in `forward` and need synchronising where a device
has two images of 512 pixels. So it is written out, with GroupNorm (Wu & He 2018, who find it as good), and tested
against transformers' with the norms exchanged. Stated: pools 1, 2, 3, 6; the rescaling (BEiT's code). Ours: GroupNorm.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .pyramid import upscale

POOLS = (1, 2, 3, 6)  # cells along a side


def norm(width: int) -> nn.GroupNorm:
    """GroupNorm with 32 groups or fewer: a single channel averaged to one place would always become zero."""
    return nn.GroupNorm(math.gcd(32, max(1, width // 8)), width)


def conv_norm(before: int, after: int, size: int) -> nn.Sequential:
    """Convolution that keeps the size, norm, ReLU."""
    conv = nn.Conv2d(before, after, size, padding=size // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
    return nn.Sequential(conv, norm(after), nn.ReLU())


class Pyramid(nn.Module):
    """Four maps [B, D, h, w] -> [B, D, 4 h, 4 w], [B, D, 2 h, 2 w], [B, D, h, w], [B, D, h // 2, w // 2]."""

    def __init__(self, dim: int):
        super().__init__()
        self.four = nn.Sequential(upscale(dim, dim), norm(dim), nn.GELU(), upscale(dim, dim))
        self.two = upscale(dim, dim)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        a, b, c, d = maps
        coarse = F.max_pool2d(d, 2) if min(d.shape[2:]) > 1 else d
        return [self.four(a), self.two(b), c, coarse]


class UPerNet(nn.Module):
    """Four maps, finest first -> [B, W, height and width of the finest]."""

    def __init__(self, dim: int, width: int):
        super().__init__()
        self.pooled = nn.ModuleList(conv_norm(dim, width, 1) for _ in POOLS)
        self.bottleneck = conv_norm(dim + len(POOLS) * width, width, 3)
        self.lateral = nn.ModuleList(conv_norm(dim, width, 1) for _ in range(3))
        self.out = nn.ModuleList(conv_norm(width, width, 3) for _ in range(3))
        self.fuse = conv_norm(4 * width, width, 3)

    def forward(self, levels: Sequence[Tensor]) -> Tensor:
        *finer, last = levels
        pools = zip(POOLS, self.pooled, strict=True)
        cells = [enlarged(conv(F.adaptive_avg_pool2d(last, n)), last) for n, conv in pools]
        fused = [conv(x) for conv, x in zip(self.lateral, finer, strict=True)]
        fused.append(self.bottleneck(torch.cat([last, *cells], dim=1)))
        for i in (2, 1, 0):
            fused[i] = fused[i] + enlarged(fused[i + 1], fused[i])
        outs = [conv(x) for conv, x in zip(self.out, fused[:3], strict=True)]
        return self.fuse(torch.cat([outs[0], *(enlarged(x, outs[0]) for x in (*outs[1:], fused[3]))], dim=1))


def enlarged(x: Tensor, like: Tensor) -> Tensor:
    """Bilinear, to the height and width of another map."""
    return F.interpolate(x, like.shape[2:], mode="bilinear", align_corners=False)

"""The simple feature pyramid of ViTDet (Li et al. 2022, section 3): five maps from a plain transformer's last one.

B batch, D width of the encoder, W width of the pyramid, h x w patches of p pixels

    strides p/4, p/2, p, 2p   two deconvolutions, one, none, maximum over 2 x 2; then 1 x 1 and 3 x 3 to W, with norms
    stride 4p                 every second place of the last one, for proposals alone

Stated: all of it, for p = 16; the norm is over channels at every place, as in ConvNeXt. Ours: other patch sizes.
"""

import torch.nn.functional as F
from torch import Tensor, nn

LEVELS = ("0", "1", "2", "3", "pool")  # torchvision's names
STRIDES = (1 / 4, 1 / 2, 1, 2, 4)  # of the levels, in patches


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of every place, [B, C, h, w]."""

    def __init__(self, channels: int):
        super().__init__(channels, eps=1e-6)

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def upscale(before: int, after: int) -> nn.ConvTranspose2d:
    """Twice as many places along each side."""
    return nn.ConvTranspose2d(before, after, 2, 2)


class SimplePyramid(nn.Module):
    """A map [B, D, h, w] -> {level: [B, W, height, width]}, finest first."""

    def __init__(self, dim: int, width: int):
        super().__init__()
        half, quarter = max(1, dim // 2), max(1, dim // 4)
        self.out_channels = width  # torchvision reads it
        four = nn.Sequential(upscale(dim, half), ChannelNorm(half), nn.GELU(), upscale(half, quarter))
        self.scaled = nn.ModuleList([four, upscale(dim, half), nn.Identity(), nn.MaxPool2d(2, ceil_mode=True)])
        self.out = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(before, width, 1, bias=False),
                ChannelNorm(width),
                nn.Conv2d(width, width, 3, padding=1, bias=False),
                ChannelNorm(width),
            )
            for before in (quarter, half, dim, dim)
        )

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        levels = [out(scaled(x)) for scaled, out in zip(self.scaled, self.out, strict=True)]
        return dict(zip(LEVELS, [*levels, F.max_pool2d(levels[-1], 1, 2)], strict=True))

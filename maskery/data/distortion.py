"""ADE20K's photometric distortion: brightness, contrast, saturation and hue, each for half of the images (SSD's).

B batch, C channels, H x W pixels
"""

import torch
from torch import Tensor

from .photometric import turn_hue


def distorted(x: Tensor) -> Tensor:
    """Images [B, C, H, W] in [0, 1] -> the same, drawn from the global generator.

    Stated (mmsegmentation's PhotoMetricDistortion): brightness by up to 32 of 255, contrast by 0.5 to 1.5 (of the
    values, not around their mean), saturation by 0.5 to 1.5, hue by up to 18 degrees, contrast before the colours or
    after them. Values stay within [0, 1] after every part. Images that are not of three channels keep their colours.
    """
    B = len(x)
    u, on = torch.rand(4, B, 1, 1, 1, device=x.device), torch.rand(5, B, 1, 1, 1, device=x.device) < 0.5

    def contrast(x: Tensor, when: Tensor) -> Tensor:
        return (x * torch.where(on[1] & when, 0.5 + u[1], 1.0)).clamp(0, 1)

    x = contrast((x + torch.where(on[0], (2 * u[0] - 1) * 32 / 255, 0.0)).clamp(0, 1), on[4])
    if x.shape[1] == 3:
        value = x.amax(1, keepdim=True)
        x = (value - (value - x) * torch.where(on[2], 0.5 + u[2], 1.0)).clamp(0, 1)
        x = torch.where(on[3], turn_hue(x, (2 * u[3] - 1) * 0.05), x)
    return contrast(x, ~on[4])

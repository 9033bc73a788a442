"""Draw segmentation masks as colours over images.

B images, C channels, H x W pixels, M classes
"""

import colorsys
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

_TURN = 0.618034  # of the colour circle from one class to the next: neighbours differ, no colour repeats


def colours(classes: int) -> Tensor:
    """Fixed RGB colours of M classes, [M, 3] in [0, 1], varying in hue and lightness."""
    steps = [((i * _TURN) % 1, 0.45 + 0.2 * (i % 3), 0.9 - 0.25 * (i % 2)) for i in range(classes)]
    return torch.tensor([colorsys.hls_to_rgb(hue, light, full) for hue, light, full in steps])


def legend(names: Sequence[str], shown: Iterable[int]) -> dict[str, str]:
    """{name: #rrggbb} of the classes shown, in order; numbers below 0 have no colour."""
    shades = colours(len(names))
    return {names[m]: "#" + bytes((shades[m] * 255).byte().tolist()).hex() for m in sorted(set(shown)) if m >= 0}


def painted(images: Tensor, masks: Tensor, classes: int) -> Tensor:
    """Colour images [B, C, H, W] in [0, 1] by class numbers [B, H, W]: [B, 3, H, W]; below 0 the image is darkened.

    Images without three channels are shown by their first one, grey, stretched to its own range.
    """
    x = images.float()
    if x.shape[1] != 3:
        x = x[:, :1]
        low, high = x.amin((1, 2, 3), keepdim=True), x.amax((1, 2, 3), keepdim=True)
        x = ((x - low) / (high - low).clamp_min(1e-6)).expand(-1, 3, -1, -1)
    colour = colours(classes).to(x.device)[masks.clamp_min(0)].permute(0, 3, 1, 2)
    return torch.where(masks[:, None] < 0, 0.4 * x, 0.4 * x + 0.6 * colour).clamp(0, 1)

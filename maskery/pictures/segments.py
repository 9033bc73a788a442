"""Draw labels over images, a colour for each class: segmentation masks, objects with boxes and masks.

B images, C channels, H x W pixels, K objects, M classes
"""

import colorsys
from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
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
    """Colour images [B, C, H, W] in [0, 1] by class numbers [B, H, W]: [B, 3, H, W]; below 0 the image is darkened."""
    x = _rgb(images)
    colour = colours(classes).to(x.device)[masks.clamp_min(0)].permute(0, 3, 1, 2)
    return torch.where(masks[:, None] < 0, 0.4 * x, 0.4 * x + 0.6 * colour).clamp(0, 1)


def outlined(image: Tensor, boxes: Tensor, classes: Tensor, count: int, masks: Tensor | None = None) -> Tensor:
    """Draw K objects over an image [C, H, W] in [0, 1], one colour for each of `count` classes: [3, H, W].

    Masks [K, H, W] are tinted and outlined.
    """
    x = _rgb(image[None])[0]
    H, W = x.shape[1:]
    line = max(1, round(max(H, W) / 200))
    shades = colours(count).to(x.device)
    for k in reversed(range(len(boxes))):  # the most confident object last, over all others
        colour = shades[int(classes[k])][:, None, None]
        if masks is not None:
            mask = masks[k].float()[None]
            inner = -F.max_pool2d(-mask, 2 * line + 1, 1, line)
            x = torch.where(mask > inner, colour, torch.where(mask > 0, 0.6 * x + 0.4 * colour, x))
        left, top, right, bottom = (round(v) for v in boxes[k].tolist())
        frame = torch.zeros(H, W, dtype=torch.bool, device=x.device)
        frame[max(top, 0) : bottom, max(left, 0) : right] = True
        frame[max(top + line, 0) : max(bottom - line, 0), max(left + line, 0) : max(right - line, 0)] = False
        x = torch.where(frame, colour, x)
    return x.clamp(0, 1)


def _rgb(images: Tensor) -> Tensor:
    """Images of three channels as they are; others by their first one, grey, stretched to its own range."""
    x = images.float()
    if x.shape[1] == 3:
        return x
    x = x[:, :1]
    low, high = x.amin((1, 2, 3), keepdim=True), x.amax((1, 2, 3), keepdim=True)
    return ((x - low) / (high - low).clamp_min(1e-6)).expand(-1, 3, -1, -1)

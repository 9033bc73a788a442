"""Draw objects over an image: boxes, and outlined masks.

C channels, H x W pixels, K objects, M classes
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .segments import colours


def outlined(
    image: Tensor, boxes: Tensor, classes: Tensor, count: int, masks: Tensor | None = None, line: int = 0
) -> Tensor:
    """Draw K objects over an image [C, H, W] in [0, 1], one colour for each of `count` classes: [3, H, W].

    `line`: width of box edges in pixels; 0: by the size of the image. Masks [K, H, W] are tinted.
    """
    x = image.float()
    if x.shape[0] != 3:
        x = (x[:1] - x[:1].amin()) / (x[:1].amax() - x[:1].amin()).clamp_min(1e-6)
        x = x.expand(3, -1, -1)
    x = x.clone()
    H, W = x.shape[1:]
    line = line or max(1, round(max(H, W) / 200))
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

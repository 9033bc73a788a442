"""Strong photometric augmentation of whole batches, on the device they are on: colours and sharpness, no geometry.

B batch, C channels, H x W pixels. Random choices are returned, so that they can be applied again.
A choice that depends on a pixel is `lerp` by 0 or 1, which is exact; `torch.where` is slow on a CPU when neighbours
differ.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Drawn(NamedTuple):
    """Random choices for every sample, each [B]; the neutral value changes nothing."""

    brightness: Tensor  # factor, 1 = as it is
    contrast: Tensor  # likewise
    saturation: Tensor  # likewise
    hue: Tensor  # turn of the colour circle in [-0.5, 0.5], 0 = as it is
    grey: Tensor  # 1 = grey, 0 = as it is
    sigma: Tensor  # of the blur, in pixels of a view whose short side has 224; 0 = as it is
    solarize: Tensor  # bool


@dataclass(frozen=True)
class Strong:
    """Colour jitter, grey, blur and solarisation: the values of BYOL, DINO and iBOT, the blur's as in SimCLR.

    Always in the order of `Drawn`; torchvision's ColorJitter shuffles its four parts for every image. Saturation, hue
    and grey need three channels: other images get brightness, contrast, blur and solarisation. Sigma is given for 224
    pixels and scales with the short side of the view, so that small views are not blurred away.
    """

    brightness: float = 0.4  # factors from 1 - 0.4 to 1 + 0.4
    contrast: float = 0.4  # likewise
    saturation: float = 0.2  # likewise
    hue: float = 0.1  # turns of the colour circle, at most 0.5
    p_jitter: float = 0.8  # probability of these four, together
    p_grey: float = 0.2
    sigma: tuple[float, float] = (0.1, 2.0)  # of the blur at 224 pixels
    p_blur: float = 0.5
    threshold: float = 0.5  # solarisation inverts what is at least so bright
    p_solarize: float = 0.2

    def __post_init__(self) -> None:
        for name in ("brightness", "contrast", "saturation"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"strong {name} is {getattr(self, name):g}: at least 0")
        for name in ("p_jitter", "p_grey", "p_blur", "p_solarize"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"strong {name} is {getattr(self, name):g}: a probability between 0 and 1")
        if not 0 <= self.hue <= 0.5:
            raise ValueError(f"strong hue is {self.hue:g}: turns of the colour circle, between 0 and 0.5")
        if not 0 < self.sigma[0] <= self.sigma[1] < math.inf:
            raise ValueError(f"strong sigma is {self.sigma}: two sizes in pixels, 0 < smallest <= largest")

    def draw(self, b: int, device: torch.device) -> Drawn:
        """Make the random choices for `b` samples, with the global generator."""
        u = torch.rand(9, b, device=device)
        jitter = u[0] < self.p_jitter

        def factor(u: Tensor, strength: float) -> Tensor:
            low, high = max(0.0, 1 - strength), 1 + strength
            return torch.where(jitter, low + u * (high - low), 1.0)

        return Drawn(
            factor(u[1], self.brightness),
            factor(u[2], self.contrast),
            factor(u[3], self.saturation),
            torch.where(jitter, (2 * u[4] - 1) * self.hue, 0.0),
            (u[5] < self.p_grey).float(),
            torch.where(u[6] < self.p_blur, self.sigma[0] + u[7] * (self.sigma[1] - self.sigma[0]), 0.0),
            u[8] < self.p_solarize,
        )

    def __call__(self, images: Tensor, drawn: Drawn) -> Tensor:
        """Apply the choices to images [B, C, H, W] in [0, 1]."""
        brightness, contrast, saturation, hue, colourless, sigma, solarize = (d.view(-1, 1, 1, 1) for d in drawn)
        colours = images.shape[1] == 3
        x = (images * brightness).clamp_(0, 1)
        mean = (grey(x) if colours else x).mean((1, 2, 3), keepdim=True)
        x = mean.lerp(x, contrast).clamp_(0, 1)
        if colours:
            x = grey(x).lerp(x, saturation).clamp_(0, 1)
            x = torch.where(hue == 0, x, turn_hue(x, hue))
            x = x.lerp_(grey(x), colourless)
        scale = min(images.shape[2:]) / 224
        x = blur(x, sigma * scale, math.ceil(3 * self.sigma[1] * scale)).clamp_(0, 1)
        return x.lerp(1 - x, x.clone().ge_(self.threshold).mul_(solarize))


def grey(x: Tensor) -> Tensor:
    """Luma of images [B, 3, H, W] by ITU-R 601 with torchvision's digits: [B, 1, H, W]."""
    r, g, b = x.split(1, dim=1)
    return 0.2989 * r + 0.587 * g + 0.114 * b


def turn_hue(x: Tensor, turn: Tensor) -> Tensor:
    """Move the hue of images [B, 3, H, W] by `turn` [B, 1, 1, 1] of the circle; value and saturation stay."""
    r, g, b = x.split(1, dim=1)
    value = x.amax(1, keepdim=True)
    chroma = value - x.amin(1, keepdim=True)
    spread = chroma.clamp_min(1e-12)  # a grey pixel has no hue; its chroma of 0 makes whatever stands here harmless
    red, green, blue = (g - b).div_(spread), (b - r).div_(spread).add_(2), (r - g).div_(spread).add_(4)
    hue = blue.lerp_(green, value.clone().eq_(g)).lerp_(red, value.clone().eq_(r))  # which is the largest
    away = hue.add_(6 * turn) + torch.arange(3, -2, -2, device=x.device).view(3, 1, 1)  # from where a channel is least
    away.sub_((away / 6).round_(), alpha=6).abs_()  # on the hexagon, at most 3
    return torch.addcmul(value, chroma, away.neg_().add_(2).clamp_(0, 1), value=-1)


def blur(x: Tensor, sigma: Tensor, radius: int) -> Tensor:
    """Blur images [B, C, H, W] by Gaussians of `sigma` [B, 1, 1, 1] pixels cut off at `radius`; borders are reflected.

    A sum of moved images and not a convolution, which autocast and TF32 would compute in less than float32.
    """
    radius = min(radius, *(n - 1 for n in x.shape[2:]))  # no more pixels than that can be reflected
    distance = torch.arange(radius + 1, device=x.device)
    kernel = (-0.5 * (distance / sigma.clamp_min(1e-2)).square()).exp()  # [B, 1, 1, 1 + radius]; sigma 0: 1, 0, 0 ...
    kernel = kernel / (kernel[..., :1] + 2 * kernel[..., 1:].sum(-1, keepdim=True))
    for axis, border in ((2, (0, 0, radius, radius)), (3, (radius, radius, 0, 0))):
        n, padded = x.shape[axis], F.pad(x, border, mode="reflect")
        x = x * kernel[..., :1]
        for i in range(1, radius + 1):
            both = padded.narrow(axis, radius - i, n) + padded.narrow(axis, radius + i, n)
            x.addcmul_(both, kernel[..., i : i + 1])
    return x

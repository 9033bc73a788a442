"""Losses of trivial baselines on the same images and masks, to compare a network's loss with.

B images, C channels, N patches, H of them hidden in all, P = p * p * C
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .targets import patchify, pixels

MEAN, PLACE, NEIGHBOURS = "the patch's mean", "the average image there", "visible neighbours, interpolated"
ONE_DIRECTION = "one direction for all patches"  # of losses that compare features
SIGMAS = (0.5, 1.0, 2.0, 8.0)  # of the interpolation in patches: the narrowest that covers visible pixels is used
MIN_WEIGHT = 1e-3  # fraction of its weights that has to lie on visible pixels
FLAT = 0.02  # a patch of normalised pixels (their std is about 1) that varies less is flat: about 1 of 255 levels

Baselines = dict[str, dict[str, float]]  # name of a loss -> baseline in words -> its loss


def pixel_guesses(x: Tensor, hidden: Tensor, p: int, norm_pix: bool) -> dict[str, float]:
    """Mean squared errors on the hidden patches of normalised images x [B, C, H, W]; `hidden` [B, N], 1 = hidden.

    With `norm_pix` every patch is standardised: its mean is 0, and what is interpolated is standardised too and scaled
    by the one number that fits best. Without, the "mean" is that of an image's visible pixels. The average image is
    the mean of all images' patches at the same place: what can be predicted without seeing the image.
    """
    places, targets = hidden.bool(), pixels(x, p, norm_pix)
    seen = enlarged(1 - hidden, x, p)
    mean = (x * seen).sum((2, 3), keepdim=True) / seen.sum((2, 3), keepdim=True).clamp_min(1)
    flat = 0 * targets if norm_pix else patchify(mean.expand_as(x), p)
    near = pixels(interpolated(x, hidden, p), p, norm_pix)
    u, flat, near = targets[places], flat[places], near[places]  # [H, P]
    scale = (u * near).sum() / near.square().sum().clamp_min(1e-12) if norm_pix else 1.0
    return {
        MEAN: float((u - flat).square().mean()),
        PLACE: variance_by_place(targets, hidden),
        NEIGHBOURS: float((u - scale * near).square().mean()),
    }


def variance_by_place(targets: Tensor, hidden: Tensor) -> float:
    """Unbiased variance of the hidden patches of `targets` [B, N, P] about the mean of their place over all images."""
    m = hidden.to(targets.dtype).unsqueeze(-1)  # [B, N, 1]
    n = m.sum(0)  # [N, 1] images that hide this place
    mean = (targets * m).sum(0) / n.clamp_min(1)
    squares = ((targets - mean).square() * m).sum(0) * n / (n - 1).clamp_min(1)  # [N, P]
    return float(squares.sum() / (n * (n > 1)).sum().clamp_min(1) / targets.shape[-1])


def interpolated(x: Tensor, hidden: Tensor, p: int) -> Tensor:
    """Replace every pixel of x [B, C, H, W] by a Gaussian-weighted mean of the visible ones around it."""
    seen = enlarged(1 - hidden, x, p)
    result, missing = torch.zeros_like(x), torch.ones_like(seen)  # missing: 1 where no narrower Gaussian was enough
    for sigma in SIGMAS:
        weight = blurred(seen, sigma * p)
        covered = (weight > MIN_WEIGHT).to(x.dtype) * missing
        result = result + covered * blurred(x * seen, sigma * p) / weight.clamp_min(1e-12)
        missing = missing - covered
    mean = (x * seen).sum((2, 3), keepdim=True) / seen.sum((2, 3), keepdim=True).clamp_min(1)
    return result + missing * mean


def blurred(x: Tensor, sigma: float) -> Tensor:
    """Blur [B, C, H, W] with a Gaussian of `sigma` pixels; zero padding."""
    channels = x.shape[1]
    for axis in (2, 3):
        radius = min(math.ceil(4 * sigma), x.shape[axis] - 1)
        at = torch.arange(-radius, radius + 1, device=x.device, dtype=x.dtype)
        kernel = (-0.5 * (at / sigma).square()).exp()
        shape, padding = [1, 1, 1, 1], [0, 0]
        shape[axis], padding[axis - 2] = len(at), radius
        weights = (kernel / kernel.sum()).view(shape).expand(channels, 1, *shape[2:])
        x = F.conv2d(x, weights, padding=padding, groups=channels)
    return x


def enlarged(values: Tensor, x: Tensor, p: int) -> Tensor:
    """Repeat values of patches [B, N] over their pixels in x [B, C, H, W]: [B, 1, H, W]."""
    grid = (x.shape[2] // p, x.shape[3] // p)
    return values.to(x.dtype).unflatten(1, grid).unsqueeze(1).repeat_interleave(p, 2).repeat_interleave(p, 3)


def image_facts(x: Tensor, p: int) -> dict[str, float]:
    """Fraction of flat patches in normalised images [B, C, H, W], and the standard deviation between images."""
    std = patchify(x, p).unflatten(-1, (p * p, x.shape[1])).std(-2).mean(-1)  # [B, N], within each channel
    differ = x.std(0).mean() if len(x) > 1 else x.std()
    return {"flat_patches": float((std < FLAT).float().mean()), "images_differ": float(differ)}

"""What guesses without a network would lose on the same images and masks: the scale that a loss is read on.

B images, C channels, N patches, H of them hidden in all, P = p * p * C
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .targets import patchify, pixels

MEAN, PLACE, NEIGHBOURS = "the patch's mean", "the average image there", "visible neighbours, interpolated"
ONE_DIRECTION = "one direction for all patches"  # of losses that compare features
SIGMAS = (0.5, 1.0, 2.0, 8.0)  # of the interpolation in patches: the narrowest that sees something visible is taken
SEES = 1e-3  # share of the weights that has to lie on visible pixels for that
FLAT = 0.02  # a patch of normalised pixels (their std is about 1) that varies less shows nothing: about 1 of 255 levels

Baselines = dict[str, dict[str, float]]  # name of a loss -> guess in words -> what it would lose


def pixel_guesses(x: Tensor, hidden: Tensor, p: int, norm_pix: bool) -> dict[str, float]:
    """Mean squared errors on the hidden patches of normalised images x [B, C, H, W]; `hidden` [B, N], 1 = hidden.

    With `norm_pix` every patch is standardised: its mean is 0, and what is interpolated is standardised too and scaled
    by the one number that fits best. Without, the "mean" is that of an image's visible pixels. The average image is
    the mean of all images' patches at the same place: what can be known without looking at an image at all.
    """
    places, truth = hidden.bool(), pixels(x, p, norm_pix)
    seen = enlarged(1 - hidden, x, p)
    mean = (x * seen).sum((2, 3), keepdim=True) / seen.sum((2, 3), keepdim=True).clamp_min(1)
    flat = 0 * truth if norm_pix else patchify(mean.expand_as(x), p)
    near = pixels(interpolated(x, hidden, p), p, norm_pix)
    u, flat, near = truth[places], flat[places], near[places]  # [H, P]
    scale = (u * near).sum() / near.square().sum().clamp_min(1e-12) if norm_pix else 1.0
    return {
        MEAN: float((u - flat).square().mean()),
        PLACE: about_places(truth, hidden),
        NEIGHBOURS: float((u - scale * near).square().mean()),
    }


def about_places(truth: Tensor, hidden: Tensor) -> float:
    """Variance of the hidden patches of `truth` [B, N, P] about their place's mean over all images, unbiased."""
    m = hidden.to(truth.dtype).unsqueeze(-1)  # [B, N, 1]
    n = m.sum(0)  # [N, 1] images that hide this place
    mean = (truth * m).sum(0) / n.clamp_min(1)
    squares = ((truth - mean).square() * m).sum(0) * n / (n - 1).clamp_min(1)  # [N, P]
    return float(squares.sum() / (n * (n > 1)).sum().clamp_min(1) / truth.shape[-1])


def interpolated(x: Tensor, hidden: Tensor, p: int) -> Tensor:
    """x [B, C, H, W] with every pixel a Gaussian-weighted mean of the visible ones around it."""
    seen = enlarged(1 - hidden, x, p)
    result, open_ = torch.zeros_like(x), torch.ones_like(seen)  # open_: no narrower one saw anything here
    for sigma in SIGMAS:
        weight = blurred(seen, sigma * p)
        enough = (weight > SEES).to(x.dtype) * open_
        result = result + enough * blurred(x * seen, sigma * p) / weight.clamp_min(1e-12)
        open_ = open_ - enough
    mean = (x * seen).sum((2, 3), keepdim=True) / seen.sum((2, 3), keepdim=True).clamp_min(1)
    return result + open_ * mean


def blurred(x: Tensor, sigma: float) -> Tensor:
    """[B, C, H, W] under a Gaussian of `sigma` pixels; beyond the border is nothing."""
    channels = x.shape[1]
    for axis in (2, 3):
        reach = min(math.ceil(4 * sigma), x.shape[axis] - 1)
        at = torch.arange(-reach, reach + 1, device=x.device, dtype=x.dtype)
        kernel = (-0.5 * (at / sigma).square()).exp()
        shape, padding = [1, 1, 1, 1], [0, 0]
        shape[axis], padding[axis - 2] = len(at), reach
        weights = (kernel / kernel.sum()).view(shape).expand(channels, 1, *shape[2:])
        x = F.conv2d(x, weights, padding=padding, groups=channels)
    return x


def enlarged(values: Tensor, x: Tensor, p: int) -> Tensor:
    """One value a patch [B, N] -> one a pixel of x [B, C, H, W]: [B, 1, H, W]."""
    grid = (x.shape[2] // p, x.shape[3] // p)
    return values.to(x.dtype).unflatten(1, grid).unsqueeze(1).repeat_interleave(p, 2).repeat_interleave(p, 3)


def image_facts(x: Tensor, p: int) -> dict[str, float]:
    """Of normalised images [B, C, H, W]: how many patches show nothing, and how much images differ from each other."""
    std = patchify(x, p).unflatten(-1, (p * p, x.shape[1])).std(-2).mean(-1)  # [B, N], within each channel
    differ = x.std(0).mean() if len(x) > 1 else x.std()
    return {"flat_patches": float((std < FLAT).float().mean()), "images_differ": float(differ)}

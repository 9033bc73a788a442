"""What methods show of images: hidden patches grey, reconstructions of pixels, attention as a heat map.

B images, C channels, N patches, P = p * p * C
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..nn.masking import Mask
from ..nn.positions import Grid
from ..nn.targets import patchify, unpatchify, unstandardise
from ..nn.vit import ViT

GREY = 0.5


def reconstruction(encoder: ViT, x: Tensor, x_hat: Tensor, mask: Mask, norm_pix: bool) -> dict[str, Tensor]:
    """Columns of a strip from normalised images x [B, C, H, W] and predictions x_hat [B, N, P] of them.

    Predictions of normalised pixels lack the brightness and contrast of their patch. They are shown twice: with the
    true mean and std of each patch, which flatters them, and unchanged.
    """
    p, grid = encoder.config.patch_size, encoder.grid(x)
    patches, hidden = patchify(x, p), mask.hidden.unsqueeze(-1)  # [B, N, P], [B, N, 1]

    def image(patches: Tensor) -> Tensor:
        return encoder.denormalise(unpatchify(patches, p, grid)).clamp(0, 1)

    grey = patchify(encoder.normalise(0 * x + GREY), p)
    columns = {"original": image(patches), "masked": image(patches * (1 - hidden) + grey * hidden)}
    if not norm_pix:
        return columns | {"reconstruction": image(patches * (1 - hidden) + x_hat * hidden)}
    back = unstandardise(x_hat, patches)
    columns["reconstruction (with each patch's true mean and std)"] = image(patches * (1 - hidden) + back * hidden)
    plain = unpatchify(x_hat * hidden, p, grid) * 0.2 + GREY
    columns["prediction as it is (no mean, no contrast)"] = plain.clamp(0, 1)
    return columns


def overlay(images: Tensor, attention: Tensor, grid: Grid) -> Tensor:
    """Overlay attention [B, N] on images [B, C, H, W] in [0, 1]: red where it is highest, blue where it is 0.

    Each row is scaled to its own highest value: even attention is red everywhere. In images without
    three channels the heat spans the image's own range, from dark to bright.
    """
    heat = attention.float() / attention.float().amax(1, keepdim=True).clamp_min(1e-30)
    heat = enlarge(heat, images, grid)  # [B, 1, H, W]
    if images.shape[1] == 3:
        colour = torch.cat([heat, 0 * heat, 1 - heat], dim=1)
    else:
        low, high = images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)
        colour = low + (high - low) * heat
    return (0.5 * images + 0.5 * colour).clamp(0, 1)


def masked(images: Tensor, hidden: Tensor, grid: Grid) -> Tensor:
    """Images [B, C, H, W] with hidden patches grey; `hidden` [B, N], 1 = hidden."""
    hidden = enlarge(hidden, images, grid)
    return (images * (1 - hidden) + GREY * hidden).clamp(0, 1)


def enlarge(values: Tensor, images: Tensor, grid: Grid) -> Tensor:
    """Repeat values of patches [B, N] over their pixels: [B, 1, H, W]."""
    return F.interpolate(values.unflatten(1, grid).unsqueeze(1), images.shape[2:], mode="nearest-exact")

"""Adapt trained weights to other images: their positions, patches and channels.

C channels, N patches, D width, p patch size
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..nn import positions
from ..nn.positions import Grid
from ..nn.vit import ViTConfig
from .convert import Metadata, count_blocks, image_size, normalisation

KERNEL, BIAS, TABLE = "patch_embed.proj.weight", "patch_embed.proj.bias", "pos_embed"


def encoder(
    tensors: Mapping[str, Tensor], metadata: Metadata, vit: ViTConfig
) -> tuple[dict[str, Tensor], Grid, list[str]]:
    """Adapt an encoder to the images of `vit`; also returns its old grid and a list of the changes.

    ValueError when nothing says what its grid is.
    """
    kernel, bias, changes = tensors[KERNEL], tensors[BIAS], []
    c, p = kernel.shape[1], kernel.shape[-1]
    grid = positions.grid_of(image_size(tensors, metadata), p)
    if c != vit.channels:
        mean, std = normalisation(c, metadata)
        kernel, bias, how = channels(kernel, bias, vit.channels, mean or (0.5,) * c, std or (0.5,) * c)
        changes.append(f"channels {c} -> {vit.channels} ({how})")
    if p != vit.patch_size:
        kernel = patch(kernel, vit.patch_size)
        changes.append(f"patches {p} -> {vit.patch_size} pixels (FlexiViT's pseudo-inverse of a bicubic resize)")
    if grid != vit.grid:
        changes.append(f"positions {grid[0]} x {grid[1]} -> {vit.grid[0]} x {vit.grid[1]} (bicubic)")
    table = positions.resize(tensors[TABLE], grid, vit.grid)
    return {**tensors, KERNEL: kernel, BIAS: bias, TABLE: table}, grid, changes


def decoder(
    tensors: Mapping[str, Tensor], own: Mapping[str, Tensor], grids: tuple[Grid, Grid], heads: tuple[int | None, int]
) -> tuple[dict[str, Tensor], str]:
    """Adapt a decoder to our `own`; returns nothing and the reason when it does not fit.

    All or nothing, but for the last layer: what it predicts depends on patches and channels. `grids` and `heads` are
    (the decoder's, ours).
    """
    sizes = (*_decoder_size(tensors), heads[0] or heads[1]), (*_decoder_size(own), heads[1])
    if sizes[0] != sizes[1]:
        return {}, "there {} wide, {} blocks, {} heads; here {}, {}, {}".format(*sizes[0], *sizes[1])
    adapted = {**tensors}
    if TABLE in tensors and tensors[TABLE].shape[1] == 1 + grids[0][0] * grids[0][1]:
        adapted[TABLE] = positions.resize(tensors[TABLE], *grids)
    for name, t in own.items():
        if not name.startswith("pred.") and (name not in adapted or adapted[name].shape != t.shape):
            return {}, f"{name} does not fit"
    return adapted, ""


def _decoder_size(tensors: Mapping[str, Tensor]) -> tuple[int, int]:
    """Width and number of blocks."""
    return tensors["embed.weight"].shape[0], count_blocks(tensors)


def patch(kernel: Tensor, size: int) -> Tensor:
    """Resize kernels [D, C, p, p] to [D, C, size, size] so that a resized patch gives what the patch gave.

    Beyer et al. 2023 (FlexiViT), section 3.4: w' = pinv(B^T) w, where B resizes patches. Exact for larger patches, the
    nearest in the mean over white noise for smaller ones. Resizing w itself would change the size of what comes out.
    """
    from timm.layers import resample_patch_embed  # timm takes seconds to import

    return resample_patch_embed(kernel, [size, size])


def channels(
    kernel: Tensor, bias: Tensor, target: int, mean: Sequence[float], std: Sequence[float]
) -> tuple[Tensor, Tensor, str]:
    """Adapt kernels [D, C, p, p] and biases [D] to `target` channels; also returns in words how.

    To one channel: the grey image takes the place of every channel, and what the channels' own means and deviations
    made of it goes into the weights; the result is exact for grey images normalised with the averages of both. To
    more: the channels are repeated in turn and scaled by C / target, as timm does, so that copies of one channel give
    what that channel gave.
    """
    c = kernel.shape[1]
    if target == 1:
        m, s = torch.tensor(mean).to(kernel), torch.tensor(std).to(kernel)
        scaled = kernel / s.view(-1, 1, 1)
        bias = bias + ((m.mean() - m).view(-1, 1, 1) * scaled).sum((1, 2, 3))
        return (scaled * s.mean()).sum(1, keepdim=True), bias, "summed: a grey image in the place of all of them"
    turn = torch.arange(target) % c
    how = f"repeated in turn, x {c}/{target}" if target > c else f"the first {target}, x {c}/{target}"
    return kernel[:, turn] * (c / target), bias, how

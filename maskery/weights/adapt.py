"""Trained weights for other images: positions, patches and channels adapted.

C channels, N patches, D width, p patch size
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..nn import positions
from ..nn.positions import Grid
from ..nn.vit import ViTConfig
from .convert import Facts, image_size, normalisation

KERNEL, BIAS, TABLE = "patch_embed.proj.weight", "patch_embed.proj.bias", "pos_embed"


def encoder(state: Mapping[str, Tensor], facts: Facts, to: ViTConfig) -> tuple[dict[str, Tensor], Grid, list[str]]:
    """The tensors of an encoder for the images of `to`, its own grid, and in words what was changed.

    ValueError when nothing says what its grid is.
    """
    kernel, bias, changed = state[KERNEL], state[BIAS], []
    c, p = kernel.shape[1], kernel.shape[-1]
    grid = positions.grid_of(image_size(state, facts), p)
    if c != to.channels:
        mean, std = normalisation(c, facts)
        kernel, bias, how = channels(kernel, bias, to.channels, mean or (0.5,) * c, std or (0.5,) * c)
        changed.append(f"channels {c} -> {to.channels} ({how})")
    if p != to.patch_size:
        kernel = patch(kernel, to.patch_size)
        changed.append(f"patches {p} -> {to.patch_size} pixels (FlexiViT's pseudo-inverse of a bicubic resize)")
    if grid != to.grid:
        changed.append(f"positions {grid[0]} x {grid[1]} -> {to.grid[0]} x {to.grid[1]} (bicubic)")
    table = positions.resize(state[TABLE], grid, to.grid)
    return {**state, KERNEL: kernel, BIAS: bias, TABLE: table}, grid, changed


def decoder(
    theirs: Mapping[str, Tensor], own: Mapping[str, Tensor], old: Grid, new: Grid, heads: tuple[int | None, int]
) -> tuple[dict[str, Tensor], str]:
    """What of their decoder fits into ours, and why not when nothing does; `heads` are theirs, where known, and ours.

    All or nothing, but for the last layer: what it predicts depends on patches and channels.
    """
    there, here = (*_decoder_size(theirs), heads[0] or heads[1]), (*_decoder_size(own), heads[1])
    if there != here:
        return {}, "there {} wide, {} blocks, {} heads; here {}, {}, {}".format(*there, *here)
    taken = {**theirs}
    if TABLE in theirs and theirs[TABLE].shape[1] == 1 + old[0] * old[1]:
        taken[TABLE] = positions.resize(theirs[TABLE], old, new)
    for name, t in own.items():
        if not name.startswith("pred.") and (name not in taken or taken[name].shape != t.shape):
            return {}, f"{name} does not fit"
    return taken, ""


def _decoder_size(state: Mapping[str, Tensor]) -> tuple[int, int]:
    """Width and number of blocks."""
    return state["embed.weight"].shape[0], len({name.split(".")[1] for name in state if name.startswith("blocks.")})


def patch(kernel: Tensor, size: int) -> Tensor:
    """Kernels [D, C, p, p] -> [D, C, size, size] that see in a resized patch what the old ones saw in the patch.

    Beyer et al. 2023 (FlexiViT), section 3.4: w' = pinv(B^T) w, where B resizes patches. Exact for larger patches, the
    nearest in the mean over white noise for smaller ones. Resizing w itself would change the size of what comes out.
    """
    from timm.layers import resample_patch_embed  # timm takes seconds to import

    return resample_patch_embed(kernel, [size, size])


def channels(
    kernel: Tensor, bias: Tensor, wanted: int, mean: Sequence[float], std: Sequence[float]
) -> tuple[Tensor, Tensor, str]:
    """Kernels [D, C, p, p] and biases [D] for `wanted` channels, and in words how.

    To one channel: the grey image takes the place of every channel, and what the channels' own means and deviations
    made of it goes into the weights; the result is exact for grey images normalised with the averages of both. To
    more: the channels are repeated in turn and scaled by C / wanted, as timm does, so that copies of one channel give
    what that channel gave.
    """
    c = kernel.shape[1]
    if wanted == 1:
        m, s = torch.tensor(mean).to(kernel), torch.tensor(std).to(kernel)
        per = kernel / s.view(-1, 1, 1)
        bias = bias + ((m.mean() - m).view(-1, 1, 1) * per).sum((1, 2, 3))
        return (per * s.mean()).sum(1, keepdim=True), bias, "summed: a grey image in the place of all of them"
    turn = torch.arange(wanted) % c
    how = f"repeated in turn, x {c}/{wanted}" if wanted > c else f"the first {wanted}, x {c}/{wanted}"
    return kernel[:, turn] * (c / wanted), bias, how

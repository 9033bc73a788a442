"""Pixel targets of a decoder, and their inverse for pictures.

B batch, C channels, N patches, A of them, p patch size, P = p * p * C
"""

import torch.nn.functional as F
from torch import Tensor

from .masking import take
from .positions import Grid


def patchify(x: Tensor, p: int) -> Tensor:
    """[B, C, H, W] -> [B, N, P]; patches row by row, inside a patch (row, column, channel), channel fastest (MAE)."""
    x = x.unflatten(3, (-1, p)).unflatten(2, (-1, p))  # [B, C, rows, p, columns, p]
    return x.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


def unpatchify(patches: Tensor, p: int, grid: Grid) -> Tensor:
    """The inverse of `patchify`: [B, N, P] -> [B, C, H, W]."""
    x = patches.unflatten(1, grid).unflatten(3, (p, p, -1))  # [B, rows, columns, p, p, C]
    return x.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)


def standardise(patches: Tensor, eps: float = 1e-6) -> Tensor:
    """Each patch with zero mean and unit unbiased variance, `eps` added to the variance: MAE's normalised pixels."""
    n = patches.shape[-1]
    c = n / (n - 1)  # unbiased variance by LayerNorm's; one pass of its kernel, where mean and var take several
    return F.layer_norm(patches, (n,), eps=eps / c) * c**-0.5


def pixels(x: Tensor, p: int, norm: bool, places: Tensor | None = None) -> Tensor:
    """MAE's targets for normalised images [B, C, H, W]: their patches [B, N, P], standardised if `norm`.

    `places` [B, A]: of these patches only, [B, A, P].
    """
    patches = patchify(x, p) if places is None else take(patchify(x, p), places)
    return standardise(patches) if norm else patches


def unstandardise(prediction: Tensor, patches: Tensor, eps: float = 1e-6) -> Tensor:
    """Undo `standardise` for predictions, with mean and standard deviation of the true `patches` [B, N, P].

    The network does not know these: a picture drawn this way has to say so.
    """
    mean, var = patches.mean(-1, keepdim=True), patches.var(-1, keepdim=True)
    return prediction * (var + eps).sqrt() + mean

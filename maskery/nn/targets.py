"""What a decoder has to predict, and the way back to pictures.

B batch, C channels, N patches, p patch size, P = p * p * C
"""

from torch import Tensor

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
    mean, var = patches.mean(-1, keepdim=True), patches.var(-1, keepdim=True)
    return (patches - mean) / (var + eps).sqrt()


def pixels(x: Tensor, p: int, norm: bool) -> Tensor:
    """What MAE predicts of normalised images [B, C, H, W]: their patches [B, N, P], standardised if `norm`."""
    patches = patchify(x, p)
    return standardise(patches) if norm else patches


def unstandardise(prediction: Tensor, patches: Tensor, eps: float = 1e-6) -> Tensor:
    """Predictions of normalised pixels, put back with the mean and spread of the true `patches` [B, N, P].

    That is knowledge the network did not have: a picture made like this has to say so.
    """
    mean, var = patches.mean(-1, keepdim=True), patches.var(-1, keepdim=True)
    return prediction * (var + eps).sqrt() + mean

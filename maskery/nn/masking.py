"""Masks: which patches the encoder sees.

A masking strategy scores the patches of every image, [B, N]; `hide_highest` turns scores into a `Mask`. Patch indices
do not count the class token.

B batch, N patches, K visible patches, D width
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Mask(NamedTuple):
    """K of N patches stay visible, the same number in every image."""

    hidden: Tensor  # [B, N] float, 1 = hidden
    keep: Tensor  # [B, K] indices of the visible patches, lowest score first
    restore: Tensor  # [B, N] where patch n sits in the order [visible, hidden]


def visible_count(n: int, ratio: float) -> int:
    """K, the number of visible ones of `n` patches. ValueError when `ratio` would hide all of them or none.

    K = N (1 - ratio) rounded down as in MAE's reference code, but safe against 100 (1 - 0.8) = 19.999...
    """
    k = int(n * (1 - ratio) + 1e-6)
    if not 0 < k < n:
        low, high = 1 / n, 1 - 1 / n
        raise ValueError(
            f"mask ratio {ratio:g} leaves {min(max(k, 0), n)} of {n} patches visible; "
            f"between {low:.3g} and {high:.3g} some are hidden and some are visible"
        )
    return k


def hide_highest(scores: Tensor, ratio: float) -> Mask:
    """Hide the fraction `ratio` of patches with the highest scores [B, N]."""
    k = visible_count(scores.shape[1], ratio)
    order = scores.argsort(dim=1)
    restore = order.argsort(dim=1)
    return Mask((restore >= k).float(), order[:, :k], restore)


def random_scores(b: int, n: int, device: torch.device) -> Tensor:
    """Uniform scores [B, N]: MAE's random masking."""
    return torch.rand(b, n, device=device)


def hidden_places(mask: Mask) -> Tensor:
    """Indices of the hidden patches, lowest score first: [B, N - K]."""
    n, k = mask.restore.shape[1], mask.keep.shape[1]
    places = torch.arange(n, device=mask.restore.device).expand_as(mask.restore)
    return torch.empty_like(mask.restore).scatter_(1, mask.restore, places)[:, k:]  # the inverse, without sorting


def take(x: Tensor, index: Tensor) -> Tensor:
    """x[b, index[b]]: [B, N, D], [B, K] -> [B, K, D]."""
    return x.gather(1, index.unsqueeze(-1).expand(-1, -1, x.shape[-1]))


def hidden_mean(values: Tensor, mask: Mask) -> Tensor:
    """Mean of `values` [B, N] over the hidden patches, a scalar; 0 when no patch is hidden."""
    return (values * mask.hidden).sum() / mask.hidden.sum().clamp_min(1)

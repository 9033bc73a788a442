"""Whether two libraries compute the same, on images that are the same every time.

B images, C channels, N patches, D width
"""

import torch
from torch import Tensor

from ..nn.vit import ViT


def images_for(encoder: ViT, count: int = 2, size: tuple[int, int] | None = None) -> Tensor:
    """[B, C, H, W] in [0, 1]."""
    shape = (count, encoder.config.channels, *(size or encoder.config.image_size))
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def tokens_of(encoder: ViT, images: Tensor) -> Tensor:
    """Ours, class token first: [B, 1 + N, D]."""
    class_token, patches = encoder.eval()(images)
    return torch.cat([class_token[:, None], patches], dim=1)


def difference(ours: Tensor, theirs: Tensor) -> float:
    """The largest, relative to the largest value; infinite when the shapes differ or something is not finite."""
    if ours.shape != theirs.shape or not theirs.isfinite().all():
        return float("inf")
    return float((ours - theirs).abs().max() / ours.abs().max())


def refuse_above(tolerance: float, found: float, what: str) -> None:
    """ValueError when they differ by more."""
    if not found <= tolerance:
        raise ValueError(f"{what} differ by {found:.1e}, more than {tolerance:.0e}: nothing was written")

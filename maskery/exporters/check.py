"""Compare two libraries on images that are the same every time.

B images, C channels, N patches, D width
"""

from collections.abc import Callable

import torch
from torch import Tensor

from ..nn.vit import ViT
from .model import ExportModel

TOLERANCE = 1e-5


def check_outputs(
    model: ExportModel, outputs: Callable[[Tensor], Tensor], library: str, tolerance: float = TOLERANCE
) -> float:
    """Compare another library's outputs for a batch with ours; returns the difference. ValueError when it is large."""
    images = sample_images(model.encoder)
    with torch.no_grad():
        value = difference(model.outputs(images), outputs(images))
    check_difference(value, tolerance, f"{library} {model.output_name}")
    return value


def sample_images(encoder: ViT, count: int = 2, size: tuple[int, int] | None = None) -> Tensor:
    """[B, C, H, W] in [0, 1]."""
    shape = (count, encoder.config.channels, *(size or encoder.config.image_size))
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def difference(expected: Tensor, actual: Tensor) -> float:
    """The largest difference, relative to the largest value; infinite for other shapes and for NaN."""
    if expected.shape != actual.shape or not actual.isfinite().all():
        return float("inf")
    return float((expected - actual).abs().max() / expected.abs().max())


def check_difference(value: float, tolerance: float, outputs: str) -> None:
    """Raise ValueError for a difference above the tolerance."""
    if not value <= tolerance:
        raise ValueError(f"{outputs} differ by {value:.1e}, more than {tolerance:.0e}: nothing was written")

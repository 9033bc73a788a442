"""What a classifier answers on many images, and how often it is right. Deterministic, from the centre of each image.

n images, M classes
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..data.dataset import Data
from ..data.loader import Skips, centred
from ..data.views import to_float
from .metrics import multilabel, refuse_nan, scores

Classify = Callable[[Tensor], Tensor]  # images [B, C, h, w] in [0, 1] on the device -> logits [B, M], or [B, L, M]


@dataclass(frozen=True)
class Answers:
    """The answers for the images that could be read."""

    logits: Tensor  # [n, M], or [n, L, M] of L heads; float32, CPU
    indices: np.ndarray  # [n] which images of the source
    skipped: Skips


@torch.no_grad()
def answers(
    classify: Classify,
    data: Data,
    indices: np.ndarray,
    size: tuple[int, int],
    device: torch.device,
    *,
    share: float = 1.0,
    precision: torch.dtype = torch.float32,
    workers: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Answers:
    """Logits of the centre crops of `indices`; `share` of the resized image is what the crop keeps.

    ValueError when none can be read, and for NaN.
    """
    found, read, skipped, done = [], [], [], 0
    batch = 256 if device.type == "cuda" else 64
    for part in centred(data.images, indices, size, batch, workers, device, share=share):
        skipped += part["skipped"]
        done += len(part["indices"]) + len(part["skipped"])
        if part["images"] is not None:
            with torch.autocast(device.type, precision, enabled=precision != torch.float32):
                found.append(classify(to_float(part["images"], device)).float().cpu())
            read.append(part["indices"])
        if progress:
            progress(done, len(indices))
    if not read:
        raise ValueError(f"{data.images.source.where}: none of the {len(indices)} images can be read")
    every, names = np.concatenate(read), data.images.source.names
    logits = torch.cat(found)
    refuse_nan(logits, "logits", lambda i: str(names[int(every[i])]))
    return Answers(logits, every, skipped)


def truth(data: Data, indices: np.ndarray) -> Tensor:
    """Class numbers [n], or 0 and 1 [n, M] with several labels an image."""
    if data.tags is not None:
        return torch.from_numpy(data.tags[indices].astype(np.int64))
    assert data.labels is not None
    return torch.from_numpy(data.labels[indices])


def numbers(logits: Tensor, truth: Tensor) -> dict[str, float]:
    """Top-1, top-5, balanced accuracy, calibration error; mAP with several labels an image."""
    return multilabel(logits, truth)[0] if truth.ndim == 2 else scores(logits, truth)


def headline(several: bool) -> str:
    """The number that a classifier is judged by."""
    return "map" if several else "top1"

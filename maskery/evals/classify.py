"""What a classifier answers on many images, and how often it is right. Deterministic, from the centre of each image.

n images, M classes
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..data.crops import CenterCrop
from ..data.dataset import ImageData
from ..data.eval_dataset import EvalDataset
from ..data.images import Skips
from ..data.loader import eval_batches
from ..data.views import to_float
from .metrics import check_finite, multilabel, scores

Classify = Callable[[Tensor], Tensor]  # images [B, C, h, w] in [0, 1] on the device -> logits [B, M], or [B, L, M]


@dataclass(frozen=True)
class Answers:
    """The answers for the images that could be read."""

    logits: Tensor  # [n, M], or [n, L, M] of L heads; float32, CPU
    indices: np.ndarray  # [n] which images of the source
    skipped: Skips


def answers(
    classify: Classify,
    data: ImageData,
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
    found = list(
        streamed(
            classify,
            data,
            indices,
            size,
            device,
            share=share,
            precision=precision,
            workers=workers,
            progress=progress,
        )
    )
    skipped = [skip for part in found for skip in part.skipped]
    if len(skipped) == len(indices):
        raise ValueError(f"{data.images.source.where}: none of the {len(indices)} images can be read")
    read = [part for part in found if len(part.indices)]
    return Answers(torch.cat([p.logits for p in read]), np.concatenate([p.indices for p in read]), skipped)


def streamed(
    classify: Classify,
    data: ImageData,
    indices: np.ndarray,
    size: tuple[int, int],
    device: torch.device,
    *,
    share: float = 1.0,
    precision: torch.dtype = torch.float32,
    workers: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[Answers]:
    """As `answers`, batch by batch; of a batch of which nothing can be read there are no logits."""
    batch, done, names = 256 if device.type == "cuda" else 64, 0, data.images.source.names
    dataset = EvalDataset(data.images, indices, CenterCrop(size, share), batch, device)
    for part in eval_batches(dataset, workers):
        every, logits = part["indices"], torch.empty(0)
        done += len(every) + len(part["skipped"])
        if part["images"] is not None:
            with torch.no_grad(), torch.autocast(device.type, precision, enabled=precision != torch.float32):
                logits = classify(to_float(part["images"], device)).float().cpu()
            check_finite(logits, "logits", lambda i, every=every: str(names[int(every[i])]))
        yield Answers(logits, every, part["skipped"])
        if progress:
            progress(done, len(indices))


def truth(data: ImageData, indices: np.ndarray) -> Tensor:
    """Class numbers [n], or 0 and 1 [n, M] with several labels an image."""
    if data.multi_hot is not None:
        return torch.from_numpy(data.multi_hot[indices].astype(np.int64))
    assert data.labels is not None
    return torch.from_numpy(data.labels[indices])


def numbers(logits: Tensor, truth: Tensor) -> dict[str, float]:
    """Top-1, top-5, balanced accuracy, calibration error; mAP with several labels an image."""
    return multilabel(logits, truth)[0] if truth.ndim == 2 else scores(logits, truth)


def headline(several: bool) -> str:
    """The number that a classifier is judged by."""
    return "map" if several else "top1"

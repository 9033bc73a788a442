"""A classifier's logits for many images, from the centre of each, and its metrics.

n images, M classes
"""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from ..data.dataset import ImageData
from ..data.views import to_float
from .eval_pass import EvalPass
from .metrics import check_finite, multilabel, scores

Classify = Callable[[Tensor], Tensor]  # images [B, C, h, w] in [0, 1] on the device -> logits [B, M], or [B, L, M]


def image_logits(classify: Classify, crops: EvalPass) -> Tensor:
    """Classify all images: [n, M], or [n, L, M] of L heads, float32, CPU. ValueError when none can be read, for NaN."""
    return torch.cat([part for _, part in logit_batches(classify, crops)])


def logit_batches(classify: Classify, crops: EvalPass) -> Iterator[tuple[np.ndarray, Tensor]]:
    """Yield (images of the source, logits) batch by batch."""
    names, options = crops.dataset.images.source.names, crops.options
    for part in crops:
        indices = part["indices"]
        with torch.no_grad(), options.autocast():
            logits = classify(to_float(part["images"], options.device)).float().cpu()
        check_finite(logits, "logits", lambda i, indices=indices: str(names[int(indices[i])]))
        yield indices, logits


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
    """Name of the number that a classifier is judged by."""
    return "map" if several else "top1"

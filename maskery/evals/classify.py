"""A classifier's logits for many images, from the centre of each, and its metrics.

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
from ..data.images import Images, Skips
from ..data.views import to_float
from .eval_pass import EvalPass
from .inference_options import InferenceOptions
from .metrics import check_finite, multilabel, scores

Classify = Callable[[Tensor], Tensor]  # images [B, C, h, w] in [0, 1] on the device -> logits [B, M], or [B, L, M]


@dataclass(frozen=True)
class ImageLogits:
    """Logits of the images that could be read."""

    logits: Tensor  # [n, M], or [n, L, M] of L heads; float32, CPU
    indices: np.ndarray  # [n] which images of the source
    skipped: Skips


def center_crops(images: Images, indices: np.ndarray, crop: CenterCrop, options: InferenceOptions) -> EvalPass:
    return EvalPass(EvalDataset(images, indices, crop, options.batch(256, 64), options.device), options)


@torch.no_grad()
def image_logits(classify: Classify, crops: EvalPass) -> ImageLogits:
    """Classify all images. ValueError when none can be read, and for NaN."""
    logits = torch.cat([part for _, part in logit_batches(classify, crops)])
    return ImageLogits(logits, crops.indices, crops.skipped)


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

"""A segmenter's classes of all pixels of whole images, and its metrics. Deterministic.

M classes, C channels, h x w the network's input, h' x w' the image as it is shown, H x W as it is
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.crops import WholeImage
from ..data.eval_dataset import EvalDataset
from ..data.images import Images, Skips
from ..data.mask_targets import CoveringImage, full_mask
from ..data.masks import VOID, LabelMap
from ..data.views import to_float
from .eval_pass import EvalPass
from .inference_options import InferenceOptions
from .metrics import check_finite

Inference = Literal["slide", "whole"]
Segment = Callable[[Tensor], Tensor]  # images [B, C, h, w] in [0, 1] on the device -> logits [B, M, h, w]
Show = Callable[[int, Tensor, Tensor], None]  # image of the source, prediction and truth [H, W]
BATCH = 8  # images
CLASSES_AT_ONCE = 16  # whose logits are enlarged together: an image of 20 megapixels has 150 times 80 MB of them


@dataclass(frozen=True)
class PixelConfusion:
    """Pixels of class (row) that were taken for class (column), over the images that could be read."""

    matrix: Tensor  # [M, M] int64
    indices: np.ndarray  # [n] which images of the source
    skipped: Skips


def images_with_masks(
    images: Images,
    indices: np.ndarray,
    size: tuple[int, int],
    label_map: LabelMap,
    inference: Inference,
    options: InferenceOptions,
) -> EvalPass:
    """Open images for inference. slide: scaled until they cover `size`; whole: resized to it, aspect ratio or not."""
    crop = CoveringImage(size) if inference == "slide" else WholeImage(size)
    return EvalPass(
        EvalDataset(images, indices, crop, BATCH, target=partial(full_mask, images.source, label_map)), options
    )


@torch.no_grad()
def segment_images(segment: Segment, images: EvalPass, classes: int, show: Show | None = None) -> PixelConfusion:
    """Predict every pixel of the images, at their own size; void pixels are left out.

    Logits are averaged over windows of the network's input that overlap by a third, then enlarged to the image's size.
    ValueError when no image can be read, and for NaN.
    """
    matrix = torch.zeros(classes * classes, dtype=torch.int64)
    names = images.dataset.images.source.names
    for part in images:
        averages = window_averages(segment, part["images"], images.dataset.crop.size, images.options)
        for i, mask, logits in zip(part["indices"].tolist(), part["targets"], averages, strict=True):
            check_finite(logits[None], "logits", lambda _, i=i: str(names[i]))
            predicted, truth = pixel_classes(logits, tuple(mask.shape)).cpu(), mask.long()
            labelled = truth != VOID
            matrix += torch.bincount(truth[labelled] * classes + predicted[labelled], minlength=classes * classes)
            if show:
                show(i, predicted, truth)
    return PixelConfusion(matrix.view(classes, classes), images.indices, images.skipped)


def window_averages(
    segment: Segment, images: Sequence[Tensor], size: tuple[int, int], options: InferenceOptions
) -> Iterator[Tensor]:
    """Logits [M, h', w'] of each image [C, h', w'], averaged over its windows."""
    boxes = [(k, top, left) for k, image in enumerate(images) for top, left in windows(image.shape[1:], size)]
    total: Tensor | None = None
    count, logits_of = torch.empty(0), _window_logits(segment, images, boxes, size, options)
    for i, (k, top, left) in enumerate(boxes):
        logits = next(logits_of)
        if total is None:
            total = logits.new_zeros(len(logits), *images[k].shape[1:])
            count = logits.new_zeros(images[k].shape[1:])
        total[:, top : top + size[0], left : left + size[1]] += logits
        count[top : top + size[0], left : left + size[1]] += 1
        if i + 1 == len(boxes) or boxes[i + 1][0] != k:
            yield total.div_(count)
            total = None


def _window_logits(
    segment: Segment,
    images: Sequence[Tensor],
    boxes: Sequence[tuple[int, int, int]],
    size: tuple[int, int],
    options: InferenceOptions,
) -> Iterator[Tensor]:
    """Logits [M, h, w] of every window, as many at once as make sense."""
    most = options.batch(cuda=16, cpu=4)
    for start in range(0, len(boxes), most):
        part = boxes[start : start + most]
        cut = [images[k][:, top : top + size[0], left : left + size[1]] for k, top, left in part]
        with options.autocast():
            logits = segment(to_float(torch.stack(cut), options.device))
        yield from logits.float()


def windows(image: Sequence[int], size: tuple[int, int]) -> list[tuple[int, int]]:
    """(top, left) of windows of `size` that cover an image of at least that: two thirds apart, the last at the edge."""
    lines = []
    for length, window in zip(image, size, strict=True):
        stride = max(1, window * 2 // 3)
        steps = math.ceil((length - window) / stride)
        lines.append([min(i * stride, length - window) for i in range(steps + 1)])
    return [(top, left) for top in lines[0] for left in lines[1]]


def pixel_classes(logits: Tensor, size: tuple[int, ...]) -> Tensor:
    """Logits [M, h', w'] -> the class of every pixel at `size`, [H, W]: enlarged, then the first of the highest."""
    best: Tensor | None = None
    label = torch.zeros(size, dtype=torch.int64, device=logits.device)
    for start in range(0, len(logits), CLASSES_AT_ONCE):
        part = logits[start : start + CLASSES_AT_ONCE]
        if part.shape[1:] != size:
            part = F.interpolate(part[None], size, mode="bilinear", align_corners=False)[0]
        value, which = part.max(0)
        if best is None:
            best, label = value, which
        else:
            better = value > best
            best, label = torch.where(better, value, best), torch.where(better, which + start, label)
    return label


def iou(matrix: Tensor) -> Tensor:
    """[M] float64: pixels that are of a class and taken for it, of those that are either; NaN where none is."""
    right = matrix.diagonal().double()
    return right / (matrix.sum(0) + matrix.sum(1) - right)


def numbers(matrix: Tensor) -> dict[str, float]:
    """Mean IoU, pixel accuracy, mean class accuracy, as mmsegmentation counts them: a class that is nowhere, neither in
    the truth nor in the answers, is left out of the means. ValueError when all pixels are void."""
    support = matrix.sum(1)
    if not int(support.sum()):
        raise ValueError("all pixels of these masks are void: there is nothing to measure")
    right = matrix.diagonal().double()
    return {
        "miou": float(iou(matrix).nanmean()),
        "pixel_accuracy": float(right.sum() / support.sum()),
        "mean_accuracy": float((right / support).nanmean()),
    }


def class_rows(matrix: Tensor, classes: Sequence[str]) -> list[dict[str, str | float | None]]:
    """One row a class for a file; None where a number is not defined."""
    columns = iou(matrix), matrix.diagonal().double() / matrix.sum(1)
    defined = ([None if math.isnan(v) else v for v in values.tolist()] for values in columns)
    fractions = (matrix.sum(1).double() / matrix.sum()).tolist()
    rows = zip(classes, *defined, fractions, strict=True)
    return [{"class": c, "iou": i, "accuracy": a, "share_of_pixels": s} for c, i, a, s in rows]

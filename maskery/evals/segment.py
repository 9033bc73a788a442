"""A segmenter's classes of all pixels of whole images, and its metrics. Deterministic.

M classes, C channels, h x w the network's input, h' x w' the image as it is shown, H x W as it is
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.crops import WholeImage
from ..data.eval_dataset import EvalDataset
from ..data.images import Images
from ..data.mask_targets import CoveringImage, full_mask
from ..data.masks import VOID, LabelMap
from ..data.views import to_float
from . import metrics
from .eval_pass import EvalPass, InferenceOptions

Inference = Literal["slide", "whole"]
Segment = Callable[[Tensor], Tensor]  # images [B, C, h, w] in [0, 1] on the device -> logits [B, M, h, w]
Show = Callable[[int, Tensor, Tensor], None]  # image of the source, prediction and truth [H, W]
BATCH = 8  # images
CLASSES_AT_ONCE = 16  # whose logits are enlarged together: an image of 20 megapixels has 150 times 80 MB of them


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
    target = partial(full_mask, images.source, label_map)
    return EvalPass(EvalDataset(images, indices, crop, BATCH, target=target), options)


@torch.no_grad()
def segment_images(segment: Segment, images: EvalPass, classes: int, show: Show | None = None) -> Tensor:
    """Pixels of class (row) taken for class (column), [M, M] int64, at the images' own size, void ones left out.

    Logits are averaged over windows of the network's input that overlap by a third, then enlarged to the image's size.
    ValueError when no image can be read, and for NaN.
    """
    matrix = torch.zeros(classes, classes, dtype=torch.int64)
    names = images.dataset.images.source.names
    for part in images:
        averages = window_averages(segment, part["images"], images.dataset.crop.size, classes, images.options)
        for i, mask, logits in zip(part["indices"].tolist(), part["targets"], averages, strict=True):
            metrics.check_finite(logits[None], "logits", lambda _, i=i: str(names[i]))
            predicted, truth = pixel_classes(logits, tuple(mask.shape)).cpu(), mask.long()
            labelled = truth != VOID
            matrix += metrics.confusion(predicted[labelled], truth[labelled], classes)
            if show:
                show(i, predicted, truth)
    return matrix


def window_averages(
    segment: Segment, images: Sequence[Tensor], size: tuple[int, int], classes: int, options: InferenceOptions
) -> Iterator[Tensor]:
    """Logits [M, h', w'] of each image [C, h', w'], averaged over its windows."""
    places = [[np.s_[..., y : y + size[0], x : x + size[1]] for y, x in windows(i.shape[1:], size)] for i in images]
    cut = (image[place] for image, own in zip(images, places, strict=True) for place in own)
    logits_of = _window_logits(segment, cut, options)
    for image, own in zip(images, places, strict=True):
        total = torch.zeros(classes, *image.shape[1:], device=options.device)
        count = torch.zeros(image.shape[1:], device=options.device)
        for place, logits in zip(own, logits_of, strict=False):
            total[place] += logits
            count[place] += 1
        yield total.div_(count)


def _window_logits(segment: Segment, cut: Iterator[Tensor], options: InferenceOptions) -> Iterator[Tensor]:
    """Logits [M, h, w] of every window, as many at once as make sense."""
    while part := [*itertools.islice(cut, options.batch(cuda=16, cpu=4))]:
        with options.autocast():
            logits = segment(to_float(torch.stack(part), options.device))
        yield from logits.float()


def windows(image: Sequence[int], size: tuple[int, int]) -> list[tuple[int, int]]:
    """(top, left) of windows of `size` that cover an image of at least that: two thirds apart, the last at the edge."""
    lines = []
    for length, window in zip(image, size, strict=True):
        stride = max(1, window * 2 // 3)
        steps = math.ceil((length - window) / stride)
        lines.append([min(i * stride, length - window) for i in range(steps + 1)])
    return [*itertools.product(*lines)]


def pixel_classes(logits: Tensor, size: tuple[int, ...]) -> Tensor:
    """Logits [M, h', w'] -> the class of every pixel at `size`, [H, W]: enlarged, then the first of the highest."""
    best = logits.new_full(size, -math.inf)
    label = torch.zeros(size, dtype=torch.int64, device=logits.device)
    for start in range(0, len(logits), CLASSES_AT_ONCE):
        part = logits[start : start + CLASSES_AT_ONCE]
        if part.shape[1:] != size:
            part = F.interpolate(part[None], size, mode="bilinear", align_corners=False)[0]
        value, which = part.max(0)
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
    return {
        "miou": float(iou(matrix).nanmean()),
        "pixel_accuracy": float(matrix.diagonal().double().sum() / support.sum()),
        "mean_accuracy": metrics.balanced_accuracy(matrix),
    }


def class_rows(matrix: Tensor, classes: Sequence[str]) -> list[dict[str, Any]]:
    """One row a class for a file; None where a number is not defined."""
    fractions = matrix.sum(1).double() / matrix.sum()
    columns = {"iou": iou(matrix), "accuracy": metrics.per_class(matrix)["recall"], "share_of_pixels": fractions}
    return metrics.class_rows(columns, classes)

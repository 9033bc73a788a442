"""What a segmenter answers for whole images, and how often it is right. Deterministic.

M classes, C channels, h x w the network's input, h' x w' the image as it is shown, H x W as it is
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.crops import WholeImage
from ..data.dataset import ImageData
from ..data.eval_dataset import EvalDataset
from ..data.images import Skips
from ..data.loader import eval_batches
from ..data.mask_targets import CoveringImage, MaskOf
from ..data.masks import VOID, LabelMap
from ..data.views import to_float
from .metrics import check_finite

Inference = Literal["slide", "whole"]
Segment = Callable[[Tensor], Tensor]  # images [B, C, h, w] in [0, 1] on the device -> logits [B, M, h, w]
BATCH = 8  # images
AT_ONCE = {"cuda": 16}  # windows; 4 elsewhere
CLASSES_AT_ONCE = 16  # whose logits are enlarged together: an image of 20 megapixels has 150 times 80 MB of them


@dataclass(frozen=True)
class Found:
    """How often a pixel of class (row) was taken for class (column), over the images that could be read."""

    matrix: Tensor  # [M, M] int64
    indices: np.ndarray  # [n] which images of the source
    skipped: Skips


@torch.no_grad()
def segmented(
    segment: Segment,
    data: ImageData,
    indices: np.ndarray,
    size: tuple[int, int],
    label_map: LabelMap,
    device: torch.device,
    *,
    inference: Inference = "slide",
    precision: torch.dtype = torch.float32,
    workers: int = 0,
    progress: Callable[[int, int], None] | None = None,
    each: Callable[[int, Tensor, Tensor], None] | None = None,
) -> Found:
    """Ask about every image, at its own size.

    slide: the image, scaled until it covers the network's input, in windows that overlap by a third; their logits are
    averaged. whole: the image at the network's input, whatever that does to its aspect ratio. Both are enlarged to the
    image's size, void pixels are left out. `each` sees (image of the source, prediction, truth), [H, W] each.
    ValueError when none can be read, and for NaN.
    """
    classes = len(label_map.ids)
    matrix = torch.zeros(classes * classes, dtype=torch.int64)
    read, skipped, names = [], [], data.images.source.names
    crop = CoveringImage(size) if inference == "slide" else WholeImage(size)
    dataset = EvalDataset(data.images, indices, crop, BATCH, target=MaskOf(data.images.source, label_map))
    for part in eval_batches(dataset, workers):
        skipped += part["skipped"]
        answers = asked(segment, [] if part["images"] is None else list(part["images"]), size, device, precision)
        for i, mask, logits in zip(part["indices"].tolist(), part["targets"], answers, strict=True):
            check_finite(logits[None], "logits", lambda _, i=i: str(names[i]))
            predicted, truth = labelled(logits, tuple(mask.shape)).cpu(), mask.long()
            named = truth != VOID
            matrix += torch.bincount(truth[named] * classes + predicted[named], minlength=classes * classes)
            read.append(i)
            if each:
                each(i, predicted, truth)
        if progress:
            progress(len(read) + len(skipped), len(indices))
    if not read:
        raise ValueError(f"{data.images.source.where}: none of the {len(indices)} images can be read with its mask")
    return Found(matrix.view(classes, classes), np.array(read), skipped)


def asked(
    segment: Segment, images: Sequence[Tensor], size: tuple[int, int], device: torch.device, precision: torch.dtype
) -> Iterator[Tensor]:
    """Logits [M, h', w'] of each image [C, h', w'], averaged over its windows."""
    places = [(k, top, left) for k, image in enumerate(images) for top, left in windows(image.shape[1:], size)]
    total: Tensor | None = None
    count, answers = torch.empty(0), iter(_windows(segment, images, places, size, device, precision))
    for i, (k, top, left) in enumerate(places):
        logits = next(answers)
        if total is None:
            total = logits.new_zeros(len(logits), *images[k].shape[1:])
            count = logits.new_zeros(images[k].shape[1:])
        total[:, top : top + size[0], left : left + size[1]] += logits
        count[top : top + size[0], left : left + size[1]] += 1
        if i + 1 == len(places) or places[i + 1][0] != k:
            yield total.div_(count)
            total = None


def _windows(
    segment: Segment,
    images: Sequence[Tensor],
    places: Sequence[tuple[int, int, int]],
    size: tuple[int, int],
    device: torch.device,
    precision: torch.dtype,
) -> Iterator[Tensor]:
    """Logits [M, h, w] of every window, as many at once as make sense."""
    most = AT_ONCE.get(device.type, 4)
    for start in range(0, len(places), most):
        part = places[start : start + most]
        cut = [images[k][:, top : top + size[0], left : left + size[1]] for k, top, left in part]
        with torch.autocast(device.type, precision, enabled=precision != torch.float32):
            logits = segment(to_float(torch.stack(cut), device))
        yield from logits.float()


def windows(image: Sequence[int], size: tuple[int, int]) -> list[tuple[int, int]]:
    """(top, left) of windows of `size` that cover an image of at least that: two thirds apart, the last at the edge."""
    lines = []
    for length, window in zip(image, size, strict=True):
        stride = max(1, window * 2 // 3)
        steps = math.ceil((length - window) / stride)
        lines.append([min(i * stride, length - window) for i in range(steps + 1)])
    return [(top, left) for top in lines[0] for left in lines[1]]


def labelled(logits: Tensor, size: tuple[int, ...]) -> Tensor:
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


def rows(matrix: Tensor, classes: Sequence[str]) -> list[dict[str, str | float | None]]:
    """One row a class for a file; None where a number is not defined."""
    columns = {"iou": iou(matrix), "accuracy": matrix.diagonal().double() / matrix.sum(1)}
    found = {name: [None if math.isnan(v) else v for v in values.tolist()] for name, values in columns.items()}
    share = (matrix.sum(1).double() / matrix.sum()).tolist()
    each = zip(classes, found["iou"], found["accuracy"], share, strict=True)
    return [{"class": c, "iou": i, "accuracy": a, "share_of_pixels": s} for c, i, a, s in each]

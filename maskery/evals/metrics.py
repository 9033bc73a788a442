"""Metrics of a classifier from its logits and the truth.

They agree with scikit-learn's to rounding; these stay because recorded numbers must not change in the last digit, and
because equal logits have one order. What is not defined (the recall of a class without images) is NaN, never 0.

n images, M classes
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

BINS = 15  # of the calibration error, as in Guo et al. 2017


def scores(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Top-1, top-5 (from 6 classes on), balanced accuracy, calibration error and the fraction of the largest class.

    ValueError for NaN, for labels outside the classes, for no images.
    """
    if logits.ndim != 2 or labels.shape != logits.shape[:1]:
        raise ValueError(
            f"logits are {list(logits.shape)}, labels {list(labels.shape)}: [images, classes] and [images]"
        )
    if not len(labels):
        raise ValueError("there are no images to measure")
    check_finite(logits, "logits")
    if int(labels.min()) < 0 or int(labels.max()) >= logits.shape[1]:
        raise ValueError(
            f"labels go from {int(labels.min())} to {int(labels.max())}, the classifier has {logits.shape[1]} classes "
            "(0 is the first)"
        )
    classes, counts = logits.shape[1], torch.bincount(labels)
    return top_k(rank(logits, labels), classes) | {
        "balanced_accuracy": balanced_accuracy(confusion(logits.argmax(1), labels, classes)),
        "calibration_error": calibration_error(logits, labels),
        "largest_class": float(counts.max() / counts.sum()),
    }


def top_k(ranks: Tensor, classes: int) -> dict[str, float]:
    """Top-1 and top-5 accuracy from `rank`; of five classes or fewer every image is among the first five."""
    return {f"top{k}": float((ranks < k).double().mean()) for k in (1, 5) if k == 1 or classes > k}


def rank(logits: Tensor, labels: Tensor) -> Tensor:
    """[n] int64: how many classes come before the true one, 0 = it is first. Of equal logits the lower class is first.

    So top-k accuracy is the fraction of ranks below k, and top-1 agrees with `argmax`.
    """
    own = logits.gather(1, labels[:, None])
    lower = torch.arange(logits.shape[1], device=logits.device) < labels[:, None]
    return ((logits > own) | ((logits == own) & lower)).sum(1)


def confusion(predicted: Tensor, labels: Tensor, classes: int) -> Tensor:
    """[M, M] int64: images of class (row) that were taken for class (column)."""
    return torch.bincount(labels * classes + predicted, minlength=classes * classes).view(classes, classes)


def balanced_accuracy(matrix: Tensor) -> float:
    """Mean recall of the classes that have images."""
    return float(per_class(matrix)["recall"].nanmean())


def per_class(matrix: Tensor) -> dict[str, Tensor]:
    """Columns [M] from a confusion matrix [M, M]: scikit-learn's `precision_recall_fscore_support(zero_division=nan)`.

    NaN: precision of a class never predicted, recall of one without images, F1 of one with neither.
    """
    true, support, taken = matrix.diagonal().double(), matrix.sum(1), matrix.sum(0)
    f1 = 2 * true / (support + taken)
    return {"precision": true / taken, "recall": true / support, "f1": f1, "support": support}


def class_rows(columns: Mapping[str, Tensor], classes: Sequence[str]) -> list[dict[str, Any]]:
    """One row a class of columns [M], for a file; None where a number is not defined."""
    rows = zip(classes, *(column.tolist() for column in columns.values()), strict=True)
    return [dict(zip(("class", *columns), (None if v != v else v for v in row), strict=True)) for row in rows]


def calibration_error(logits: Tensor, labels: Tensor) -> float:
    """Expected calibration error: |accuracy - confidence| in bins of equal width of the largest softmax, weighted."""
    confidence, predicted = logits.double().softmax(1).max(1)
    where = (confidence * BINS).ceil().long().clamp(1, BINS) - 1  # bins are open below and closed above
    gap = (predicted == labels).double() - confidence
    return float(confidence.new_zeros(BINS).index_add(0, where, gap).abs().sum()) / len(labels)


def average_precision(values: Tensor, positive: Tensor) -> float:
    """Of one class: sum over thresholds of (recall - recall before) * precision, scikit-learn's definition.

    `values` [n] are higher for more likely images, `positive` [n] bool. Equal values are one threshold. NaN without a
    positive image.
    """
    if not bool(positive.any()):
        return math.nan
    order = values.argsort(descending=True)
    ordered, hits = values[order], positive[order].double().cumsum(0)
    last = torch.cat([ordered[1:] != ordered[:-1], ordered.new_ones(1, dtype=torch.bool)])  # of each threshold
    hits, taken = hits[last], torch.arange(1, len(values) + 1, device=values.device)[last]
    recall_gain = torch.diff(hits, prepend=hits.new_zeros(1)) / hits[-1]
    return float((recall_gain * hits / taken).sum())


def multilabel(logits: Tensor, labels: Tensor) -> tuple[dict[str, float], list[float]]:
    """({"map", "classes_with_images"}, AP of each class) of data with several labels an image.

    `logits` and `labels` are [n, M], labels 0 or 1. mAP is the mean over the classes that have a positive image.
    """
    if labels.shape != logits.shape:
        raise ValueError(
            f"labels are {list(labels.shape)}, logits {list(logits.shape)}: both have to be [images, classes]"
        )
    check_finite(logits, "logits")
    if not bool(((labels == 0) | (labels == 1)).all()):
        raise ValueError("labels hold something else than 0 and 1")
    each = [average_precision(logits[:, c], labels[:, c] == 1) for c in range(logits.shape[1])]
    defined = [ap for ap in each if not math.isnan(ap)]
    if not defined:
        raise ValueError(f"none of the {len(logits)} images has a label: there is nothing to measure")
    return {"map": math.fsum(defined) / len(defined), "classes_with_images": float(len(defined))}, each


def check_finite(rows: Tensor, what: str, name: Callable[[int], str] | None = None) -> None:
    """ValueError when one of the rows [n, ...] holds a NaN or an infinite number, naming the first."""
    bad = torch.cat([~torch.isfinite(part).flatten(1).all(1) for part in rows.split(65536)])
    if bool(bad.any()):
        first = int(bad.nonzero()[0])
        named = name(first) if name else f"number {first}"
        raise ValueError(f"{what} of {int(bad.sum())} of {len(rows)} images hold NaN or infinity; the first is {named}")

import math

import numpy as np
import pytest
import torch
from sklearn import metrics as sk
from torch import Tensor

from maskery.evals.metrics import (
    average_precision,
    balanced_accuracy,
    calibration_error,
    class_rows,
    confusion,
    multilabel,
    per_class,
    rank,
    scores,
)


def drawn(n: int = 60, classes: int = 7, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randint(0, 5, (n, classes), generator=generator).float()  # few values: many ties
    return logits, torch.randint(0, classes, (n,), generator=generator)


def test_top_k_by_sorting() -> None:
    logits, labels = drawn()
    for k in (1, 3, 5):
        right = 0
        for row, truth in zip(logits.tolist(), labels.tolist(), strict=True):
            first = sorted(range(7), key=lambda c: (-row[c], c))[:k]
            right += truth in first
        assert int((rank(logits, labels) < k).sum()) == right
    assert torch.equal(rank(logits, labels) == 0, logits.argmax(1) == labels)


@pytest.mark.parametrize("seed", range(5))
def test_they_are_scikit_learns(seed: int) -> None:
    """Single classes and accuracy to the bit; means over classes and average precision differ in the last digit."""
    logits, labels = drawn(n=90, seed=seed)
    predicted = logits.argmax(1)
    matrix = confusion(predicted, labels, 7)
    assert matrix.tolist() == sk.confusion_matrix(labels, predicted, labels=range(7)).tolist()
    theirs = sk.precision_recall_fscore_support(labels, predicted, labels=range(7), zero_division=np.nan)
    for own, other in zip(per_class(matrix).values(), theirs, strict=True):
        assert np.array_equal(own.numpy(), other, equal_nan=True)
    assert scores(logits, labels)["top1"] == sk.accuracy_score(labels, predicted)
    assert balanced_accuracy(matrix) == pytest.approx(sk.balanced_accuracy_score(labels, predicted), rel=1e-14)
    for c in range(7):
        positive = labels == c
        expected = sk.average_precision_score(positive, logits[:, c])
        assert average_precision(logits[:, c], positive) == pytest.approx(expected, rel=1e-14)


def test_a_class_without_images_is_undefined_and_does_not_lower_the_balanced_accuracy() -> None:
    labels = torch.tensor([0, 0, 0, 1])
    matrix = confusion(torch.tensor([0, 0, 2, 1]), labels, 4)
    assert balanced_accuracy(matrix) == pytest.approx((2 / 3 + 1) / 2)
    rows = class_rows(per_class(matrix), ["a", "b", "c", "d"])
    assert rows[2] == {"class": "c", "precision": 0.0, "recall": None, "f1": 0.0, "support": 0}
    assert rows[3] == {"class": "d", "precision": None, "recall": None, "f1": None, "support": 0}


def test_scores_of_few_classes_and_of_one() -> None:
    logits, labels = drawn(classes=5)
    assert "top5" not in scores(logits, labels)  # it would always be 1
    assert "top5" in scores(*drawn(classes=6))
    one = scores(torch.zeros(3, 1), torch.zeros(3, dtype=torch.long))
    assert one["top1"] == one["balanced_accuracy"] == one["largest_class"] == 1.0


def test_calibration_error_by_hand() -> None:
    """Two bins of 15: confidence 0.9 and right half of the time, 0.6 and always right."""
    sure, unsure = math.log(0.9 / 0.1), math.log(0.6 / 0.4)
    logits = torch.tensor([[sure, 0.0], [sure, 0.0], [unsure, 0.0]])
    assert calibration_error(logits, torch.tensor([0, 1, 0])) == pytest.approx((2 * 0.4 + 1 * 0.4) / 3, abs=1e-6)
    assert calibration_error(torch.tensor([[50.0, 0.0]]), torch.tensor([0])) == pytest.approx(0.0)


def test_equal_values_are_one_threshold_of_average_precision() -> None:
    tied = torch.tensor([0.5, 0.5, 0.5, 0.2, 0.2, 0.9])
    positive = torch.tensor([1, 0, 1, 0, 1, 0]) == 1
    by_hand = 2 / 3 * (2 / 4) + 1 / 3 * (3 / 6)  # thresholds 0.9 (0 of 1), 0.5 (2 of 4), 0.2 (3 of 6)
    for order in (torch.arange(6), torch.arange(6).flip(0), torch.tensor([3, 1, 4, 0, 5, 2])):
        assert average_precision(tied[order], positive[order]) == pytest.approx(by_hand)
    assert math.isnan(average_precision(torch.rand(4), torch.zeros(4, dtype=torch.bool)))


def test_map_leaves_classes_without_images_out() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0], [1.0, 2.0, 1.0], [0.0, 0.0, 2.0]])
    labels = torch.tensor([[1, 0, 0], [0, 0, 0], [1, 1, 0]])
    numbers, each = multilabel(logits, labels)
    assert each[:2] == [pytest.approx((1 + 2 / 3) / 2), pytest.approx(1 / 3)]
    assert math.isnan(each[2])
    assert numbers == {"map": pytest.approx((5 / 6 + 1 / 3) / 2), "classes_with_images": 2.0}
    with pytest.raises(ValueError, match="none of the 3 images has a label"):
        multilabel(logits, 0 * labels)
    with pytest.raises(ValueError, match="something else than 0 and 1"):
        multilabel(logits, 2 * labels)
    with pytest.raises(ValueError, match=r"labels are \[3\], logits \[3, 3\]"):
        multilabel(logits, labels[0])


def test_what_cannot_be_measured_is_refused_in_one_line() -> None:
    logits, labels = drawn(n=5)
    logits[3, 2] = math.nan
    logits[4, 0] = math.inf
    with pytest.raises(ValueError, match="logits of 2 of 5 images hold NaN or infinity; the first is number 3"):
        scores(logits, labels)
    logits, labels = drawn(n=5)
    with pytest.raises(ValueError, match="labels go from 0 to 7, the classifier has 7 classes"):
        scores(logits, torch.tensor([0, 7, 1, 1, 1]))
    with pytest.raises(ValueError, match="no images to measure"):
        scores(logits[:0], labels[:0])
    with pytest.raises(ValueError, match=r"logits are \[5, 7\], labels \[4\]"):
        scores(logits, labels[:4])

"""A classifier as people use it: images as they have them -> names and probabilities.

B images, M classes
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..nn.linear_classifier import shares
from .classifier import Classifier, classifier_at
from .preprocess import Preparation, Some

THERE = 0.5  # with several labels an image: from this probability on it has one


@dataclass(frozen=True)
class Prediction:
    """What a classifier says of one image."""

    name: str  # the path, or "image 0"
    labels: tuple[str, ...]  # the most probable one; where an image may have several, all that are probable: or none
    probabilities: Mapping[str, float]  # of every class, the most probable first

    @property
    def label(self) -> str:
        """As a list of images has it: `cat`; where an image may have several `cat|dog`, or `|` for none."""
        return "|".join(self.labels) or "|"

    @property
    def probability(self) -> float:
        """Of the most probable class."""
        return next(iter(self.probabilities.values()))


class Predictor:
    """A trained classifier, in eval mode. `classes` are its labels; `several`: an image may have several of them."""

    def __init__(self, classifier: Classifier):
        self.classifier, self.classes, self.several = classifier, classifier.classes, classifier.several
        self.device = torch.device("cpu")
        self.preparation = Preparation(
            classifier.images.channels or 3, classifier.size, classifier.share, classifier.images
        )

    def to(self, device: torch.device | str) -> "Predictor":
        """Compute there from now on."""
        self.classifier.to(device)
        self.device = torch.device(device)
        return self

    def predict(self, images: Some, *, batch_size: int = 64) -> list[Prediction]:
        """What is on one or several images, in their order.

        images: paths, PIL images, arrays [H, W], [H, W, C] or [B, H, W, C], tensors [C, H, W] or [B, C, H, W], of any
        sizes; uint8, uint16, or floats in [0, 1]. They are resized, cut and normalised as for the evaluation that the
        classifier's numbers are from.

        ValueError, which names the image, when one cannot be read or has other channels.
        """
        found = []
        for names, views in self.preparation.batches(images, batch_size):
            rows = shares(self.classifier.classify(views.to(self.device)).float(), self.several).cpu()
            found += [predicted(name, row, self.classes, self.several) for name, row in zip(names, rows, strict=True)]
        return found


def predicted(name: str, row: Tensor, classes: tuple[str, ...], several: bool) -> Prediction:
    """Of the probabilities [M] of one image."""
    order = row.argsort(descending=True, stable=True).tolist()
    probabilities = {classes[i]: float(row[i]) for i in order}
    there = (n for n, p in probabilities.items() if p >= THERE) if several else (classes[order[0]],)
    return Prediction(name, tuple(there), probabilities)


def classifier(where: str | Path) -> Predictor:
    """The classifier of a finished run of `maskery eval finetune` or `probe`, RUN/evals/finetune/end-seed0, of one of
    its checkpoints, or of what `maskery export --to safetensors` or `timm` wrote of one.

    `.predict(images)` takes paths, PIL images, arrays and tensors of any sizes.
    """
    return Predictor(classifier_at(Path(where)))

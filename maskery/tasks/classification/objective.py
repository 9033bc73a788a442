"""What probing and fine-tuning share: they answer with logits, and are measured by how often they are right.

B batch, L heads (classifiers that are trained side by side), M classes
"""

import abc
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...data.crops import CenterCrop
from ...data.dataset import ImageData, spread
from ...evals.classify import center_crops, headline, image_logits, numbers, truth
from ...evals.eval_pass import eval_mode
from ...evals.inference_options import InferenceOptions
from ...nn.linear_classifier import LinearClassifier
from ..supervision import SupervisedObjective
from . import targets


class ClassificationObjective(SupervisedObjective, abc.ABC):
    """Its settings have `eval_share`, too."""

    suffixes: tuple[str, ...] = ("",)  # of the names of each head's numbers

    @classmethod
    def prepare(cls, settings: Any, data: ImageData) -> tuple[Any, ImageData]:
        labels, data = targets.prepare(settings.labels, data)
        return replace(settings, labels=labels), data

    @abc.abstractmethod
    def classify(self, image: Tensor) -> Tensor:
        """Images [B, C, H, W] in [0, 1] -> logits of every head [B, L, M]."""

    @abc.abstractmethod
    def linear_classifier(self, head: int) -> LinearClassifier:
        """The network that answers as this head does, alone. ValueError when it is none that other libraries have."""

    def validate(self, data: ImageData, most: int, precision: torch.dtype, workers: int) -> dict[str, float]:
        """The headline metric and the loss on held-out images, of the head that is best on validation images."""
        name, values, head = headline(self.labels.several), {}, 0
        how = {"precision": precision, "workers": workers}
        if len(data.validation):
            scores = self.predict(data, spread(data.validation, most), **how).scores(name)
            head = scores.index(max(scores))
            by_head = {f"tune_{name}{suffix}": score for suffix, score in zip(self.suffixes, scores, strict=True)}
            values = {f"tune_{name}": scores[head]} | by_head  # the same name where there is one head
        predictions = self.predict(data, spread(data.held_out, most), **how)
        logits, truth = predictions.logits[head], predictions.truth
        target = truth.float() if self.labels.several else truth
        loss = targets.loss(logits, target, replace(self.labels, weights=()))
        return {name: numbers(logits, truth)[name], "held_out_loss": float(loss)} | values

    @torch.no_grad()
    def predict(self, data: ImageData, indices: np.ndarray, **options: Any) -> "Predictions":
        """The logits of every head for these images, and their labels; `options` are those of `InferenceOptions`."""
        crop = CenterCrop(self.encoder.config.image_size, self.config.eval_share)
        with eval_mode(self):
            crops = center_crops(data.images, indices, crop, InferenceOptions(self.device, **options))
            result = image_logits(self.classify, crops)
        labels = truth(data, result.indices)
        return Predictions(result.logits.unbind(1), labels, result.indices, len(result.skipped))


@dataclass(frozen=True)
class Predictions:
    logits: tuple[Tensor, ...]  # [n, M] of each head
    truth: Tensor  # [n] or [n, M]
    indices: np.ndarray  # [n]
    skipped: int

    def scores(self, name: str) -> list[float]:
        """The metric of each head."""
        return [numbers(logits, self.truth)[name] for logits in self.logits]

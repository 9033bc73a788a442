"""What probing and fine-tuning share: labels of whole images, the loss, logits, and how often they are right.

n images, B batch, L heads (classifiers that are trained side by side), M classes
"""

import abc
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...data.crops import CenterCrop
from ...data.dataset import ImageData, spread
from ...evals.classify import headline, image_logits, numbers, truth
from ...evals.eval_pass import EvalPass, InferenceOptions, eval_mode
from ...evals.splits import labelled_images
from ...nn.linear_classifier import LinearClassifier
from ...objective import Batch
from ..labels import LabelsConfig, balanced_weights, split_validation
from ..supervision import SupervisedObjective


class ClassificationObjective(SupervisedObjective, abc.ABC):
    """Its settings have `eval_share`, too."""

    suffixes: tuple[str, ...] = ("",)  # of the names of each head's numbers

    @classmethod
    def prepare(cls, settings: Any, data: ImageData) -> tuple[Any, ImageData]:
        """Find the classes and the labelled images of each split. ValueError when nothing can be learned from them."""
        config = settings.labels
        data = labelled_images(data, config.subset is not None)
        labels, multi_hot = data.labels, data.multi_hot  # one of them is None
        if config.subset and labels is not None:
            data = replace(data, train=config.subset.draw(labels, data.train, data.classes, config.draw)[0])
        data = split_validation(data, config, labels)
        config = replace(config.named(data.classes), several=multi_hot is not None)
        if config.balanced and labels is not None:
            counts = np.bincount(labels[data.train], minlength=len(data.classes))
            config = replace(config, weights=balanced_weights(counts, counts / counts.sum()))
        if config.balanced and multi_hot is not None:
            counts = multi_hot[data.train].sum(0)
            config = replace(config, weights=balanced_weights(counts, np.full(len(counts), 1 / len(counts))))
        return replace(settings, labels=config), data

    def label_of(self, batch: Batch) -> Tensor:
        """The labels of a batch; zeros where it has none, for a trial step on noise."""
        if "label" in batch:
            return batch["label"]
        zeros = torch.zeros(len(batch["image"]), self.labels.count, device=batch["image"].device)
        return zeros if self.labels.several else zeros[:, 0].long()

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
        loss = label_loss(logits, target, replace(self.labels, weights=()))
        return {name: numbers(logits, truth)[name], "held_out_loss": float(loss)} | values

    @torch.no_grad()
    def predict(self, data: ImageData, indices: np.ndarray, **options: Any) -> "Predictions":
        """The logits of every head for these images, and their labels; `options` are those of `InferenceOptions`."""
        crop = CenterCrop(self.encoder.config.image_size, self.config.eval_share)
        with eval_mode(self):
            crops = EvalPass.of(data.images, indices, crop, InferenceOptions(self.device, **options))
            logits = image_logits(self.classify, crops)
        return Predictions(logits.unbind(1), truth(data, crops.indices), crops.indices, len(crops.skipped))


def label_loss(logits: Tensor, target: Tensor, config: LabelsConfig) -> Tensor:
    """Cross entropy with class numbers [B] or probabilities [B, M]; binary where an image may have several labels."""
    weight = logits.new_tensor(config.weights) if config.weights else None
    if config.several:
        return F.binary_cross_entropy_with_logits(logits, target, weight=weight)
    if weight is not None and target.ndim == 1:  # torch's mean over class numbers would divide by the weights' sum
        target = F.one_hot(target, logits.shape[1]).to(logits.dtype)
    return F.cross_entropy(logits, target, weight)


@dataclass(frozen=True)
class Predictions:
    logits: tuple[Tensor, ...]  # [n, M] of each head
    truth: Tensor  # [n] or [n, M]
    indices: np.ndarray  # [n]
    skipped: int

    def scores(self, name: str) -> list[float]:
        """The metric of each head."""
        return [numbers(logits, self.truth)[name] for logits in self.logits]

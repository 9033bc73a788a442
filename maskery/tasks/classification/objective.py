"""What probing and fine-tuning share: they answer with logits, and are measured by how often they are right.

B batch, L heads (classifiers that are trained side by side), M classes
"""

import abc
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...data.crops import Crop
from ...data.dataset import ImageData, spread
from ...evals.classify import answers, headline, numbers, truth
from ...nn.linear_classifier import LinearClassifier
from ...objective import Objective
from ..labels import LabelsConfig
from . import targets

Progress = Callable[[int, int], None] | None


class ClassificationObjective(Objective, abc.ABC):
    """Its settings have `labels: LabelsConfig` and `eval_share`."""

    labelled = True
    config: Any
    suffixes: tuple[str, ...] = ("",)  # of the names of each head's numbers

    @classmethod
    def prepare(cls, settings: Any, data: ImageData) -> tuple[Any, ImageData]:
        labels, data = targets.prepare(settings.labels, data)
        return replace(settings, labels=labels), data

    @property
    def labels(self) -> LabelsConfig:
        return self.config.labels

    def views(self, crop: Crop) -> dict[str, Crop]:
        return {"image": crop}

    @abc.abstractmethod
    def classify(self, image: Tensor) -> Tensor:
        """Images [B, C, H, W] in [0, 1] -> logits of every head [B, L, M]."""

    @abc.abstractmethod
    def linear_classifier(self, head: int) -> LinearClassifier:
        """The network that answers as this head does, alone. ValueError when it is none that other libraries have."""

    def validate(self, data: ImageData, most: int, precision: torch.dtype, workers: int) -> dict[str, float]:
        """The headline number and the loss on held-out images; of several heads, of the best to choose by."""
        name, found, head = headline(self.labels.several), {}, 0
        if len(data.validation):
            part = judged(self, data, spread(data.validation, most), precision, workers)
            each = [numbers(logits, part.truth)[name] for logits in part.logits]
            head = max(range(len(each)), key=lambda i: each[i])
            found |= {f"tune_{name}": each[head]}
            if len(each) > 1:
                found |= {f"tune_{name}{suffix}": value for suffix, value in zip(self.suffixes, each, strict=True)}
        part = judged(self, data, spread(data.held_out, most), precision, workers)
        logits = part.logits[head]
        loss = targets.loss(logits, part.wanted, replace(self.labels, weights=()))
        return {name: numbers(logits, part.truth)[name], "held_out_loss": float(loss)} | found


@dataclass(frozen=True)
class Judged:
    logits: tuple[Tensor, ...]  # [n, M] of each head
    truth: Tensor  # [n] or [n, M]
    indices: np.ndarray  # [n]
    skipped: int

    @property
    def wanted(self) -> Tensor:
        """The truth as a loss wants it."""
        return self.truth.float() if self.truth.ndim == 2 else self.truth


@torch.no_grad()
def judged(
    task: ClassificationObjective,
    data: ImageData,
    which: np.ndarray,
    precision: torch.dtype,
    workers: int,
    progress: Progress = None,
) -> Judged:
    """What every head answers on the images `which`, and what would have been right."""
    device = next(task.parameters()).device
    size, was_training = task.encoder.config.image_size, task.training
    task.eval()
    found = answers(
        task.classify,
        data,
        which,
        size,
        device,
        share=task.config.eval_share,
        precision=precision,
        workers=workers,
        progress=progress,
    )
    task.train(was_training)
    return Judged(found.logits.unbind(1), truth(data, found.indices), found.indices, len(found.skipped))

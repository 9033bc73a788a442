"""What the report of a task gets and gives, and the phrases that all protocols share."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..config import Run
from ..data.dataset import ImageData


@dataclass(frozen=True)
class MeasureContext:
    """A trained objective, the data to measure it on, and where the files about it go."""

    objective: Any  # in eval mode
    run: Run
    data: ImageData
    directory: Path
    precision: torch.dtype = torch.float32
    workers: int = 0

    @property
    def how(self) -> dict[str, Any]:
        """How images are read and predicted."""
        return {"precision": self.precision, "workers": self.workers}


@dataclass(frozen=True)
class Outcome:
    """Results on the held-out images that could be read."""

    numbers: Mapping[str, float]  # the first decides
    indices: np.ndarray  # [n] of the source
    skipped: int
    tables: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()
    truth: str = ""  # the annotations, where labels do not hold them: other ones are another evaluation


@dataclass(frozen=True)
class Report:
    """How a task is measured."""

    measure: Callable[[MeasureContext], Outcome]  # writes pictures and predictions, too
    protocol: Callable[[Run], str]  # how it was trained and measured, the same for all that can be compared


def training_phrases(run: Run) -> list[str]:
    length = f"{run.epochs:g} epochs" if run.steps is None else f"{run.steps} steps"
    return [length, f"batch {run.batch_size}", f"{run.optim.name}, base lr {run.optim.base_lr:g}"]


def encoder_phrases(settings: Any) -> list[str]:
    return [f"layer decay {settings.layer_decay:g}", f"drop path {settings.drop_path:g}"]


def label_phrases(run: Run) -> list[str]:
    """Which labels there were, and what was chosen by a part of them."""
    labels = run.settings.labels
    parts = [str(labels.subset)] if labels.subset else []
    parts += [f"{labels.tune:.0%} of the training images kept out to choose by"] if labels.tune else []
    parts += ["classes balanced in the loss"] if labels.balanced else []
    return parts + ([f"the best of {run.watch.looks} looks by {run.watch.best}"] if run.watch.best else [])


def absent_classes(names: Sequence[str], absent: Sequence[str]) -> list[str]:
    """A note on the classes that no held-out image has, or nothing."""
    if not absent:
        return []
    named = ", ".join(absent[:5]) + (", ..." if len(absent) > 5 else "")
    return [f"{len(absent)} of {len(names)} classes are nowhere in the held-out images and left out of means: {named}"]

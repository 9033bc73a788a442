"""What every task says of a run that has ended."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..config import Run
from ..evals.label_subset import Few


@dataclass(frozen=True)
class Found:
    """About the held-out images that could be read."""

    numbers: Mapping[str, float]  # the first decides
    tables: dict[str, Any]
    notes: list[str]
    indices: np.ndarray  # [n] of the source
    skipped: int
    truth: str = ""  # what was there to be found, where labels do not say it: another one is another evaluation


def length_of(run: Run) -> list[str]:
    """How long was trained and how, in words."""
    length = f"{run.epochs:g} epochs" if run.steps is None else f"{run.steps} steps"
    return [length, f"batch {run.batch_size}", f"{run.optim.name}, base lr {run.optim.base_lr:g}"]


def said_of_labels(run: Run) -> list[str]:
    """Which labels there were, and what was chosen by a part of them, in words."""
    labels = run.settings.labels
    few = Few.of(labels.share, labels.shots)
    parts = [str(few)] if few else []
    parts += [f"{labels.tune:.0%} of the training images kept out to choose by"] if labels.tune else []
    parts += ["classes balanced in the loss"] if labels.balanced else []
    return parts + ([f"the best of {run.watch.looks} looks by {run.watch.best}"] if run.watch.best else [])

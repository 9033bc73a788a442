"""What the report of a task gives, and the phrases that all protocols share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..config import Run


@dataclass(frozen=True)
class Outcome:
    """Results on the held-out images that could be read."""

    numbers: Mapping[str, float]  # the first decides
    indices: np.ndarray  # [n] of the source
    skipped: int
    tables: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()
    truth: str = ""  # the annotations, where labels do not hold them: other ones are another evaluation


def training_protocol(run: Run, own: Sequence[str], encoder_trained: bool) -> str:
    """How a run was trained: its length and optimiser, the `own` phrases of its task, its labels, what was chosen."""
    settings, labels = run.settings, run.settings.labels
    length = f"{run.epochs:g} epochs" if run.steps is None else f"{run.steps} steps"
    parts = [length, f"batch {run.batch_size}", f"{run.optim.name}, base lr {run.optim.base_lr:g}"]
    parts += [f"layer decay {settings.layer_decay:g}", f"drop path {settings.drop_path:g}"] if encoder_trained else []
    parts += [*own, *([str(labels.subset)] if labels.subset else [])]
    parts += [f"{labels.tune:.0%} of the training images kept out to choose by"] if labels.tune else []
    parts += ["classes balanced in the loss"] if labels.balanced else []
    parts += [f"the best of {run.watch.looks} looks by {run.watch.best}"] if run.watch.best else []
    return ", ".join(parts)


def absent_classes(names: Sequence[str], absent: Sequence[str]) -> list[str]:
    """A note on the classes that no held-out image has, or nothing."""
    if not absent:
        return []
    named = ", ".join(absent[:5]) + (", ..." if len(absent) > 5 else "")
    return [f"{len(absent)} of {len(names)} classes are nowhere in the held-out images and left out of means: {named}"]

"""What recipes depend on besides the model, and what all of them change for few images."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..config import OptimConfig, Run
from ..suggest import Suggestion
from .labels import LabelsConfig

EARLY_STOPPING = "a tenth of the training images is held out, and says which epoch was best and when to stop"
PATIENCE = 8  # periodic evaluations without a better one
FEWEST_DIVIDED = 20  # images with objects or questions below which none are held out for validation


@dataclass(frozen=True)
class LabelledData:
    """The training images that have labels."""

    images: int
    channels: int = 3
    bits: int = 8
    multilabel: bool = False  # an image may have several labels
    divisible: bool = True  # some class has a second image, which can be held out for validation


def small_batch(images: int) -> int:
    """16, 8 or 4, so that an epoch has 16 steps where that is possible."""
    return next((batch for batch in (16, 8) if images >= 16 * batch), 4)


def adamw(lr: float, batch: int, **options: Any) -> OptimConfig:
    """AdamW at a learning rate that is stated for this batch size."""
    return OptimConfig(base_lr=lr * 256 / batch, **options)


def known_labels(run: Run) -> LabelsConfig:
    """Labels with nothing but the classes that are known already."""
    return LabelsConfig(classes=run.settings.labels.classes)


def at_least(run: Run, side: int) -> Run:
    """The run on square images of at least so many pixels a side, in whole patches."""
    square = run.size[0] == run.size[1]
    return replace(run, image_size=max(side // run.patch_size * run.patch_size, run.size[0])) if square else run


def size_text(run: Run) -> str:
    return f"{run.size[0]} x {run.size[1]}"


def suggested(run: Run, reasons: Sequence[str], metric: str | None) -> Suggestion:
    """The run and its reasons; with a `metric`, a tenth of the training images is held out to find its best epoch."""
    if metric is None:
        return Suggestion(run, tuple(reasons))
    settings = replace(run.settings, labels=replace(run.settings.labels, tune=0.1))
    watch = replace(run.watch, best=f"tune_{metric}", patience=PATIENCE)
    return Suggestion(replace(run, settings=settings, watch=watch), (*reasons, EARLY_STOPPING))

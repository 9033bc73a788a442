"""Which labels a supervised task learns from, and which images are for training, validation and testing.

n images, M classes
"""

import json
import math
from dataclasses import dataclass, replace

import numpy as np

from ..data.dataset import ImageData
from ..evals.label_subset import LabelSubset


@dataclass(frozen=True)
class LabelsConfig:
    """Which labels are learned from. What the data decide is filled in when the run begins."""

    share: str | None = None  # only this fraction of the labels of every class, like 1%
    shots: int | None = None  # only so many labelled images of every class
    draw: int = 0  # seed of which ones
    tune: float = 0.0  # fraction of the training images held out for validation; a "val" beside a "test" split is, too
    balanced: bool = False  # classes count alike in the loss, however many images they have
    classes: str = ""  # of the data: a JSON list of their names
    several: bool = False  # of the data: an image may have several of them
    weights: tuple[float, ...] = ()  # of the classes in the loss, when balanced

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(json.loads(self.classes or "[]"))

    @property
    def count(self) -> int:
        """M; 2 as long as the data are not known."""
        return len(self.names) or 2

    @property
    def subset(self) -> LabelSubset | None:
        return LabelSubset.parse(self.share, self.shots)

    def named(self, classes: tuple[str, ...]) -> "LabelsConfig":
        return replace(self, classes=json.dumps(classes, ensure_ascii=False))


def balanced_weights(counts: np.ndarray, fractions: np.ndarray, most: float = math.inf) -> tuple[float, ...]:
    """Weights of the classes in the loss [M], inverse to their images or pixels; the loss keeps its size.

    `fractions` [M] of the loss that each class has. No weight is above `most` times that of a class of average size.
    """
    inverse = np.divide(counts.sum() / len(counts), counts, out=np.zeros(len(counts)), where=counts > 0).clip(max=most)
    inverse /= (inverse * fractions).sum()
    return tuple(round(float(w), 6) for w in inverse)


def subset_of_images(data: ImageData, config: LabelsConfig, why_no_shots: str) -> ImageData:
    """Keep the fraction of training images that is asked for, where an image has no single class."""
    subset = config.subset
    if subset is None:
        return data
    if subset.shots is not None:
        raise ValueError(f"--shots counts images of a class, and {why_no_shots}: --labels 10% takes a fraction")
    no_class = np.zeros(len(data.images.source), np.int64)
    return replace(data, train=subset.draw(no_class, data.train, ("",), config.draw)[0])


def split_validation(data: ImageData, config: LabelsConfig, labels: np.ndarray | None = None) -> ImageData:
    """Hold out a fraction of the training images for validation, of every class of `labels` [n] alike, if none are."""
    if len(data.validation) or not config.tune or len(data.train) < 2:
        return data
    classes = np.zeros(len(data.train), np.int64) if labels is None else labels[data.train]
    train, validation = stratified_split(data.train, classes, config.tune, config.draw)
    return replace(data, train=train, validation=validation)


def stratified_split(
    indices: np.ndarray, labels: np.ndarray, fraction: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """(rest, fraction of every class), both sorted. At least one image of every class stays in the rest."""
    chosen = []
    for c in np.unique(labels):
        own = np.random.default_rng([seed, int(c), 1]).permutation(indices[labels == c])
        chosen.append(own[: min(max(1, round(fraction * len(own))), len(own) - 1)])
    held_out = np.sort(np.concatenate(chosen))
    return np.setdiff1d(indices, held_out), held_out

"""What a supervised task does with the labels there are: classes, few of them, a part to choose by.

n images, M classes
"""

import json
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.dataset import ImageData
from ..evals.label_subset import Few, draw
from ..evals.splits import labelled, refuse_unseen, reported


@dataclass(frozen=True)
class LabelsConfig:
    """Which labels are learned from. What the data decide is filled in when the run begins."""

    share: str | None = None  # only this share of the labels of every class, like 1%
    shots: int | None = None  # only so many labelled images of every class
    draw: int = 0  # seed of which ones
    tune: float = 0.0  # share of the training images kept out to choose by; a "val" beside a "test" split is, too
    balanced: bool = False  # classes count alike in the loss, however many images they have
    classes: str = ""  # of the data: a JSON list of their names
    several: bool = False  # of the data: an image may have several of them
    weights: tuple[float, ...] = ()  # of the classes in the loss, when balanced

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(json.loads(self.classes or "[]"))

    @property
    def count(self) -> int:
        """M; 2 as long as nobody has looked at the data."""
        return len(self.names) or 2


def prepared(config: LabelsConfig, data: ImageData) -> tuple[LabelsConfig, ImageData]:
    """The classes, and the labelled images: to train on, to choose by, held out. ValueError when there are none."""
    where, few = data.images.source.where, Few.of(config.share, config.shots)
    train, held_out, tune = parts(data)
    if data.multi_hot is not None:
        known = data.multi_hot[:, 0] != 255  # 255: nobody has looked for labels
        train, held_out, tune = (x[known[x]] for x in (train, held_out, tune))
        if few:
            raise ValueError(f"{where}: --labels and --shots are for one label an image, these have several")
        if not len(train) or not len(held_out):
            raise ValueError(f"{where}: {len(train)} training and {len(held_out)} held-out images have labels")
        if not len(tune) and config.tune:
            train, tune = apart(train, np.zeros(len(train), np.int64), config.tune, config.draw)
        counts = data.multi_hot[train].sum(0)
    else:
        labels = data.labels
        train = labelled(labels, train, data.classes, f"{where}: training images")
        held_out = labelled(labels, held_out, data.classes, f"{where}: held-out images", several=False)
        assert labels is not None
        refuse_unseen(labels, train, held_out, data.classes, where)
        tune = tune[labels[tune] >= 0]
        train = draw(labels, train, data.classes, few, config.draw).indices if few else train
        if not len(tune) and config.tune:
            train, tune = apart(train, labels[train], config.tune, config.draw)
        counts = np.bincount(labels[train], minlength=len(data.classes))
    config = replace(config, classes=json.dumps(data.classes, ensure_ascii=False), several=data.multi_hot is not None)
    if config.balanced:
        inverse = np.divide(1.0, counts, out=np.zeros(len(counts)), where=counts > 0)  # nothing to learn: no weight
        share = np.full(len(counts), 1 / len(counts)) if config.several else counts / counts.sum()
        inverse /= (inverse * share).sum()  # the loss keeps its size
        config = replace(config, weights=tuple(round(float(w), 6) for w in inverse))
    return config, replace(data, train=train, held_out=held_out, validation=tune)


def parts(data: ImageData) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(to train on, held out, to choose by)."""
    if not len(data.held_out):
        where = data.images.source.where
        raise ValueError(f"{where}: nothing is held out, so nothing could be measured; set --images.holdout")
    return data.train, *reported(data.images.source, data.held_out)


def apart(indices: np.ndarray, labels: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(rest, share of every class), both sorted. Classes of one image keep it; at least one image stays in the rest."""
    chosen = [
        np.random.default_rng([seed, int(c), 1]).permutation(own)[: min(max(1, round(share * len(own))), len(own) - 1)]
        for c in np.unique(labels)
        for own in [indices[labels == c]]
    ]
    kept = np.sort(np.concatenate(chosen))
    return np.setdiff1d(indices, kept), kept


def loss(logits: Tensor, target: Tensor, config: LabelsConfig) -> Tensor:
    """Cross entropy with class numbers [B] or shares [B, M]; with several labels an image, binary cross entropy."""
    weight = logits.new_tensor(config.weights) if config.weights else None
    if config.several:
        return F.binary_cross_entropy_with_logits(logits, target, pos_weight=None, weight=weight)
    if weight is not None and target.ndim == 1:  # torch's mean over class numbers would divide by the weights' sum
        target = F.one_hot(target, logits.shape[1]).to(logits.dtype)
    return F.cross_entropy(logits, target, weight)


def blank(config: LabelsConfig, images: int, device: torch.device) -> Tensor:
    """Labels for images that have none, for a trial on noise."""
    if config.several:
        return torch.zeros(images, config.count, device=device)
    return torch.zeros(images, dtype=torch.long, device=device)

"""Labels of whole images: the classes of the data, the weight of each, the loss.

n images, B batch, M classes
"""

from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...data.dataset import ImageData
from ...evals.splits import check_classes_trained, labelled
from ..labels import LabelsConfig, balanced_weights, reported_split, split_validation, where_true

NOT_LABELLED = 255  # in a row of multi-hot labels


def prepare(config: LabelsConfig, data: ImageData) -> tuple[LabelsConfig, ImageData]:
    """Find the classes and the labelled images of each split. ValueError when nothing can be learned from them."""
    multilabel = data.multi_hot is not None
    data, counts = multilabel_images(config, data) if multilabel else single_label_images(config, data)
    config = replace(config.named(data.classes), several=multilabel)
    if config.balanced:
        fractions = np.full(len(counts), 1 / len(counts)) if multilabel else counts / counts.sum()
        config = replace(config, weights=balanced_weights(counts, fractions))
    return config, data


def single_label_images(config: LabelsConfig, data: ImageData) -> tuple[ImageData, np.ndarray]:
    """The images with a label, and how many training images each class has [M]."""
    where, labels, data = data.images.source.where, data.labels, reported_split(data)
    train = labelled(labels, data.train, data.classes, f"{where}: training images")
    held_out = labelled(labels, data.held_out, data.classes, f"{where}: held-out images", one_class=True)
    assert labels is not None
    check_classes_trained(labels, train, held_out, data.classes, where)
    if config.subset:
        train = config.subset.draw(labels, train, data.classes, config.draw).indices
    validation = data.validation[labels[data.validation] >= 0]
    data = split_validation(replace(data, train=train, held_out=held_out, validation=validation), config, labels)
    return data, np.bincount(labels[data.train], minlength=len(data.classes))


def multilabel_images(config: LabelsConfig, data: ImageData) -> tuple[ImageData, np.ndarray]:
    """Likewise, where an image may have several labels."""
    where, multi_hot = data.images.source.where, data.multi_hot
    assert multi_hot is not None
    data = where_true(reported_split(data), multi_hot[:, 0] != NOT_LABELLED)
    if config.subset:
        raise ValueError(f"{where}: --labels and --shots are for one label an image, these have several")
    if not len(data.train) or not len(data.held_out):
        raise ValueError(f"{where}: {len(data.train)} training and {len(data.held_out)} held-out images have labels")
    data = split_validation(data, config)
    return data, multi_hot[data.train].sum(0)


def loss(logits: Tensor, target: Tensor, config: LabelsConfig) -> Tensor:
    """Cross entropy with class numbers [B] or probabilities [B, M]; binary where an image may have several labels."""
    weight = logits.new_tensor(config.weights) if config.weights else None
    if config.several:
        return F.binary_cross_entropy_with_logits(logits, target, weight=weight)
    if weight is not None and target.ndim == 1:  # torch's mean over class numbers would divide by the weights' sum
        target = F.one_hot(target, logits.shape[1]).to(logits.dtype)
    return F.cross_entropy(logits, target, weight)


def placeholder(config: LabelsConfig, images: int, device: torch.device) -> Tensor:
    """Labels for images that have none, for a trial step on noise."""
    if config.several:
        return torch.zeros(images, config.count, device=device)
    return torch.zeros(images, dtype=torch.long, device=device)

"""Labels of whole images: the classes of the data, the weight of each, the loss.

n images, B batch, M classes
"""

from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...data.dataset import ImageData
from ...evals.splits import labelled_images
from ..labels import LabelsConfig, balanced_weights, split_validation


def prepare(config: LabelsConfig, data: ImageData) -> tuple[LabelsConfig, ImageData]:
    """Find the classes and the labelled images of each split. ValueError when nothing can be learned from them."""
    data = labelled_images(data, config.subset is not None)
    labels, multi_hot = data.labels, data.multi_hot  # one of them is None
    if config.subset and labels is not None:
        data = replace(data, train=config.subset.draw(labels, data.train, data.classes, config.draw).indices)
    data = split_validation(data, config, labels)
    config = replace(config.named(data.classes), several=multi_hot is not None)
    if config.balanced and labels is not None:
        counts = np.bincount(labels[data.train], minlength=len(data.classes))
        config = replace(config, weights=balanced_weights(counts, counts / counts.sum()))
    if config.balanced and multi_hot is not None:
        counts = multi_hot[data.train].sum(0)
        config = replace(config, weights=balanced_weights(counts, np.full(len(counts), 1 / len(counts))))
    return config, data


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

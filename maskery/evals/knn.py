"""Weighted nearest-neighbour classification of features, without any training (DINO's protocol, Caron et al. 2021).

n images that vote (the bank), q queries, D width, k neighbours, M classes
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .features import Features


def knn(
    bank: Tensor,  # [n, D]
    bank_labels: Tensor,  # [n] in 0 .. classes - 1
    queries: Tensor,  # [q, D]
    labels: Tensor,  # [q]
    classes: int,
    k: int = 20,
    temperature: float = 0.07,
    block: int = 1024,
) -> float:
    """Top-1 accuracy in [0, 1]: the k most similar of the bank vote with weight exp(cosine / temperature)."""
    if not k > 0:
        raise ValueError(f"k is {k}: at least one neighbour has to vote")
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}: it has to be above 0")
    bank, queries = F.normalize(bank.float(), dim=1), F.normalize(queries.float(), dim=1)
    k = min(k, len(bank))
    right = 0
    for part, truth in zip(queries.split(block), labels.split(block), strict=True):
        similarity, neighbours = (part @ bank.T).topk(k, dim=1)  # [q, k]
        votes = torch.zeros(len(part), classes, device=part.device)
        votes.scatter_add_(1, bank_labels[neighbours], (similarity / temperature).exp())
        right += int((votes.argmax(1) == truth).sum())
    return right / len(queries)


def knn_of_features(
    bank: Features, asked: Features, labels: np.ndarray, classes: int, k: int = 20, temperature: float = 0.07
) -> dict[str, float]:
    """Accuracies with the mean of the patch tokens and with the class token; `labels` are those of the source."""
    voting, truth = (torch.from_numpy(labels[x.indices]) for x in (bank, asked))
    return {
        "knn_mean_patch": knn(bank.mean_patch, voting, asked.mean_patch, truth, classes, k, temperature),
        "knn_class_token": knn(bank.class_token, voting, asked.class_token, truth, classes, k, temperature),
    }

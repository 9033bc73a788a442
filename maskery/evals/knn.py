"""Weighted nearest-neighbour classification of features, without any training (DINO's protocol, Caron et al. 2021).

n images that vote (the bank), q queries, D width, k neighbours, M classes
"""

import torch
import torch.nn.functional as F
from torch import Tensor


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

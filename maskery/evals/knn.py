"""Weighted nearest-neighbour classification of features, without any training (DINO's protocol, Caron et al. 2021).

n images of the bank (they vote), q queries, D width, k neighbours, M classes

Cosines are exact: normalised features are rounded to multiples of 2^-24 (float32 has no more there), so that products
and sums fit into the 53 bits of float64, and neither block sizes nor the order of addition change a vote.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from . import metrics
from .features import Features

BLOCK, QUERIES = 8192, 1024  # of the bank and of the queries compared at a time: 64 MB of cosines
GRID = 2.0**24
TOKENS = ("mean_patch", "class_token", "both")

Labelled = tuple[Tensor, Tensor]  # features [n, D], their class numbers [n]


@dataclass(frozen=True)
class Voting:
    k: int = 20  # neighbours that vote
    temperature: float = 0.07  # of the weights, exp(cosine / temperature)

    def __post_init__(self) -> None:
        if not self.k > 0:
            raise ValueError(f"k is {self.k}: at least one neighbour has to vote")
        if not self.temperature > 0:
            raise ValueError(f"temperature is {self.temperature}: it has to be above 0")


@dataclass(frozen=True)
class Neighbours:
    """The k most similar images of the bank, the most similar first; of equally similar ones the lower index."""

    similarity: Tensor  # [q, k] float64, CPU
    index: Tensor  # [q, k] positions in the bank


def neighbours(
    bank: Tensor,  # [n, D], on the CPU or a device
    queries: Tensor,  # [q, D]
    k: int,
    device: torch.device | None = None,  # where to compare; None: where the queries are
    block: int = BLOCK,
) -> Neighbours:
    """Find exact cosine neighbours: all of the bank when it has fewer than k images. ValueError for NaN.

    Needs memory for one block of each, and for k neighbours of every query.
    """
    if not len(bank):
        raise ValueError("the bank is empty: no image can vote")
    metrics.check_finite(bank, "features (bank)")
    metrics.check_finite(queries, "features (queries)")
    device, k = device or queries.device, min(k, len(bank))
    counts = [len(query) for query in queries.split(QUERIES)]
    best = [(torch.empty(n, 0, dtype=torch.double), torch.empty(n, 0, dtype=torch.long)) for n in counts]
    for start, part in zip(range(0, len(bank), block), bank.split(block), strict=True):
        part = _on_grid(part, device)
        for i, query in enumerate(queries.split(QUERIES)):
            cosine, position = _largest(_on_grid(query, device) @ part.T, k)
            before, index = (x.to(device) for x in best[i])
            merged, index = torch.cat([before, cosine], dim=1), torch.cat([index, position + start], dim=1)
            order = merged.argsort(dim=1, descending=True, stable=True)[:, :k]  # earlier blocks come first
            best[i] = (merged.gather(1, order).cpu(), index.gather(1, order).cpu())
    return Neighbours(torch.cat([s for s, _ in best]), torch.cat([i for _, i in best]))


def knn_scores(
    bank: Labelled, queries: Labelled, classes: int, voting: Voting = Voting(), device: torch.device | None = None
) -> dict[str, float]:
    """Score the vote: {"top1", "top5" (from 6 classes on), "balanced_accuracy"}."""
    nearest, labels = neighbours(bank[0], queries[0], voting.k, device), bank[1].cpu()
    ranks, matrix = [], torch.zeros(classes, classes, dtype=torch.long)
    blocks = (x.split(QUERIES) for x in (nearest.similarity, nearest.index, queries[1].cpu()))
    for similarity, index, truth in zip(*blocks, strict=True):
        # relative to the nearest neighbour's, which changes no order and cannot overflow
        weight = ((similarity - similarity[:, :1]) / voting.temperature).exp()
        total = torch.zeros(len(weight), classes, dtype=torch.double).scatter_add_(1, labels[index], weight)
        ranks.append(metrics.rank(total, truth))
        matrix += metrics.confusion(total.argmax(1), truth, classes)
    return metrics.top_k(torch.cat(ranks), classes) | {"balanced_accuracy": metrics.balanced_accuracy(matrix)}


def token(features: Features, name: str) -> Tensor:
    """[n, D] features by their name; "both": class token and mean patch token, each normalised, concatenated."""
    if name != "both":
        return getattr(features, name)
    parts = (features.class_token, features.mean_patch)
    return torch.cat([F.normalize(x.float(), dim=1) for x in parts], dim=1)


def labelled_token(features: Features, name: str, labels: np.ndarray) -> Labelled:
    """Features of a token with their labels; `labels` are those of the whole source."""
    return token(features, name), torch.from_numpy(labels[features.indices])


def knn_accuracies(bank: Features, queries: Features, labels: np.ndarray, classes: int) -> dict[str, float]:
    """Top-1 accuracy by the mean patch token and by the class token; `labels` are those of the whole source."""
    accuracies = {}
    for name in ("mean_patch", "class_token"):
        voting, tested = (labelled_token(part, name, labels) for part in (bank, queries))
        accuracies[f"knn_{name}"] = knn_scores(voting, tested, classes)["top1"]
    return accuracies


def _on_grid(features: Tensor, device: torch.device) -> Tensor:
    """[b, D] normalised, on the grid on which dot products have no rounding error."""
    return (F.normalize(features.to(device).double(), dim=1) * GRID).round() / GRID


def _largest(cosine: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """(values, positions) [b, k] of the largest of [b, n], ordered; of equal ones those at the front."""
    k = min(k, cosine.shape[1])
    value, position = cosine.topk(k, dim=1)
    tied = (cosine >= value[:, -1:]).sum(1) > k  # topk takes any of the ties at the edge
    if bool(tied.any()):
        order = cosine[tied].argsort(dim=1, descending=True, stable=True)[:, :k]
        position[tied], value[tied] = order, cosine[tied].gather(1, order)
    position, order = position.sort(dim=1)
    value = value.gather(1, order)
    order = value.argsort(dim=1, descending=True, stable=True)
    return value.gather(1, order), position.gather(1, order)

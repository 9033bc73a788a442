"""Weighted nearest-neighbour classification of features, without any training (DINO's protocol, Caron et al. 2021).

n images that vote (the bank), q queries, D width, k neighbours, M classes

Cosines are computed exactly: normalised features are rounded to multiples of 2^-24 (float32 has no more there), so that
products and sums fit into the 53 bits of float64, and neither block sizes nor the order of addition change a vote.
"""

from collections.abc import Iterator, Mapping, Sequence
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
SUFFIX = {"top1": "", "top5": "_top5", "balanced_accuracy": "_balanced"}


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
    """Exact cosine neighbours. Needs memory for one block of each, and for k neighbours of every query.

    When the bank has fewer than k images all of them are neighbours. ValueError for NaN, and for k below 1.
    """
    if not k > 0:
        raise ValueError(f"k is {k}: at least one neighbour has to vote")
    if not len(bank):
        raise ValueError("the bank is empty: no image can vote")
    metrics.refuse_nan(bank, "features (bank)")
    metrics.refuse_nan(queries, "features (queries)")
    device, k = device or queries.device, min(k, len(bank))
    best = [
        (q.new_empty(len(q), 0, dtype=torch.double), q.new_empty(len(q), 0, dtype=torch.long))
        for q in queries.cpu().split(QUERIES)
    ]
    for start, voting in zip(range(0, len(bank), block), bank.split(block), strict=True):
        voting = _exact(voting, device)
        for i, asked in enumerate(queries.split(QUERIES)):
            cosine, at = _most(_exact(asked, device) @ voting.T, k)
            before, where = (x.to(device) for x in best[i])
            merged, index = torch.cat([before, cosine], dim=1), torch.cat([where, at + start], dim=1)
            order = merged.argsort(dim=1, descending=True, stable=True)[:, :k]  # earlier blocks come first
            best[i] = (merged.gather(1, order).cpu(), index.gather(1, order).cpu())
    return Neighbours(torch.cat([s for s, _ in best]), torch.cat([i for _, i in best]))


def votes(
    found: Neighbours, bank_labels: Tensor, classes: int, temperature: float = 0.07, block: int = QUERIES
) -> Iterator[Tensor]:
    """Blocks of [b, M] float64: the weights exp(cosine / temperature) of the neighbours of each class.

    Weights are relative to the nearest neighbour's, which changes no order and cannot overflow.
    """
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}: it has to be above 0")
    for similarity, index in zip(found.similarity.split(block), found.index.split(block), strict=True):
        weight = ((similarity - similarity[:, :1]) / temperature).exp()
        total = torch.zeros(len(weight), classes, dtype=torch.double)
        yield total.scatter_add_(1, bank_labels.cpu()[index], weight)


def knn(
    bank: Tensor,  # [n, D]
    bank_labels: Tensor,  # [n] in 0 .. classes - 1
    queries: Tensor,  # [q, D]
    labels: Tensor,  # [q]
    classes: int,
    k: int = 20,
    temperature: float = 0.07,
    block: int = BLOCK,
) -> float:
    """Top-1 accuracy in [0, 1]: the k most similar of the bank vote with weight exp(cosine / temperature)."""
    return knn_scores(bank, bank_labels, queries, labels, classes, k, temperature, block)["top1"]


def knn_scores(
    bank: Tensor,
    bank_labels: Tensor,
    queries: Tensor,
    labels: Tensor,
    classes: int,
    k: int = 20,
    temperature: float = 0.07,
    block: int = BLOCK,
    device: torch.device | None = None,
) -> dict[str, float]:
    """{"top1", "top5" (from 6 classes on), "balanced_accuracy"} of the vote; see `knn`."""
    found, labels = neighbours(bank, queries, k, device, block), labels.cpu()
    ranks, matrix = [], torch.zeros(classes, classes, dtype=torch.long)
    for total, truth in zip(votes(found, bank_labels, classes, temperature), labels.split(QUERIES), strict=True):
        ranks.append(metrics.rank(total, truth))
        matrix += metrics.confusion(total.argmax(1), truth, classes)
    rank = torch.cat(ranks)
    numbers = {"top1": float((rank < 1).double().mean())}
    if classes > 5:
        numbers["top5"] = float((rank < 5).double().mean())
    return numbers | {"balanced_accuracy": metrics.balanced_accuracy(matrix)}


def token(features: Features, name: str) -> Tensor:
    """[n, D] features by their name; "both": class token and mean patch token, each normalised, side by side."""
    if name != "both":
        return getattr(features, name)
    parts = (features.class_token, features.mean_patch)
    return torch.cat([F.normalize(x.float(), dim=1) for x in parts], dim=1)


def knn_of_features(
    bank: Features,
    asked: Features,
    labels: np.ndarray,
    classes: int,
    k: int = 20,
    temperature: float = 0.07,
    tokens: Sequence[str] = TOKENS[:2],
) -> dict[str, float]:
    """Accuracies with the named tokens (see `token`); `labels` are those of the source."""
    voting, truth = (torch.from_numpy(labels[x.indices]) for x in (bank, asked))
    return {
        f"knn_{name}": knn(token(bank, name), voting, token(asked, name), truth, classes, k, temperature)
        for name in tokens
    }


def knn_repeated(
    bank: Features,
    asked: Features,
    labels: np.ndarray,
    classes: int,
    voting: Mapping[int, np.ndarray],
    k: int = 20,
    temperature: float = 0.07,
    tokens: Sequence[str] = TOKENS,
    device: torch.device | None = None,
) -> dict[int, dict[str, float]]:
    """Seed -> {"knn_<token>", "knn_<token>_top5", "knn_<token>_balanced"} with the images that vote under each seed.

    `voting` are indices of the source, each a part of the bank's (what could not be read does not vote).
    """
    truth, found = torch.from_numpy(labels[asked.indices]), {}
    for seed, who in voting.items():
        at = np.flatnonzero(np.isin(bank.indices, who))
        y, numbers = torch.from_numpy(labels[bank.indices[at]]), {}
        for name in tokens:
            x = token(bank, name)[torch.from_numpy(at)]
            of = knn_scores(x, y, token(asked, name), truth, classes, k, temperature, device=device)
            numbers |= {f"knn_{name}{SUFFIX[key]}": value for key, value in of.items()}
        found[seed] = numbers
    return found


def _exact(features: Tensor, device: torch.device) -> Tensor:
    """[b, D] normalised, on the grid on which dot products have no rounding error."""
    return (F.normalize(features.to(device).double(), dim=1) * GRID).round() / GRID


def _most(cosine: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """(values, positions) [b, k] of the largest of [b, n], ordered; of equal ones those at the front."""
    k = min(k, cosine.shape[1])
    value, at = cosine.topk(k, dim=1)
    tied = (cosine >= value[:, -1:]).sum(1) > k  # topk takes any of the ties at the edge
    if bool(tied.any()):
        order = cosine[tied].argsort(dim=1, descending=True, stable=True)[:, :k]
        at[tied], value[tied] = order, cosine[tied].gather(1, order)
    at, order = at.sort(dim=1)
    value = value.gather(1, order)
    order = value.argsort(dim=1, descending=True, stable=True)
    return value.gather(1, order), at.gather(1, order)

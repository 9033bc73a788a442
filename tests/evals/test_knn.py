"""Weighted kNN against the definition."""

import pytest
import torch

from maskery.evals.knn import knn


def by_hand(bank: torch.Tensor, y: torch.Tensor, queries: torch.Tensor, z: torch.Tensor, k: int, tau: float) -> float:
    right = 0
    for q, truth in zip(queries, z, strict=True):
        cos = torch.nn.functional.cosine_similarity(bank, q[None])
        votes: dict[int, float] = {}
        for i in cos.argsort(descending=True)[:k].tolist():
            votes[int(y[i])] = votes.get(int(y[i]), 0.0) + float(torch.exp(cos[i] / tau))
        right += max(votes, key=votes.__getitem__) == int(truth)
    return right / len(z)


@pytest.mark.parametrize(("k", "tau"), [(1, 0.07), (5, 0.07), (20, 1.0), (500, 0.1)])
def test_equals_the_definition(k: int, tau: float) -> None:
    torch.manual_seed(0)
    bank, queries = torch.randn(60, 6), torch.randn(33, 6)
    y, z = torch.randint(0, 4, (60,)), torch.randint(0, 4, (33,))
    assert knn(bank, y, queries, z, 4, k, tau, block=10) == pytest.approx(by_hand(bank, y, queries, z, k, tau))


def test_separated_classes_are_found_and_scale_does_not_matter() -> None:
    torch.manual_seed(0)
    centres = torch.eye(3)
    y, z = torch.arange(90) % 3, torch.arange(30) % 3
    bank, queries = centres[y] + 0.05 * torch.randn(90, 3), 7 * (centres[z] + 0.05 * torch.randn(30, 3))
    assert knn(bank, y, queries, z, 3) == 1.0


def test_bad_values() -> None:
    x, y = torch.randn(4, 2), torch.zeros(4, dtype=torch.long)
    with pytest.raises(ValueError, match="k is 0"):
        knn(x, y, x, y, 1, k=0)
    with pytest.raises(ValueError, match="temperature is 0"):
        knn(x, y, x, y, 1, temperature=0)

"""Rank and spread of features whose answer is known."""

import pytest
import torch

from maskery.evals.rank import effective_rank, feature_spread


def test_the_rank_is_the_number_of_even_directions() -> None:
    torch.manual_seed(0)
    q = torch.linalg.qr(torch.randn(64, 64)).Q
    for k in (1, 5, 20):
        x = torch.cat([q[:k], -q[:k]])  # k directions, centred, all equally strong
        assert effective_rank(x) == pytest.approx(k, rel=1e-5)
        assert effective_rank(3 * x + 7) == pytest.approx(k, rel=1e-5)  # neither scale nor the mean of all counts


def test_a_weak_direction_counts_little() -> None:
    x = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 0.01], [0.0, -0.01]])
    assert 1 < effective_rank(x) < 1.1


def test_spread() -> None:
    torch.manual_seed(0)
    assert feature_spread(torch.randn(2000, 32)) == pytest.approx(1, abs=0.02)
    assert feature_spread(torch.randn(1, 32).expand(50, 32)) == pytest.approx(0, abs=1e-7)
    assert feature_spread(torch.randn(1, 32) + 0.01 * torch.randn(50, 32)) < 0.02


def test_one_image_or_none_that_differs_is_no_error() -> None:
    assert effective_rank(torch.ones(1, 8)) == pytest.approx(1)
    assert effective_rank(torch.ones(5, 8)) == pytest.approx(1)

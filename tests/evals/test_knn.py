from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import Tensor

from maskery.evals.features import Features
from maskery.evals.knn import Voting, knn_accuracies, knn_scores, labelled_token, neighbours, token


def by_hand(bank: Tensor, y: Tensor, queries: Tensor, z: Tensor, k: int, tau: float) -> float:
    right = 0
    for q, truth in zip(queries, z, strict=True):
        cos = torch.nn.functional.cosine_similarity(bank, q[None])
        votes: dict[int, float] = {}
        for i in cos.argsort(descending=True)[:k].tolist():
            votes[int(y[i])] = votes.get(int(y[i]), 0.0) + float(torch.exp(cos[i] / tau))
        right += max(votes, key=votes.__getitem__) == int(truth)
    return right / len(z)


def top1(bank: Tensor, y: Tensor, queries: Tensor, z: Tensor, classes: int, k: int = 20, tau: float = 0.07) -> float:
    return knn_scores((bank, y), (queries, z), classes, Voting(k, tau))["top1"]


@pytest.mark.parametrize(("k", "tau"), [(1, 0.07), (5, 0.07), (20, 1.0), (500, 0.1)])
def test_equals_the_definition(k: int, tau: float) -> None:
    torch.manual_seed(0)
    bank, queries = torch.randn(60, 6), torch.randn(33, 6)
    y, z = torch.randint(0, 4, (60,)), torch.randint(0, 4, (33,))
    assert top1(bank, y, queries, z, 4, k, tau) == pytest.approx(by_hand(bank, y, queries, z, k, tau))


def test_bad_values() -> None:
    with pytest.raises(ValueError, match="k is 0"):
        Voting(k=0)
    with pytest.raises(ValueError, match="temperature is 0"):
        Voting(temperature=0)


def features(class_token: Tensor, mean_patch: Tensor, first: int = 0) -> Features:
    return Features(class_token, mean_patch, np.arange(first, first + len(class_token)), [])


@pytest.mark.parametrize("k", [1, 7, 64])
def test_no_block_size_changes_a_bit(k: int) -> None:
    torch.manual_seed(1)
    bank, queries = torch.randn(64, 40), torch.randn(21, 40)
    whole = neighbours(bank, queries, k)
    for block in (1, 3, 13, 63):
        nearest = neighbours(bank, queries, k, block=block)
        assert torch.equal(nearest.similarity, whole.similarity)
        assert torch.equal(nearest.index, whole.index)
    alone = [neighbours(bank, q[None], k) for q in queries]
    assert torch.equal(torch.cat([a.similarity for a in alone]), whole.similarity)


def test_cosines_have_no_rounding_error() -> None:
    """Against Python's fractions; any order of the width gives the same bits."""
    torch.manual_seed(2)
    bank, queries = torch.randn(9, 80), torch.randn(4, 80)
    nearest = neighbours(bank, queries, 9)
    order = torch.randperm(80)
    assert torch.equal(neighbours(bank[:, order], queries[:, order], 9).similarity, nearest.similarity)

    def exact(x: Tensor) -> list[Fraction]:
        unit = torch.nn.functional.normalize(x.double(), dim=0)
        return [Fraction(round(v * 2**24), 2**24) for v in unit.tolist()]

    for q, similarity, index in zip(queries, nearest.similarity, nearest.index, strict=True):
        for s, i in zip(similarity.tolist(), index.tolist(), strict=True):
            assert Fraction(s) == sum(a * b for a, b in zip(exact(q), exact(bank[i]), strict=True))
    torch.testing.assert_close(
        nearest.similarity.float()[:, 0], torch.cosine_similarity(queries, bank[nearest.index[:, 0]]), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("block", [2, 5, 40])
def test_equally_near_images_vote_in_the_banks_order(block: int) -> None:
    directions = torch.eye(4)
    bank = directions[torch.tensor([0, 1, 1, 2, 1, 1, 3, 1, 0, 1])]
    nearest = neighbours(bank, 3 * directions[[1, 0]], 4, block=block)
    assert nearest.index.tolist() == [[1, 2, 4, 5], [0, 8, 1, 2]]


def test_fewer_images_than_k_all_vote() -> None:
    x, y = torch.randn(6, 4), torch.tensor([0, 1, 0, 1, 1, 1])
    assert neighbours(x, x, 20).index.shape == (6, 6)
    assert top1(x, y, x, y, 2, k=20) == top1(x, y, x, y, 2, k=6)


def test_a_tiny_temperature_is_the_nearest_neighbour() -> None:
    """exp(1 / 0.0001) is more than any number."""
    torch.manual_seed(3)
    bank, queries, y, z = torch.randn(50, 5), torch.randn(30, 5), torch.arange(50) % 3, torch.arange(30) % 3
    assert top1(bank, y, queries, z, 3, k=20, tau=1e-4) == top1(bank, y, queries, z, 3, k=1)


def test_top_5_and_balanced_accuracy() -> None:
    bank, y = torch.eye(8), torch.arange(8)
    queries = bank[[0, 0, 0, 1]], torch.tensor([0, 0, 3, 1])
    numbers = knn_scores((bank, y), queries, 8, Voting(k=2))
    assert numbers == {"top1": 0.75, "top5": 1.0, "balanced_accuracy": pytest.approx(2 / 3)}


def test_both_is_the_mean_of_the_two_cosines() -> None:
    torch.manual_seed(4)
    bank, queries = (features(torch.randn(n, 6), 100 * torch.randn(n, 6)) for n in (12, 5))
    both = neighbours(token(bank, "both"), token(queries, "both"), 12)
    for q in range(5):
        for s, i in zip(both.similarity[q].tolist(), both.index[q].tolist(), strict=True):
            each = [
                torch.cosine_similarity(a[q], b[i], dim=0)
                for a, b in ((queries.class_token, bank.class_token), (queries.mean_patch, bank.mean_patch))
            ]
            assert s == pytest.approx(float(sum(each)) / 2, abs=1e-5)


def test_only_the_drawn_images_vote() -> None:
    torch.manual_seed(5)
    bank, queries = features(torch.randn(20, 6), torch.randn(20, 6), 10), features(torch.randn(9, 6), torch.randn(9, 6))
    labels = np.arange(40) % 2
    drawn = bank.subset(np.array([11, 14, 15, 29, 35]))  # the last could not be read
    assert drawn.indices.tolist() == [11, 14, 15, 29]
    votes = (labelled_token(part, "class_token", labels) for part in (drawn, queries))
    at = torch.tensor([1, 4, 5, 19])
    y, z = torch.from_numpy(labels[10:30]), torch.from_numpy(labels[:9])
    few = top1(bank.class_token[at], y[at], queries.class_token, z, 2, k=3)
    assert knn_scores(*votes, 2, Voting(k=3)) == {"top1": few, "balanced_accuracy": pytest.approx(few, abs=0.2)}
    assert knn_accuracies(bank, queries, labels, 2) == {
        "knn_mean_patch": top1(bank.mean_patch, y, queries.mean_patch, z, 2),
        "knn_class_token": top1(bank.class_token, y, queries.class_token, z, 2),
    }


def test_nan_is_refused() -> None:
    x = torch.randn(5, 3)
    bad = x.clone()
    bad[2, 1] = float("nan")
    with pytest.raises(ValueError, match=r"features \(bank\) of 1 of 5 images hold NaN"):
        neighbours(bad, x, 2)
    with pytest.raises(
        ValueError, match=r"features \(queries\) of 1 of 5 images hold NaN or infinity; the first is number 2"
    ):
        neighbours(x, bad, 2)
    with pytest.raises(ValueError, match="the bank is empty"):
        neighbours(x[:0], x, 2)

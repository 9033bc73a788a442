"""The linear probe: at the optimum, on known data, and on features of images."""

import pytest
import torch
from torch import Tensor

from maskery.demo import scenes
from maskery.evals.linear_probe import STRENGTHS, accuracy, fit, linear_probe
from maskery.nn.vit import ViT, ViTConfig


def clouds(n: int, spread: float, seed: int) -> tuple[Tensor, Tensor]:
    """Three classes around the corners of a triangle, in features of very different scales, one of them constant."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(0, 3, (n,), generator=generator)
    corners = torch.tensor([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0]])
    x = corners[y] + spread * torch.randn(n, 2, generator=generator)
    return torch.cat([x * torch.tensor([1e-3, 1e3]) + 7, torch.full((n, 1), 5.0)], dim=1), y


@pytest.mark.parametrize("l2", [1e-1, 1e-3])
def test_the_gradient_at_the_optimum_is_zero(l2: float) -> None:
    """Written out: d loss / dW = x^T (p - onehot) / n + l2 W, d loss / db = mean (p - onehot)."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(80, 5, generator=generator, dtype=torch.float64)
    y = torch.randint(0, 4, (80,), generator=generator)
    W, b = fit(x, y, 4, l2)
    p = torch.exp(x @ W + b)
    p = p / p.sum(1, keepdim=True)
    wrong = p - torch.eye(4, dtype=torch.float64)[y]
    assert (x.T @ wrong / 80 + l2 * W).abs().max() < 1e-5
    assert wrong.mean(0).abs().max() < 1e-5
    assert W.abs().max() > 1e-2
    start = torch.randn(6, 4, generator=generator, dtype=torch.float64)
    again = fit(x, y, 4, l2, (start[:5], start[5]))
    torch.testing.assert_close(again[0], W, rtol=1e-3, atol=1e-4)  # one optimum, wherever it starts


def test_separated_classes_are_found_whatever_the_scale_of_the_features() -> None:
    bank, y = clouds(200, 0.3, 0)
    queries, truth = clouds(100, 0.3, 1)
    assert linear_probe(bank, y, queries, truth, 3) == 1.0


def test_overlapping_classes_reach_what_the_best_rule_reaches() -> None:
    """The best rule for equal round clouds takes the nearest corner."""
    bank, y = clouds(2000, 2.0, 0)
    queries, truth = clouds(2000, 2.0, 1)
    corners = torch.tensor([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0]])
    plain = (queries[:, :2] - 7) / torch.tensor([1e-3, 1e3])
    best = float((torch.cdist(plain, corners).argmin(1) == truth).float().mean())
    assert 0.7 < best < 0.95
    assert linear_probe(bank, y, queries, truth, 3) == pytest.approx(best, abs=0.015)


def test_the_strength_of_the_regularisation_is_chosen() -> None:
    """400 images, a quarter of them with the wrong label, 150 features: the weakest fit learns the mistakes."""
    generator = torch.Generator().manual_seed(3)

    def drawn(n: int, wrong: float) -> tuple[Tensor, Tensor]:
        y = torch.arange(n) % 2
        x = torch.randn(n, 150, generator=generator)
        x[:, 0] += 3.0 * (y * 2 - 1)
        flipped = torch.rand(n, generator=generator) < wrong
        return x, torch.where(flipped, 1 - y, y)

    (bank, y), (queries, truth) = drawn(400, 0.25), drawn(500, 0.0)
    weakest = accuracy(queries, truth, fit(bank, y, 2, STRENGTHS[-1]))
    strongest = accuracy(queries, truth, fit(bank, y, 2, STRENGTHS[0]))
    assert strongest > weakest + 0.08
    assert linear_probe(bank, y, queries, truth, 2) > weakest + 0.03


def test_a_query_is_judged_alone() -> None:
    bank, y = clouds(100, 1.0, 0)
    queries, truth = clouds(40, 1.0, 1)
    alone = [linear_probe(bank, y, q[None], t[None], 3) for q, t in zip(queries[:5], truth[:5], strict=True)]
    assert sum(alone) == pytest.approx(5 * linear_probe(bank, y, queries[:5], truth[:5], 3))
    assert sum(alone) >= 4


def test_the_same_features_give_the_same_number_and_other_state_is_not_touched() -> None:
    bank, y = clouds(100, 2.0, 0)
    queries, truth = clouds(100, 2.0, 1)
    torch.manual_seed(5)
    first, state = linear_probe(bank, y, queries, truth, 3), torch.get_rng_state()
    torch.manual_seed(99)
    assert linear_probe(bank, y, queries, truth, 3) == first
    torch.manual_seed(5)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_class_nobody_has_and_few_images() -> None:
    bank, y = clouds(3, 0.1, 0)
    assert 0 <= linear_probe(bank, y, bank, y, 7) <= 1
    with pytest.raises(ValueError, match="the bank has 1 images: a linear probe needs at least 2"):
        linear_probe(bank[:1], y[:1], bank, y, 3)


def test_features_of_scenes_say_more_than_chance() -> None:
    """Even an untrained encoder's: ten classes, chance is 10 %, and shuffled labels give no more than that."""
    torch.manual_seed(0)
    encoder = ViT(ViTConfig(96, 2, 3, 8, (32, 32))).eval()
    pictures = [scenes.scene(0, i, 32) for i in range(600)]
    x = torch.stack([torch.from_numpy(s.image) for s in pictures]).permute(0, 3, 1, 2) / 255
    y = torch.tensor([s.label for s in pictures])
    with torch.no_grad():
        features = encoder(x)[1].mean(1)
    assert linear_probe(features[:400], y[:400], features[400:], y[400:], 10) > 0.2
    assert linear_probe(features[:400], y[torch.randperm(400)], features[400:], y[400:], 10) < 0.16

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from maskery.demo import scenes
from maskery.evals import linear_probe
from maskery.evals.linear_probe import (
    DEFAULT_C,
    GRID,
    STRENGTHS,
    LogisticProbe,
    fit,
    held_tenth,
    loss,
    probe,
    probe_accuracy,
    standardise,
)
from maskery.evals.metrics import multilabel, scores
from maskery.nn.vit import ViT, ViTConfig


def clouds(n: int, spread: float, seed: int, classes: int = 4) -> tuple[Tensor, Tensor]:
    """One cloud a class, in features of very different scales, the last of them constant."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, 6, generator=torch.Generator().manual_seed(99)) * 3
    y = torch.arange(n) % classes
    x = centres[y] + spread * torch.randn(n, 6, generator=generator)
    return torch.cat([x * 10.0 ** torch.arange(-3, 3) + 7, torch.full((n, 1), 5.0)], dim=1), y


def rows_of(x: Tensor) -> np.ndarray:
    return standardise(x.double(), x.double(), correction=0)[0].numpy()


def test_random_labels_stay_near_chance() -> None:
    generator = torch.Generator().manual_seed(0)
    x, queries = torch.randn(800, 40, generator=generator), torch.randn(2000, 40, generator=generator)
    y, truth = (torch.randint(0, 4, (n,), generator=generator) for n in (800, 2000))
    result = probe(x, y, queries, 4)
    assert scores(result.logits, truth)["top1"] == pytest.approx(0.25, abs=0.03)  # three standard deviations
    assert result.C < 1e-3  # the mean of the classes is the best that can be said


@pytest.mark.parametrize("classes", [2, 4])
def test_it_is_scikit_learns(classes: int) -> None:
    (x, y), (queries, _) = clouds(300, 3.0, 0, classes), clouds(50, 3.0, 1, classes)
    result = probe(x, y, queries, classes)
    scaler = StandardScaler().fit(x.double().numpy())
    model = LogisticRegression(C=result.C, max_iter=1000).fit(scaler.transform(x.double().numpy()), y.numpy())
    expected = model.predict_log_proba(scaler.transform(queries.double().numpy()))
    torch.testing.assert_close(result.logits.log_softmax(1), torch.from_numpy(expected), rtol=1e-6, atol=1e-6)


def test_the_chosen_one_is_the_one_with_the_least_loss_on_the_tenth() -> None:
    """Every C is tried here, by scikit-learn itself, without starting from the one before."""
    x, y = clouds(300, 4.0, 0)
    rows = rows_of(x)
    held = held_tenth(y.numpy())
    rest = np.setdiff1d(np.arange(300), held)
    losses = []
    for C in GRID:
        model = LogisticRegression(C=C, max_iter=5000).fit(rows[rest], y.numpy()[rest])
        losses.append(loss(torch.from_numpy(model.decision_function(rows[held])), y[held]))
    best = GRID[int(np.argmin(losses))]
    assert GRID[0] < best < GRID[-1]
    assert best == probe(x, y, x, 4).C


def test_the_queries_decide_nothing() -> None:
    """Neither C nor the fit: an answer is the same among other queries. Their labels are not even handed over."""
    (x, y), (queries, _) = clouds(300, 4.0, 0), clouds(60, 4.0, 1)
    whole, one = probe(x, y, queries, 4), probe(x, y, queries[7:8] + 0.0, 4)
    torch.testing.assert_close(one.logits[0], whole.logits[7], rtol=1e-12, atol=1e-12)
    shifted = queries.clone()
    shifted[8:] *= 1000
    torch.testing.assert_close(probe(x, y, shifted, 4).logits[7], whole.logits[7], rtol=1e-12, atol=1e-12)


def test_the_tenth_is_of_every_class_alike() -> None:
    y = np.repeat(np.arange(5), [100, 50, 20, 1, 2])
    held = held_tenth(y)
    counts = np.bincount(y[held], minlength=5)
    assert len(held) == pytest.approx(17, abs=1)
    assert counts[3] == 0
    assert counts[4] < 2
    assert np.abs(counts[:3] - [10, 5, 2]).max() <= 1
    assert np.array_equal(held, held_tenth(y))
    assert not np.array_equal(held, held_tenth(y, seed=1))
    assert len(held_tenth(np.array([0, 0, 1]))) == 1
    assert len(held_tenth(np.zeros((40, 3), np.int64))) == 4


def test_one_image_a_class() -> None:
    x, y = clouds(4, 0.1, 0)
    result = probe(x, y, x, 4)
    assert result.C == DEFAULT_C
    assert "classes have one image each" in result.notes[0]
    assert result.logits.argmax(1).tolist() == y.tolist()


def test_the_end_of_the_grid_and_an_early_stop_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = clouds(300, 4.0, 0)
    assert probe(x, y, x, 4).notes == ()
    with monkeypatch.context() as patch:
        patch.setattr(linear_probe, "ITERATIONS", 2)
        assert "the solver stopped before the optimum, after 2 iterations" in probe(x, y, x, 4).notes
    x, y = clouds(200, 0.3, 0)
    noise = torch.randn(200, 40, generator=torch.Generator().manual_seed(0))
    for bank, grid, end in (
        (x, (1e-6, 1e-5), "1e-05 is the largest"),
        (noise, (1.0, 10.0, 100.0), "1 is the smallest"),
    ):
        monkeypatch.setattr(linear_probe, "GRID", grid)
        assert probe(bank, y, bank, 4).notes == (f"C = {end} that was tried, another one may be better",)


def test_a_class_without_images_is_never_predicted() -> None:
    (x, y), (queries, truth) = clouds(100, 0.3, 0), clouds(40, 0.3, 1)
    result = probe(x, y * 2, queries, 9).logits
    assert torch.isfinite(result).all()
    assert (result.argmax(1) == truth * 2).all()
    assert result.softmax(1)[:, 1::2].sum() == 0


def test_what_cannot_be_learned() -> None:
    x, y = clouds(100, 0.3, 0)
    with pytest.raises(ValueError, match="100 images of 1 classes"):
        probe(x, y * 0, x, 4)
    with pytest.raises(ValueError, match="1 images of"):
        probe(x[:1], torch.zeros(1, 3, dtype=torch.long), x, 3)


# ----------------------------------------------------------------------------------------- several labels an image
def tagged(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Three labels, each from the sign of its own feature; a fourth that nobody has, a fifth that all have."""
    x = torch.randn(n, 6, generator=torch.Generator().manual_seed(seed))
    tags = (x[:, :3] > torch.tensor([0.0, 0.5, -1.0])).long()
    return x, torch.cat([tags, torch.zeros(n, 1, dtype=torch.long), torch.ones(n, 1, dtype=torch.long)], dim=1)


def test_several_labels_are_as_many_models() -> None:
    (x, y), (queries, truth) = tagged(400, 0), tagged(200, 1)
    result = probe(x, y, queries, 5)
    numbers, each = multilabel(result.logits, truth)
    assert min(each[:3]) > 0.99
    assert numbers["classes_with_images"] == 4
    rows, queries = (part.numpy() for part in standardise(x.double(), queries.double(), correction=0))
    for label in range(3):
        model = LogisticRegression(C=result.C, max_iter=1000).fit(rows, y[:, label].numpy())
        expected = torch.from_numpy(model.decision_function(queries))
        torch.testing.assert_close(result.logits[:, label], expected, rtol=1e-5, atol=1e-5)
    assert result.logits[:, 3].unique().tolist() == [pytest.approx(np.log(0.5 / 400.5))]
    assert result.logits[:, 4].unique().tolist() == [pytest.approx(np.log(400.5 / 0.5))]


def test_a_fit_that_starts_from_another_ends_at_the_same_optimum() -> None:
    x, y = clouds(300, 4.0, 0)
    rows = rows_of(x)
    warm = LogisticProbe(4, False).fit(rows, y.numpy(), 100.0).fit(rows, y.numpy(), 0.01)
    cold = LogisticProbe(4, False).fit(rows, y.numpy(), 0.01)
    torch.testing.assert_close(warm.logits(rows), cold.logits(rows), rtol=0, atol=0.02)
    assert not torch.equal(cold.logits(rows), LogisticProbe(4, False).fit(rows, y.numpy(), 100.0).logits(rows))


# ------------------------------------------------------------------------------------------------- on the device
def triangle(n: int, spread: float, seed: int) -> tuple[Tensor, Tensor]:
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


def test_overlapping_classes_reach_what_the_best_rule_reaches() -> None:
    """The best rule for equal round clouds takes the nearest corner."""
    bank, y = triangle(2000, 2.0, 0)
    queries, truth = triangle(2000, 2.0, 1)
    corners = torch.tensor([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0]])
    plain = (queries[:, :2] - 7) / torch.tensor([1e-3, 1e3])
    best = float((torch.cdist(plain, corners).argmin(1) == truth).float().mean())
    assert 0.7 < best < 0.95
    assert probe_accuracy(bank, y, queries, truth, 3) == pytest.approx(best, abs=0.015)


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
    classifiers = (fit(bank, y, 2, STRENGTHS[i]) for i in (0, -1))
    strongest, weakest = (float(((queries @ W + b).argmax(1) == truth).float().mean()) for W, b in classifiers)
    assert strongest > weakest + 0.08
    assert probe_accuracy(bank, y, queries, truth, 2) > weakest + 0.03


def test_on_the_device_a_query_is_judged_alone() -> None:
    bank, y = triangle(100, 1.0, 0)
    queries, truth = triangle(40, 1.0, 1)
    alone = [probe_accuracy(bank, y, q[None], t[None], 3) for q, t in zip(queries[:5], truth[:5], strict=True)]
    assert sum(alone) == pytest.approx(5 * probe_accuracy(bank, y, queries[:5], truth[:5], 3))
    assert sum(alone) >= 4


def test_the_same_features_give_the_same_number_and_other_state_is_not_touched() -> None:
    bank, y = triangle(100, 2.0, 0)
    queries, truth = triangle(100, 2.0, 1)
    torch.manual_seed(5)
    first, state = probe_accuracy(bank, y, queries, truth, 3), torch.get_rng_state()
    torch.manual_seed(99)
    assert probe_accuracy(bank, y, queries, truth, 3) == first
    torch.manual_seed(5)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_class_without_images_and_few_images() -> None:
    bank, y = triangle(3, 0.1, 0)
    assert 0 <= probe_accuracy(bank, y, bank, y, 7) <= 1
    with pytest.raises(ValueError, match="the bank has 1 images: a linear probe needs at least 2"):
        probe_accuracy(bank[:1], y[:1], bank, y, 3)


def test_features_of_scenes_say_more_than_chance() -> None:
    """Even an untrained encoder's: ten classes, chance is 10 %, and shuffled labels give no more than that."""
    torch.manual_seed(0)
    encoder = ViT(ViTConfig(96, 2, 3, 8, (32, 32))).eval()
    pictures = [scenes.scene(0, i, 32) for i in range(600)]
    x = torch.stack([torch.from_numpy(s.image) for s in pictures]).permute(0, 3, 1, 2) / 255
    y = torch.tensor([s.label for s in pictures])
    with torch.no_grad():
        features = encoder(x)[1].mean(1)
    assert probe_accuracy(features[:400], y[:400], features[400:], y[400:], 10) > 0.2
    assert probe_accuracy(features[:400], y[torch.randperm(400)], features[400:], y[400:], 10) < 0.16

"""The quick probe: scikit-learn's numbers, known data, and nothing learned from what it is asked."""

import sys

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from maskery.evals.metrics import multilabel, scores
from maskery.evals.quick import GRID, UNCHOSEN, Model, loss, quick, standardised, tenth


def clouds(n: int, spread: float, seed: int, classes: int = 4) -> tuple[Tensor, Tensor]:
    """One cloud a class, in features of very different scales, the last of them constant."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, 6, generator=torch.Generator().manual_seed(99)) * 3
    y = torch.arange(n) % classes
    x = centres[y] + spread * torch.randn(n, 6, generator=generator)
    return torch.cat([x * 10.0 ** torch.arange(-3, 3) + 7, torch.full((n, 1), 5.0)], dim=1), y


def test_separable_features_reach_100_percent() -> None:
    (x, y), (asked, truth) = clouds(200, 0.3, 0), clouds(100, 0.3, 1)
    assert scores(quick(x, y, asked, 4).logits, truth)["top1"] == 1.0


def test_random_labels_stay_near_chance() -> None:
    generator = torch.Generator().manual_seed(0)
    x, asked = torch.randn(800, 40, generator=generator), torch.randn(2000, 40, generator=generator)
    y, truth = (torch.randint(0, 4, (n,), generator=generator) for n in (800, 2000))
    found = quick(x, y, asked, 4)
    assert scores(found.logits, truth)["top1"] == pytest.approx(0.25, abs=0.03)  # three standard deviations
    assert found.C < 1e-3  # the mean of the classes is the best that can be said


@pytest.mark.parametrize("classes", [2, 4])
def test_it_is_scikit_learns(classes: int) -> None:
    (x, y), (asked, _) = clouds(300, 3.0, 0, classes), clouds(50, 3.0, 1, classes)
    found = quick(x, y, asked, classes)
    scaler = StandardScaler().fit(x.double().numpy())
    model = LogisticRegression(C=found.C, max_iter=1000).fit(scaler.transform(x.double().numpy()), y.numpy())
    expected = model.predict_log_proba(scaler.transform(asked.double().numpy()))
    torch.testing.assert_close(found.logits.log_softmax(1), torch.from_numpy(expected), rtol=1e-6, atol=1e-6)


def test_the_chosen_one_is_the_one_with_the_least_loss_on_the_tenth() -> None:
    """Every C is tried here, by scikit-learn itself, without starting from the one before."""
    x, y = clouds(300, 4.0, 0)
    rows, _ = standardised(x, x)
    held = tenth(y.numpy())
    rest = np.setdiff1d(np.arange(300), held)
    losses = []
    for C in GRID:
        model = LogisticRegression(C=C, max_iter=5000).fit(rows[rest], y.numpy()[rest])
        losses.append(loss(torch.from_numpy(model.decision_function(rows[held])), y[held]))
    best = GRID[int(np.argmin(losses))]
    assert GRID[0] < best < GRID[-1]
    assert best == quick(x, y, x, 4).C


def test_the_queries_decide_nothing() -> None:
    """Neither C nor the fit: an answer is the same among other queries. Their labels are not even handed over."""
    (x, y), (asked, _) = clouds(300, 4.0, 0), clouds(60, 4.0, 1)
    whole, one = quick(x, y, asked, 4), quick(x, y, asked[7:8] + 0.0, 4)
    torch.testing.assert_close(one.logits[0], whole.logits[7], rtol=1e-12, atol=1e-12)
    shifted = asked.clone()
    shifted[8:] *= 1000
    torch.testing.assert_close(quick(x, y, shifted, 4).logits[7], whole.logits[7], rtol=1e-12, atol=1e-12)


def test_the_tenth_is_of_every_class_alike() -> None:
    y = np.repeat(np.arange(5), [100, 50, 20, 1, 2])
    held = tenth(y)
    counts = np.bincount(y[held], minlength=5)
    assert len(held) == pytest.approx(17, abs=1)
    assert counts[3] == 0
    assert counts[4] < 2
    assert np.abs(counts[:3] - [10, 5, 2]).max() <= 1
    assert np.array_equal(held, tenth(y))
    assert not np.array_equal(held, tenth(y, seed=1))
    assert len(tenth(np.array([0, 0, 1]))) == 1
    assert len(tenth(np.zeros((40, 3), np.int64))) == 4


def test_one_image_a_class() -> None:
    x, y = clouds(4, 0.1, 0)
    found = quick(x, y, x, 4)
    assert found.C == UNCHOSEN
    assert "classes have one image each" in found.notes[0]
    assert found.logits.argmax(1).tolist() == y.tolist()


def test_the_end_of_the_grid_and_an_early_stop_are_said() -> None:
    x, y = clouds(200, 0.3, 0)
    largest = quick(x, y, x, 4, grid=[1e-6, 1e-5])
    assert largest.notes == ("C = 1e-05 is the largest that was tried, another one may be better",)
    noise = torch.randn(200, 40, generator=torch.Generator().manual_seed(0))
    smallest = quick(noise, y, noise, 4, grid=[1.0, 10.0, 100.0])
    assert smallest.notes == ("C = 1 is the smallest that was tried, another one may be better",)
    x, y = clouds(300, 4.0, 0)
    assert quick(x, y, x, 4).notes == ()
    stopped = quick(x, y, x, 4, iterations=2).notes
    assert "the solver stopped before the optimum, after 2 iterations" in stopped


def test_a_class_nobody_has_is_never_answered() -> None:
    (x, y), (asked, truth) = clouds(100, 0.3, 0), clouds(40, 0.3, 1)
    found = quick(x, y * 2, asked, 9).logits
    assert torch.isfinite(found).all()
    assert (found.argmax(1) == truth * 2).all()
    assert found.softmax(1)[:, 1::2].sum() == 0


def test_what_cannot_be_learned() -> None:
    x, y = clouds(100, 0.3, 0)
    with pytest.raises(ValueError, match="100 images of 1 classes"):
        quick(x, y * 0, x, 4)
    with pytest.raises(ValueError, match="1 images of"):
        quick(x[:1], torch.zeros(1, 3, dtype=torch.long), x, 3)


# ----------------------------------------------------------------------------------------- several labels an image
def tagged(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Three labels, each from the sign of its own feature; a fourth that nobody has, a fifth that all have."""
    x = torch.randn(n, 6, generator=torch.Generator().manual_seed(seed))
    tags = (x[:, :3] > torch.tensor([0.0, 0.5, -1.0])).long()
    return x, torch.cat([tags, torch.zeros(n, 1, dtype=torch.long), torch.ones(n, 1, dtype=torch.long)], dim=1)


def test_several_labels_are_as_many_models() -> None:
    (x, y), (asked, truth) = tagged(400, 0), tagged(200, 1)
    found = quick(x, y, asked, 5)
    numbers, each = multilabel(found.logits, truth)
    assert min(each[:3]) > 0.99
    assert numbers["classes_with_images"] == 4
    rows, queries = standardised(x, asked)
    for label in range(3):
        model = LogisticRegression(C=found.C, max_iter=1000).fit(rows, y[:, label].numpy())
        expected = torch.from_numpy(model.decision_function(queries))
        torch.testing.assert_close(found.logits[:, label], expected, rtol=1e-5, atol=1e-5)
    assert found.logits[:, 3].unique().tolist() == [pytest.approx(np.log(0.5 / 400.5))]
    assert found.logits[:, 4].unique().tolist() == [pytest.approx(np.log(400.5 / 0.5))]


def test_a_fit_that_starts_from_another_ends_at_the_same_optimum() -> None:
    x, y = clouds(300, 4.0, 0)
    rows, _ = standardised(x, x)
    warm = Model(4, False).fit(rows, y.numpy(), 100.0).fit(rows, y.numpy(), 0.01)
    cold = Model(4, False).fit(rows, y.numpy(), 0.01)
    torch.testing.assert_close(warm.logits(rows), cold.logits(rows), rtol=0, atol=0.02)
    assert not torch.equal(cold.logits(rows), Model(4, False).fit(rows, y.numpy(), 100.0).logits(rows))


def test_without_scikit_learn_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.linear_model", None)  # as where it is not installed
    with pytest.raises(ImportError, match=r"the quick probe needs scikit-learn: pip install '.\[eval\]'"):
        quick(*clouds(100, 0.3, 0), torch.zeros(1, 7), 4)

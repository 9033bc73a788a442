"""A quick linear probe: logistic regression on features made once, solved to its optimum (extra: eval).

It is not the papers' probe (90 epochs of LARS on augmented crops) but a common stand-in for it that takes seconds, and
its numbers are to be set beside its own. The solver is scikit-learn's L-BFGS; the same features give the same number.

n training images, q queries, D width, M classes

    W, b = argmin  C * sum of cross entropy(x W + b, y) + 1/2 |W|^2,   x with the training images' mean 0 and variance 1

With several labels an image there is one such model of two classes for every class, and one C for all.
"""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..text import needs_extra

GRID = tuple(10.0 ** (k / 2) for k in range(-12, 5))  # of C, from the strongest regularisation on
WORSE = 2  # values of C in a row that are worse than the best: weaker regularisation is not tried any more
UNCHOSEN = 1.0  # C when no image can be kept out to choose by
ITERATIONS = 1000
SEED = 20_220_619  # of the tenth that chooses C


@dataclass(frozen=True)
class Probed:
    """What the classifier says about the queries."""

    logits: Tensor  # [q, M] float64
    C: float
    notes: tuple[str, ...]  # what is to be known about the fit


def quick(
    bank: Tensor,
    labels: Tensor,
    queries: Tensor,
    classes: int,
    grid: Sequence[float] = GRID,
    iterations: int = ITERATIONS,
) -> Probed:
    """Fit on the features `bank` [n, D], answer for `queries` [q, D]; `labels` are [n] class numbers or [n, M] 0 and 1.

    C is chosen by the loss on a tenth of the bank that the fits have not seen (accuracy of so few is too coarse); the
    classifier is fitted to the whole bank then.
    """
    several, y = labels.ndim == 2, labels.numpy()
    if len(bank) < 2 or (not several and len(np.unique(y)) < 2):
        raise ValueError(f"{len(bank)} images of {len(np.unique(y))} classes: a probe needs two of each at least")
    x, asked = standardised(bank, queries)
    held, C, notes = tenth(y), UNCHOSEN, []
    rest = np.setdiff1d(np.arange(len(y)), held)
    if len(held):
        model, least, worse = Model(classes, several, iterations), math.inf, 0
        for value in grid:
            logits = model.fit(x[rest], y[rest], value).logits(x[held])
            found = loss(logits, labels[torch.from_numpy(held)])
            least, C, worse = (found, value, 0) if found < least else (least, C, worse + 1)
            if worse == WORSE:
                break
        if C in (grid[0], grid[-1]):
            end = "smallest" if grid[0] == C else "largest"
            notes.append(f"C = {C:g} is the {end} that was tried, another one may be better")
    else:
        notes.append(f"classes have one image each, so none can be kept out to choose C by: it is {C:g}")
    model = Model(classes, several, iterations).fit(x, y, C)
    if not model.solved:
        notes.append(f"the solver stopped before the optimum, after {iterations} iterations")
    return Probed(model.logits(asked), C, tuple(notes))


def standardised(bank: Tensor, queries: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Both [., D] float64, by the mean and standard deviation of the bank."""
    bank, queries = bank.double(), queries.double()
    mean, std = bank.mean(0), bank.std(0, correction=0)
    std = torch.where(std > 1e-6, std, 1.0)  # a feature that is constant in the bank has no scale
    return ((bank - mean) / std).numpy(), ((queries - mean) / std).numpy()


def tenth(labels: np.ndarray, seed: int = SEED) -> np.ndarray:
    """Positions of about a tenth of the images, sorted; of every class alike, and classes of one image keep it."""
    drawn = np.random.default_rng(seed).permutation(len(labels))
    if labels.ndim == 1:
        order = np.lexsort((drawn, labels))
        drawn = order[np.bincount(labels)[labels[order]] > 1]
    return np.sort(drawn[min(4, max(0, len(drawn) - 1)) :: 10])


def loss(logits: Tensor, labels: Tensor) -> float:
    """Mean cross entropy of [n, M] logits with [n] class numbers, or with 0 and 1 [n, M]."""
    if labels.ndim == 2:
        return float(F.binary_cross_entropy_with_logits(logits, labels.double()))
    return float(F.cross_entropy(logits, labels))


class Model:
    """scikit-learn's logistic regression: one of all classes, or one for each when an image may have several."""

    def __init__(self, classes: int, several: bool, iterations: int = ITERATIONS):
        solver = solvers()
        self.classes, self.several = classes, several
        many = classes if several else 1
        self.parts: list[Any] = [solver(max_iter=iterations, warm_start=True) for _ in range(many)]
        self.constant: dict[int, float] = {}  # logits of classes that all images have, or none
        self.solved = True

    def fit(self, x: np.ndarray, y: np.ndarray, C: float) -> "Model":
        """From where the last fit ended, which only saves time."""
        from sklearn.exceptions import ConvergenceWarning

        targets = list(y.T) if self.several else [y]
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", ConvergenceWarning)
            for i, (part, target) in enumerate(zip(self.parts, targets, strict=True)):
                if len(np.unique(target)) > 1:
                    part.set_params(C=C).fit(x, target)
                else:
                    yes = target.sum()
                    self.constant[i] = math.log((yes + 0.5) / (len(target) - yes + 0.5))
        self.solved = not any(issubclass(w.category, ConvergenceWarning) for w in caught)
        return self

    def logits(self, x: np.ndarray) -> Tensor:
        """[n, M]; a class that no image of the fit has is as good as impossible."""
        if self.several:
            columns = [
                np.full(len(x), self.constant[i]) if i in self.constant else part.decision_function(x)
                for i, part in enumerate(self.parts)
            ]
            return torch.from_numpy(np.stack(columns, axis=1))
        found, known = self.parts[0].decision_function(x), self.parts[0].classes_
        out = np.full((len(x), self.classes), -1e4)
        out[:, known] = found if found.ndim == 2 else np.stack([-found / 2, found / 2], axis=1)
        return torch.from_numpy(out)


def solvers() -> type[Any]:
    """scikit-learn's class. ImportError in one line where it is not installed."""
    try:
        from sklearn.linear_model import LogisticRegression
    except ImportError as e:
        raise ImportError(f"{needs_extra('the quick probe', 'scikit-learn', 'eval')} ({e})") from e
    return LogisticRegression

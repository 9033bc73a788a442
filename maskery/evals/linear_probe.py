"""Linear probes in seconds: logistic regression on features made once, solved to its optimum, no augmentation.

They are stand-ins for the papers' probe (90 epochs of LARS on augmented crops), and comparable only with themselves.
The same features give the same number. Two solvers, whose recorded numbers stay what they are:

    probe           scikit-learn's L-BFGS in float64, for `maskery eval probe --quick`
        W, b = argmin  C * sum of cross entropy(x W + b, y) + 1/2 |W|^2
    probe_accuracy  torch's L-BFGS in float32 on the features' device, for `maskery compare`
        W, b = argmin  mean cross entropy(x W + b, y) + l2 / 2 |W|^2

x has the bank's mean 0 and variance 1 per feature. With several labels an image, `probe` fits one model of two classes
for every class, and chooses one C for all.

n images of the bank, q queries, D width, M classes
"""

import math
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

GRID = tuple(10.0 ** (k / 2) for k in range(-12, 5))  # of C, from the strongest regularisation on
PATIENCE = 2  # values of C in a row that are worse than the best: weaker regularisation is not tried any more
DEFAULT_C = 1.0  # when no image can be held out to choose by
ITERATIONS = 1000
STRENGTHS = (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5)  # of l2; from the strongest on, each fit starts from the one before
SEED = 20_220_619  # of the tenth of the bank that the regularisation is chosen by


@dataclass(frozen=True)
class ProbeResult:
    logits: Tensor  # [q, M] float64
    C: float
    notes: tuple[str, ...]  # limits of the fit


def probe(bank: Tensor, labels: Tensor, queries: Tensor, classes: int) -> ProbeResult:
    """Fit on `bank` [n, D] and predict `queries` [q, D]; `labels` are class numbers [n], or 0 and 1 [n, M].

    C is chosen by the loss on a tenth of the bank that the fits have not seen (accuracy of so few is too coarse); the
    classifier is then fitted to the whole bank.
    """
    multilabel, y = labels.ndim == 2, labels.numpy()
    if len(bank) < 2 or (not multilabel and len(np.unique(y)) < 2):
        raise ValueError(f"{len(bank)} images of {len(np.unique(y))} classes: a probe needs two of each at least")
    x, queries_x = (part.numpy() for part in standardise(bank.double(), queries.double(), correction=0))
    held, notes = held_tenth(y), []
    if len(held):
        C = _choose_c(LogisticProbe(classes, multilabel), x, y, held)
        if C in (GRID[0], GRID[-1]):
            end = "smallest" if GRID[0] == C else "largest"
            notes.append(f"C = {C:g} is the {end} that was tried, another one may be better")
    else:
        C = DEFAULT_C
        notes.append(f"classes have one image each, so none can be held out to choose C by: it is {C:g}")
    model = LogisticProbe(classes, multilabel).fit(x, y, C)
    if not model.converged:
        notes.append(f"the solver stopped before the optimum, after {ITERATIONS} iterations")
    return ProbeResult(model.logits(queries_x), C, tuple(notes))


def _choose_c(model: "LogisticProbe", x: np.ndarray, y: np.ndarray, held: np.ndarray) -> float:
    """The C of `GRID` with the least loss on the rows `held`, when fitted to all others."""
    rest = np.setdiff1d(np.arange(len(y)), held)
    least, best, worse = math.inf, DEFAULT_C, 0
    for C in GRID:
        value = loss(model.fit(x[rest], y[rest], C).logits(x[held]), torch.from_numpy(y[held]))
        least, best, worse = (value, C, 0) if value < least else (least, best, worse + 1)
        if worse == PATIENCE:
            break
    return best


def standardise(bank: Tensor, queries: Tensor, correction: int) -> tuple[Tensor, Tensor]:
    """Shift and scale both by the mean and standard deviation of the bank's features."""
    mean, std = bank.mean(0), bank.std(0, correction=correction)
    std = torch.where(std > 1e-6, std, 1.0)  # a feature that is constant in the bank has no scale
    return (bank - mean) / std, (queries - mean) / std


def held_tenth(labels: np.ndarray, seed: int = SEED) -> np.ndarray:
    """Positions of about a tenth of the images, sorted; of every class alike, and classes of one image keep it."""
    order = np.random.default_rng(seed).permutation(len(labels))
    if labels.ndim == 1:
        by_class = np.lexsort((order, labels))
        order = by_class[np.bincount(labels)[labels[by_class]] > 1]
    return np.sort(order[min(4, max(0, len(order) - 1)) :: 10])


def loss(logits: Tensor, labels: Tensor) -> float:
    """Mean cross entropy of logits [n, M] with class numbers [n], or with 0 and 1 [n, M]."""
    if labels.ndim == 2:
        return float(F.binary_cross_entropy_with_logits(logits, labels.double()))
    return float(F.cross_entropy(logits, labels))


class LogisticProbe:
    """scikit-learn's logistic regression: one of all classes, or one for each when an image may have several."""

    def __init__(self, classes: int, multilabel: bool):
        from sklearn.linear_model import LogisticRegression

        self.classes, self.multilabel, self.converged = classes, multilabel, True
        models = classes if multilabel else 1
        self.models: list[Any] = [LogisticRegression(max_iter=ITERATIONS, warm_start=True) for _ in range(models)]
        self.constant: dict[int, float] = {}  # logits of classes that all images have, or none

    def fit(self, x: np.ndarray, y: np.ndarray, C: float) -> "LogisticProbe":
        """Fit, starting from where the last fit ended, which only saves time."""
        from sklearn.exceptions import ConvergenceWarning

        targets = list(y.T) if self.multilabel else [y]
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", ConvergenceWarning)
            for i, (model, target) in enumerate(zip(self.models, targets, strict=True)):
                if len(np.unique(target)) > 1:
                    model.set_params(C=C).fit(x, target)
                else:
                    positive = target.sum()
                    self.constant[i] = math.log((positive + 0.5) / (len(target) - positive + 0.5))
        self.converged = not any(issubclass(w.category, ConvergenceWarning) for w in caught)
        return self

    def logits(self, x: np.ndarray) -> Tensor:
        """[n, M]; a class without an image in the fit is as good as impossible."""
        if self.multilabel:
            columns = [
                np.full(len(x), self.constant[i]) if i in self.constant else model.decision_function(x)
                for i, model in enumerate(self.models)
            ]
            return torch.from_numpy(np.stack(columns, axis=1))
        values, known = self.models[0].decision_function(x), self.models[0].classes_
        out = np.full((len(x), self.classes), -1e4)
        out[:, known] = values if values.ndim == 2 else np.stack([-values / 2, values / 2], axis=1)
        return torch.from_numpy(out)


# ------------------------------------------------------------------------------------------------- on the device
def probe_accuracy(bank: Tensor, bank_labels: Tensor, queries: Tensor, labels: Tensor, classes: int) -> float:
    """Top-1 accuracy in [0, 1] on `queries` [q, D] of a classifier fitted to `bank` [n, D].

    l2 is chosen by the loss on a tenth of the bank; the classifier is then fitted to the whole bank.
    """
    if len(bank) < 2:
        raise ValueError(f"the bank has {len(bank)} images: a linear probe needs at least 2")
    bank, queries = standardise(bank.float(), queries.float(), correction=1)
    order = torch.randperm(len(bank), generator=torch.Generator().manual_seed(SEED)).to(bank.device)
    held, rest = order[: max(1, len(bank) // 10)], order[max(1, len(bank) // 10) :]
    least, best, start = math.inf, STRENGTHS[0], None
    for l2 in STRENGTHS:
        W, b = start = fit(bank[rest], bank_labels[rest], classes, l2, start)
        value = loss(bank[held] @ W + b, bank_labels[held])
        if value < least:
            least, best = value, l2
    W, b = fit(bank, bank_labels, classes, best)
    return float(((queries @ W + b).argmax(1) == labels).float().mean())


def fit(
    x: Tensor, y: Tensor, classes: int, l2: float, start: tuple[Tensor, Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """W [D, M] and b [M] at the optimum; the loss is convex, so `start` only saves time."""
    W, b = start or (x.new_zeros(x.shape[1], classes), x.new_zeros(classes))
    W, b = W.clone().requires_grad_(), b.clone().requires_grad_()
    solver = torch.optim.LBFGS(
        [W, b], max_iter=200, tolerance_grad=1e-6, tolerance_change=1e-9, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        solver.zero_grad()
        value = F.cross_entropy(x @ W + b, y) + l2 / 2 * W.square().sum()
        value.backward()
        return value

    solver.step(closure)
    return W.detach(), b.detach()

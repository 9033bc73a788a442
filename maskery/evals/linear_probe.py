"""A quick linear probe: multinomial logistic regression on frozen features, solved to its optimum, no augmentation.

It is not the papers' probe (90 epochs of LARS on augmented crops), and its numbers are not to be set beside theirs: it
takes seconds, and says which of two encoders separates the classes better. The same features give the same number.

n images of the bank, q queries, D width, M classes

    W, b = argmin  mean cross entropy(x W + b, y) + l2 / 2 |W|^2,   x with the bank's mean 0 and variance 1 per feature
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

STRENGTHS = (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5)  # of l2; from the strongest on, each fit starts from the one before
SEED = 20_220_619  # of the tenth of the bank that chooses among them


def linear_probe(
    bank: Tensor,  # [n, D]
    bank_labels: Tensor,  # [n] in 0 .. classes - 1
    queries: Tensor,  # [q, D]
    labels: Tensor,  # [q]
    classes: int,
) -> float:
    """Top-1 accuracy in [0, 1] on the queries of a classifier trained on the bank; l2 is chosen within the bank."""
    if len(bank) < 2:
        raise ValueError(f"the bank has {len(bank)} images: a linear probe needs at least 2")
    bank, queries = bank.float(), queries.float()
    mean, std = bank.mean(0), bank.std(0)
    std = torch.where(std > 1e-6, std, 1.0)  # a feature that is constant in the bank has no scale
    bank, queries = (bank - mean) / std, (queries - mean) / std

    order = torch.randperm(len(bank), generator=torch.Generator().manual_seed(SEED)).to(bank.device)
    held, rest = order[: max(1, len(bank) // 10)], order[max(1, len(bank) // 10) :]
    least, chosen, start = math.inf, STRENGTHS[0], None
    for l2 in STRENGTHS:
        W, b = start = fit(bank[rest], bank_labels[rest], classes, l2, start)
        loss = float(F.cross_entropy(bank[held] @ W + b, bank_labels[held]))  # accuracy of so few is too coarse
        if loss < least:
            least, chosen = loss, l2
    return accuracy(queries, labels, fit(bank, bank_labels, classes, chosen))


def fit(
    x: Tensor, y: Tensor, classes: int, l2: float, start: tuple[Tensor, Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """W [D, M] and b [M] at the optimum; the loss is convex, so `start` only saves time."""
    W, b = start or (x.new_zeros(x.shape[1], classes), x.new_zeros(classes))
    W, b = W.clone().requires_grad_(), b.clone().requires_grad_()
    solver = torch.optim.LBFGS(
        [W, b], max_iter=200, tolerance_grad=1e-6, tolerance_change=1e-9, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        solver.zero_grad()
        value = F.cross_entropy(x @ W + b, y) + l2 / 2 * W.square().sum()
        value.backward()
        return value

    solver.step(loss)
    return W.detach(), b.detach()


def accuracy(x: Tensor, y: Tensor, model: tuple[Tensor, Tensor]) -> float:
    """Share of the rows of x that the classifier puts where y says."""
    W, b = model
    return float(((x @ W + b).argmax(1) == y).float().mean())

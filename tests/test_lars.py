"""LARS against the reference code, and what it does where a norm is 0."""

from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from maskery.lars import LARS

FIXTURE = Path(__file__).parent / "fixtures" / "lars_official.safetensors"  # MAE's util/lars.py, 4 steps


def after(start: Tensor, grads: Tensor, **settings: float) -> Tensor:
    p = start.clone().requires_grad_()
    optimizer = LARS([p], **settings)
    for g in grads:
        p.grad = g.clone()
        optimizer.step()
    return p.detach()


def test_four_steps_are_the_references() -> None:
    with safe_open(FIXTURE, "pt") as f:
        said = f.metadata()
        settings = {name: float(said[name]) for name in ("lr", "momentum", "weight_decay")}
        for name in ("weight", "bias"):
            start, grads, end = (f.get_tensor(f"{name}/{what}") for what in ("start", "grads", "end"))
            torch.testing.assert_close(
                after(start, grads, trust=float(said["trust_coefficient"]), **settings), end, rtol=1e-6, atol=1e-7
            )


def test_a_matrix_of_zeros_takes_the_plain_gradient() -> None:
    """A probe starts at small weights; at none at all the trust ratio would keep it there for ever."""
    grad = torch.randn(1, 3, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(after(torch.zeros(3, 4), grad, lr=0.5), -0.5 * grad[0])


def test_nothing_moves_without_gradient() -> None:
    p = torch.nn.Parameter(torch.ones(2, 2))
    LARS([p], lr=1.0, weight_decay=0.1).step()
    assert torch.equal(p, torch.ones(2, 2))

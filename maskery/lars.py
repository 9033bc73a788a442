"""LARS, the optimiser of MAE's linear probe (You, Gitman, Ginsburg 2017; MAE's reference code, util/lars.py).

For a matrix w with gradient g, and for vectors (biases, scales) without decay and without q:

    g' = q (g + decay w),   q = trust |w| / |g + decay w|, or 1 where either norm is 0
    m <- momentum m + g',   w <- w - lr m
"""

from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT


class LARS(torch.optim.Optimizer):
    """LARS without a device synchronisation in `step`. The loop sets the learning rate before every step."""

    def __init__(
        self,
        params: ParamsT,
        lr: float = 0.0,
        weight_decay: float = 0.0,
        momentum: float = 0.9,
        trust: float = 0.001,
    ):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "trust": trust})

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        if closure is not None:
            raise ValueError("LARS takes no closure")
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if params:
                self._update(params, group)
        return None

    def _update(self, params: list[Tensor], group: dict[str, Any]) -> None:
        scaled = list(_scaled(params, group["weight_decay"], group["trust"]))
        for p in params:
            if not self.state[p]:
                self.state[p]["momentum"] = torch.zeros_like(p)
        momenta = [self.state[p]["momentum"] for p in params]
        torch._foreach_mul_(momenta, group["momentum"])
        torch._foreach_add_(momenta, scaled)
        torch._foreach_add_(params, momenta, alpha=-group["lr"])


def _scaled(params: Iterable[Tensor], decay: float, trust: float) -> Iterable[Tensor]:
    """g' of each parameter."""
    for p in params:
        g = p.grad
        assert g is not None
        if p.ndim > 1:
            g = g.add(p, alpha=decay)
            w_norm, g_norm = p.norm(), g.norm()
            g = g * torch.where((w_norm > 0) & (g_norm > 0), trust * w_norm / g_norm, 1.0)
        yield g

"""Optimisers and which parameters they treat how."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .config import OptimConfig
from .lars import LARS

USUAL = OptimConfig()


def decays(name: str, parameter: Tensor) -> bool:
    """Whether weight decay acts on a parameter: not on 1-D tensors and biases, as in MAE's reference.

    Class and mask tokens are three-dimensional and therefore decayed, there and here.
    """
    return not (parameter.ndim <= 1 or name.endswith(".bias"))


def layer_rate(name: str, depth: int, factor: float) -> float:
    """1 for what is no block of the encoder, one factor of layer decay more for each towards the patch embedding."""
    part = name.split(".")
    if part[0] != "encoder" or part[1] == "norm":
        return 1.0
    block = int(part[2]) + 1 if part[1] == "blocks" else 0
    return factor ** (depth + 1 - block)


def optimizer_of(
    module: nn.Module,
    config: OptimConfig = USUAL,
    decays: Callable[[str, Tensor], bool] = decays,
    scale: Callable[[str], float] = lambda name: 1.0,
) -> torch.optim.Optimizer:
    """The optimiser of the trainable parameters. Before every step the loop gives each group its "scale" times lr."""
    groups = grouped(module, config.weight_decay, decays, scale)
    if config.name == "lars":
        return LARS(groups, momentum=config.momentum)
    if config.name == "sgd":
        return torch.optim.SGD(groups, lr=0.0, momentum=config.momentum)
    return torch.optim.AdamW(groups, lr=0.0, betas=config.betas, fused=True)


def grouped(
    module: nn.Module,
    weight_decay: float,
    decays: Callable[[str, Tensor], bool] = decays,
    scale: Callable[[str], float] = lambda name: 1.0,
) -> list[dict[str, Any]]:
    """The trainable parameters in groups of the same weight decay and learning rate: decayed first, fastest first."""
    found: dict[tuple[bool, float], list[nn.Parameter]] = {}
    for name, p in module.named_parameters():
        if p.requires_grad:
            found.setdefault((decays(name, p), scale(name)), []).append(p)
    return [
        {"params": found[decayed, s], "weight_decay": weight_decay if decayed else 0.0, "scale": s}
        for decayed, s in sorted(found, reverse=True)
    ]

"""Optimisers, and parameter groups with their weight decay and learning-rate multiplier."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .config import OptimConfig
from .lars import LARS

USUAL = OptimConfig()


def has_weight_decay(name: str, parameter: Tensor) -> bool:
    """Whether weight decay applies to a parameter: not to biases and 1-D tensors, as in MAE's reference code.

    Class and mask tokens are three-dimensional and therefore decayed, in both.
    """
    return not (parameter.ndim <= 1 or name.endswith(".bias"))


def layer_decay_multiplier(name: str, depth: int, factor: float) -> float:
    """Learning-rate multiplier under layer decay: `factor ** layers_above`; 1 outside the encoder."""
    part = name.split(".")
    if part[0] != "encoder" or part[1] == "norm":
        return 1.0
    block = int(part[2]) + 1 if part[1] == "blocks" else 0
    return factor ** (depth + 1 - block)


def optimizer_of(
    module: nn.Module,
    config: OptimConfig = USUAL,
    decays: Callable[[str, Tensor], bool] = has_weight_decay,
    lr_multiplier: Callable[[str], float] = lambda name: 1.0,
) -> torch.optim.Optimizer:
    """Build the optimiser; before every step the loop sets the lr of each group to "scale" * lr."""
    groups = grouped(module, config.weight_decay, decays, lr_multiplier)
    if config.name == "lars":
        return LARS(groups, momentum=config.momentum)
    if config.name == "sgd":
        return torch.optim.SGD(groups, lr=0.0, momentum=config.momentum)
    return torch.optim.AdamW(groups, lr=0.0, betas=config.betas, fused=True)


def grouped(
    module: nn.Module,
    weight_decay: float,
    decays: Callable[[str, Tensor], bool] = has_weight_decay,
    lr_multiplier: Callable[[str], float] = lambda name: 1.0,
) -> list[dict[str, Any]]:
    """Group trainable parameters by weight decay and learning-rate multiplier: decayed first, largest first."""
    groups: dict[tuple[bool, float], list[nn.Parameter]] = {}
    for name, p in module.named_parameters():
        if p.requires_grad:
            groups.setdefault((decays(name, p), lr_multiplier(name)), []).append(p)
    return [
        {"params": groups[decayed, s], "weight_decay": weight_decay if decayed else 0.0, "scale": s}
        for decayed, s in sorted(groups, reverse=True)
    ]

"""Optimisers and which parameters they treat how."""

from typing import Any

import torch
from torch import nn


def decay_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two AdamW groups of the trainable parameters: decayed, and not (1-D tensors and biases), as MAE's reference does.

    Class and mask tokens are three-dimensional and therefore decayed, there and here.
    """
    named = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    plain = [p for name, p in named if p.ndim <= 1 or name.endswith(".bias")]
    decayed = [p for name, p in named if not (p.ndim <= 1 or name.endswith(".bias"))]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]


def adamw(module: nn.Module, betas: tuple[float, float], weight_decay: float) -> torch.optim.AdamW:
    """AdamW in its fused form. The learning rate is set by the loop before every step."""
    return torch.optim.AdamW(decay_groups(module, weight_decay), lr=0.0, betas=betas, fused=True)

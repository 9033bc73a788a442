"""Networks that teach and are not trained."""

import copy
from typing import Generic, Self, TypeVar

import torch
from torch import Tensor, nn

Net = TypeVar("Net", bound=nn.Module)


class Ema(nn.Module, Generic[Net]):
    """Exponential moving average of a network: in eval mode, without gradients, saved with the method.

    It starts as a copy of the student.
    """

    net: Net

    def __init__(self, student: Net):
        super().__init__()
        self.net = copy.deepcopy(student).requires_grad_(False).eval()

    @torch.no_grad()
    def update(self, student: Net, momentum: float) -> None:
        """net <- momentum net + (1 - momentum) student, all parameters at once; buffers and integers are copied."""
        ours: list[Tensor] = list(self.net.parameters())
        theirs: list[Tensor] = list(student.parameters())
        torch._foreach_lerp_(ours, theirs, 1 - momentum)
        for mine, new in zip(self.net.buffers(), student.buffers(), strict=True):
            mine.copy_(new)

    def train(self, mode: bool = True) -> Self:
        return super().train(False)


def distance(one: Tensor, other: Tensor) -> Tensor:
    """|one - other| / |other|, a scalar: 0 when they are equal."""
    return (one - other).norm() / other.norm().clamp_min(1e-12)

"""Momentum teachers: moving averages of a student."""

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
        averages: list[Tensor] = list(self.net.parameters())
        parameters: list[Tensor] = list(student.parameters())
        torch._foreach_lerp_(averages, parameters, 1 - momentum)
        for buffer, source in zip(self.net.buffers(), student.buffers(), strict=True):
            buffer.copy_(source)

    def train(self, mode: bool = True) -> Self:
        return super().train(False)


def distance(prediction: Tensor, target: Tensor) -> Tensor:
    """|prediction - target| / |target|, a scalar: 0 when they are equal."""
    return (prediction - target).norm() / target.norm().clamp_min(1e-12)

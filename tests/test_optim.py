"""Which optimiser there is, and which parameters it treats how."""

from typing import Any

import pytest
import torch
from torch import nn

from maskery.config import OptimConfig
from maskery.lars import LARS
from maskery.optim import grouped, optimizer_of


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2)
        self.token = nn.Parameter(torch.zeros(1, 1, 4))
        self.fixed = nn.Parameter(torch.zeros(3), requires_grad=False)


def names(net: nn.Module, group: dict[str, Any]) -> set[str]:
    known = {id(p): name for name, p in net.named_parameters()}
    return {known[id(p)] for p in group["params"]}


def test_matrices_are_decayed_and_vectors_are_not() -> None:
    net = Net()
    decayed, kept = grouped(net, 0.05)
    assert names(net, decayed) == {"first.weight", "last.weight", "token"}
    assert names(net, kept) == {"first.bias", "norm.weight", "norm.bias", "last.bias"}
    assert [(g["weight_decay"], g["scale"]) for g in (decayed, kept)] == [(0.05, 1.0), (0.0, 1.0)]


def test_every_scale_has_groups_of_its_own_the_fastest_first() -> None:
    net = Net()
    scale = {"first": 0.25, "norm": 0.5, "last": 1.0, "token": 0.25}
    groups = grouped(net, 0.1, lambda name, p: name != "token" and p.ndim > 1, lambda name: scale[name.split(".")[0]])
    assert [(g["weight_decay"], g["scale"]) for g in groups] == [(0.1, 1.0), (0.1, 0.25), (0, 1.0), (0, 0.5), (0, 0.25)]
    assert names(net, groups[-1]) == {"token", "first.bias"}
    assert not any("fixed" in names(net, g) for g in groups)


@pytest.mark.parametrize(
    ("config", "kind", "facts"),
    [
        (OptimConfig(), torch.optim.AdamW, {"betas": (0.9, 0.95), "weight_decay": 0.05}),
        (
            OptimConfig(betas=(0.9, 0.999), weight_decay=0.3),
            torch.optim.AdamW,
            {"betas": (0.9, 0.999), "weight_decay": 0.3},
        ),
        (OptimConfig("sgd", momentum=0.8), torch.optim.SGD, {"momentum": 0.8, "weight_decay": 0.05}),
        (OptimConfig("lars", weight_decay=0.0), LARS, {"momentum": 0.9, "weight_decay": 0.0, "trust": 0.001}),
    ],
)
def test_the_optimiser_that_is_asked_for(config: OptimConfig, kind: type, facts: dict[str, Any]) -> None:
    optimizer = optimizer_of(Net(), config)
    assert type(optimizer) is kind
    assert {name: optimizer.param_groups[0][name] for name in facts} == facts
    assert all(group["lr"] == 0 for group in optimizer.param_groups)

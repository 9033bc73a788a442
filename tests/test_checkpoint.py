"""Checkpoints are whole or not there."""

import json
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import nn

from maskery import checkpoint
from maskery.checkpoint import CheckpointError, State
from maskery.optim import optimizer_of


def trained(seed: int = 0) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 2))
    optimizer = optimizer_of(net)
    for _ in range(2):
        net(torch.randn(3, 4)).square().mean().backward()
        for group in optimizer.param_groups:
            group["lr"] = 0.1
        optimizer.step()
    return net, optimizer


def saved(root: Path, step: int, keep: int = 2) -> tuple[nn.Module, torch.optim.Optimizer]:
    net, optimizer = trained(step)
    checkpoint.save(root, net, optimizer, State(step, {"loss": 0.5}, 3, "7 images"), "seed: 0\n")
    checkpoint.prune(root, keep)
    return net, optimizer


def test_what_comes_back_is_what_was_saved(tmp_path: Path) -> None:
    net, optimizer = saved(tmp_path, 4)
    other, other_optimizer = trained(9)
    loaded = checkpoint.restore(tmp_path, other, other_optimizer)
    assert loaded is not None
    assert loaded.state == State(4, {"loss": 0.5}, 3, "7 images")
    for a, b in zip(net.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
        for key, value in optimizer.state[a].items():
            assert torch.equal(value, other_optimizer.state[b][key])


def test_old_ones_are_pruned_and_last_names_the_newest(tmp_path: Path) -> None:
    for step in (2, 4, 6):
        saved(tmp_path, step)
    assert [p.name for p in checkpoint.complete(tmp_path)] == ["step-00000004", "step-00000006"]
    assert (tmp_path / "last").read_text() == "step-00000006\n"
    saved(tmp_path, 8, keep=0)
    assert len(checkpoint.complete(tmp_path)) == 3


@pytest.mark.parametrize("damage", ["truncated", "changed", "missing", "no state"])
def test_a_damaged_one_is_passed_over(tmp_path: Path, damage: str) -> None:
    saved(tmp_path, 2)
    saved(tmp_path, 4)
    newest = tmp_path / "step-00000004"
    model = newest / "model.safetensors"
    if damage == "truncated":
        model.write_bytes(model.read_bytes()[:-10])
    elif damage == "changed":
        model.write_bytes(model.read_bytes()[:-1] + b"\x7f")
    elif damage == "missing":
        model.unlink()
    else:
        (newest / "state.json").write_text('{"step": 4,')
    loaded = checkpoint.restore(tmp_path, *trained())
    assert loaded is not None
    assert loaded.path.name == "step-00000002"
    assert len(loaded.damaged) == 1
    assert loaded.damaged[0].startswith("step-00000004: ")


def test_when_all_are_damaged(tmp_path: Path) -> None:
    saved(tmp_path, 2)
    (tmp_path / "step-00000002" / "optimizer.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"is damaged: step-00000002: optimizer.safetensors is missing"):
        checkpoint.restore(tmp_path, *trained())


def test_of_another_network(tmp_path: Path) -> None:
    saved(tmp_path, 2)
    net = nn.Linear(3, 3)
    with pytest.raises(CheckpointError, match="does not belong to the network"):
        checkpoint.restore(tmp_path, net, optimizer_of(net))


@contextmanager
def little_room() -> Iterator[None]:
    """Files of at most 1,000 bytes, as on a disk that is full: the system refuses the rest of a write.

    It holds for the whole process, so nothing but the write under test may happen inside: not pytest's own report.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


def test_a_full_disk_leaves_the_previous_one(tmp_path: Path) -> None:
    saved(tmp_path, 2)
    wanted = r"step-00000004: cannot write .*; step-00000002 is still good"
    with pytest.raises(CheckpointError, match=wanted), little_room():
        saved(tmp_path, 4)
    assert [p.name for p in tmp_path.iterdir() if p.name != "last"] == ["step-00000002"]
    assert checkpoint.check(tmp_path / "step-00000002") is None
    assert (tmp_path / "last").read_text() == "step-00000002\n"


def test_what_was_half_written_is_no_checkpoint(tmp_path: Path) -> None:
    saved(tmp_path, 2)
    partial = tmp_path / ".writing-4"
    partial.mkdir()
    (partial / "model.safetensors").write_bytes(b"abc")
    loaded = checkpoint.restore(tmp_path, *trained())
    assert loaded is not None
    assert loaded.state.step == 2
    saved(tmp_path, 4)
    assert not partial.exists()


def test_nothing_there(tmp_path: Path) -> None:
    assert checkpoint.restore(tmp_path / "nowhere", *trained()) is None
    assert json.dumps(checkpoint.newest_good(tmp_path)) == "[null, []]"

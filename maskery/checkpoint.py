"""Checkpoints: a directory each, written whole or not at all, without pickles.

checkpoints/step-00000400/model.safetensors      the objective's state dict
                          optimizer.safetensors  <state>/<parameter name>, and the groups' numbers in state.json
                          state.json             step, unfinished log sums, sizes and digests of the files
                          config.yaml            the run, should RUN/config.yaml be lost
            last                                 text: the name of the newest good one
"""

import hashlib
import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, load_file
from safetensors.torch import save as to_bytes
from torch import Tensor, nn


class CheckpointError(ValueError):
    """A checkpoint that cannot be written or read, in one line."""


@dataclass(frozen=True)
class State:
    """What a checkpoint holds beside tensors."""

    step: int
    sums: dict[str, float]  # losses since the last log line, over all processes
    count: int  # micro-batches in them
    trained_on: str  # says whether the training images are still the same


@dataclass(frozen=True)
class Loaded:
    path: Path
    state: State
    damaged: tuple[str, ...]  # newer checkpoints that could not be used, and why


def save(
    root: Path, objective: nn.Module, optimizer: torch.optim.Optimizer, state: State, config: str, keep: int
) -> Path:
    """Write `root/step-XXXXXXXX`, name it in `root/last`, remove old ones beyond `keep` (0: none).

    When the disk is full, or anything else goes wrong, `CheckpointError` says so and what was there before stays.
    """
    final, half = root / f"step-{state.step:08d}", root / f".writing-{state.step}"
    try:
        root.mkdir(parents=True, exist_ok=True)
        for stale in root.glob(".writing-*"):
            shutil.rmtree(stale) if stale.is_dir() else stale.unlink()
        half.mkdir()
        files = {
            "model.safetensors": to_bytes(_contiguous(objective.state_dict())),
            "optimizer.safetensors": to_bytes(_contiguous(_optimizer_tensors(objective, optimizer))),
            "config.yaml": config.encode(),
        }
        for name, data in files.items():
            _write(half / name, data)
        digests = {name: {"bytes": len(d), "sha256": hashlib.sha256(d).hexdigest()} for name, d in files.items()}
        _write(half / "state.json", json.dumps({**asdict(state), "files": digests}, indent=1).encode())
        if final.exists():
            shutil.rmtree(final)
        half.rename(final)
        _sync_directory(root)
        write(root / "last", f"{final.name}\n".encode())
    except OSError as e:
        shutil.rmtree(half, ignore_errors=True)
        before = [p.name for p in complete(root)]
        kept = f"{before[-1]} is still good" if before else "there is no earlier one"
        raise CheckpointError(f"{final}: cannot write the checkpoint: {e.strerror or e}; {kept}") from e
    for old in complete(root)[:-keep] if keep else []:
        shutil.rmtree(old)
    return final


def complete(root: Path) -> list[Path]:
    """The checkpoints in `root`, oldest first. What is half-written has another name."""
    return sorted(p for p in root.glob("step-*") if p.is_dir())


def write(path: Path, data: bytes) -> None:
    """Write a small file as a whole: whoever looks finds the old one or the new one."""
    half = path.with_name(f".writing-{path.name}")
    _write(half, data)
    half.replace(path)


def newest_good(root: Path) -> tuple[Path | None, tuple[str, ...]]:
    """The newest checkpoint whose files are what was written, and what is wrong with newer ones."""
    damaged: list[str] = []
    for path in reversed(complete(root)):
        problem = check(path)
        if problem is None:
            return path, tuple(damaged)
        damaged.append(f"{path.name}: {problem}")
    return None, tuple(damaged)


def check(path: Path) -> str | None:
    """What is wrong with the files of a checkpoint; None when they are as they were written."""
    try:
        for name, facts in json.loads((path / "state.json").read_text())["files"].items():
            file = path / name
            if not file.exists():
                return f"{name} is missing"
            if file.stat().st_size != facts["bytes"]:
                return f"{name} has {file.stat().st_size} bytes instead of {facts['bytes']}"
            with file.open("rb") as f:
                if hashlib.file_digest(f, "sha256").hexdigest() != facts["sha256"]:
                    return f"{name} is not what was written"
    except (OSError, KeyError, TypeError, AttributeError, ValueError) as e:
        return f"state.json is damaged ({e})"
    return None


def restore(root: Path, objective: nn.Module, optimizer: torch.optim.Optimizer) -> Loaded | None:
    """Load the newest good checkpoint into objective and optimiser; None when there is none at all.

    `CheckpointError` when there are checkpoints and every one of them is damaged, or it is of another network.
    """
    path, damaged = newest_good(root)
    if path is None:
        if damaged:
            raise CheckpointError(f"{root}: every checkpoint is damaged: {'; '.join(damaged)}")
        return None
    facts = json.loads((path / "state.json").read_text())
    state = State(facts["step"], facts["sums"], facts["count"], facts["trained_on"])
    try:
        objective.load_state_dict(load_file(path / "model.safetensors"))
        _load_optimizer(objective, optimizer, load((path / "optimizer.safetensors").read_bytes()))
    except (RuntimeError, SafetensorError) as e:
        reason = " ".join(str(e).split())[:200]
        raise CheckpointError(f"{path}: does not belong to the network of config.yaml: {reason}") from e
    return Loaded(path, state, damaged)


def _optimizer_tensors(objective: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    names: dict[Tensor, str] = {p: name for name, p in objective.named_parameters()}
    return {f"{key}/{names[p]}": value for p, state in optimizer.state.items() for key, value in state.items()}


def _load_optimizer(objective: nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    states: dict[str, dict[str, Tensor]] = {}
    for entry, value in tensors.items():
        key, name = entry.split("/", 1)
        states.setdefault(name, {})[key] = value
    names: dict[Tensor, str] = {p: name for name, p in objective.named_parameters()}
    groups = optimizer.state_dict()["param_groups"]
    order = [names[p] for group in optimizer.param_groups for p in group["params"]]
    by_index = {i: states[name] for i, name in enumerate(order) if name in states}
    optimizer.load_state_dict({"state": by_index, "param_groups": groups})


def _contiguous(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: t.detach().cpu().contiguous() for name, t in tensors.items()}


def _write(path: Path, data: bytes) -> None:
    """Write and wait until it is on the disk."""
    with path.open("wb") as f:
        f.write(data)
        f.flush()
        os.fsync(f.fileno())


def _sync_directory(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

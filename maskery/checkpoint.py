"""Checkpoints: a directory each, written whole or not at all, without pickles.

checkpoints/step-00000400/model.safetensors      the objective's state dict
                          optimizer.safetensors  <state>/<parameter name>, and the groups' numbers in state.json
                          state.json             step, unfinished log sums, sizes and digests of the files
                          config.yaml            the run, should RUN/config.yaml be lost
            last                                 text: the name of the newest good one

Of a sharded method (`shard.py`) every process writes its parts of both into a file of its own, shard-0000N-....
Whichever form it has, a run on any number of processes, sharded or not, can go on from it.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, load_file
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from . import sharding
from .distributed import ALONE, World
from .outputs import write_file


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
    root: Path,
    objective: nn.Module,
    optimizer: torch.optim.Optimizer,
    state: State,
    config: str,
    keep: int,
    world: World = ALONE,
) -> Path:
    """Write `root/step-XXXXXXXX`, name it in `root/last`, remove old ones beyond `keep` (0: none).

    When the disk is full, or anything else goes wrong, `CheckpointError` says so and what was there before stays.
    With a `world` of several processes each calls it, writes its own file, and fails when one of them does.
    """
    final, half = root / f"step-{state.step:08d}", root / f".writing-{state.step}"
    digests: dict[str, dict[str, Any]] = {}

    def begin() -> None:
        root.mkdir(parents=True, exist_ok=True)
        for stale in root.glob(".writing-*"):
            shutil.rmtree(stale) if stale.is_dir() else stale.unlink()
        half.mkdir()
        digests["config.yaml"] = _write(half / "config.yaml", config.encode())

    def tensors() -> None:
        optimizer_state = _optimizer_tensors(objective, optimizer)
        if world.size == 1:
            for name, part in (("model", objective.state_dict()), ("optimizer", optimizer_state)):
                digests[f"{name}.safetensors"] = _write(half / f"{name}.safetensors", to_bytes(_contiguous(part)))
        else:
            sharding.write_shards(half, objective.state_dict() | optimizer_state, world)
            digests[sharding.file_of(world.rank)] = _facts(half / sharding.file_of(world.rank))

    def finish() -> None:
        missing = [name for name in digests if not (half / name).exists()]
        if missing:
            raise OSError(f"{missing[0]} is not there: the nodes have to see one and the same directory")
        _write(half / "state.json", json.dumps({**asdict(state), "files": digests}, indent=1).encode())
        if final.exists():
            shutil.rmtree(final)
        half.rename(final)
        _sync_directory(root)
        write_file(root / "last", f"{final.name}\n".encode())

    try:
        _together(world, begin if world.main else None)
        _together(world, tensors)
        for theirs in world.gather(digests):
            digests |= theirs
        _together(world, finish if world.main else None)
    except OSError as e:
        if world.main:
            shutil.rmtree(half, ignore_errors=True)
        before = [p.name for p in complete(root)]
        kept = f"{before[-1]} is still good" if before else "there is no earlier one"
        raise CheckpointError(f"{final}: cannot write the checkpoint: {e.strerror or e}; {kept}") from e
    for old in complete(root)[:-keep] if keep and world.main else []:
        shutil.rmtree(old)
    return final


def complete(root: Path) -> list[Path]:
    """The checkpoints in `root`, oldest first. What is half-written has another name."""
    return sorted(p for p in root.glob("step-*") if p.is_dir())


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
            if _facts(file)["sha256"] != facts["sha256"]:
                return f"{name} is not what was written"
    except (OSError, KeyError, TypeError, AttributeError, ValueError) as e:
        return f"state.json is damaged ({e})"
    return None


def restore(root: Path, objective: nn.Module, optimizer: torch.optim.Optimizer, world: World = ALONE) -> Loaded | None:
    """Load the newest good checkpoint into objective and optimiser; None when there is none at all.

    `CheckpointError` when there are checkpoints and every one of them is damaged, or it is of another network.
    """
    path, damaged = world.gather(newest_good(root) if world.main else None)[0]  # digests are computed once
    if path is None:
        if damaged:
            raise CheckpointError(f"{root}: every checkpoint is damaged: {'; '.join(damaged)}")
        return None
    facts = json.loads((path / "state.json").read_text())
    state = State(facts["step"], facts["sums"], facts["count"], facts["trained_on"])
    try:
        if sharding.is_sharded(objective) or (path / sharding.file_of(0)).exists():
            own = {name: p for name, p in objective.named_parameters() if p.requires_grad}
            kept = [name for name in sharding.tensor_sizes(path) if "/" in name]
            kept = {name: _like(own, name) for name in kept}
            sharding.read_shards(path, objective.state_dict() | kept, world)  # reads into the parameters
        else:
            objective.load_state_dict(load_file(path / "model.safetensors"))
            kept = load((path / "optimizer.safetensors").read_bytes())
        _load_optimizer(objective, optimizer, kept)
    except (RuntimeError, ValueError, SafetensorError) as e:
        reason = " ".join(str(e).split())[:200]
        raise CheckpointError(f"{path}: does not belong to the network of config.yaml: {reason}") from e
    return Loaded(path, state, damaged)


def objective_state(path: Path) -> dict[str, Tensor]:
    """The tensors of the network in a checkpoint, whole, on the CPU. OSError, SafetensorError: they cannot be read."""
    if (path / sharding.file_of(0)).exists():
        return sharding.read_full(path, lambda name: "/" not in name)
    return load_file(path / "model.safetensors")


def _together(world: World, what: Callable[[], None] | None) -> None:
    """Do it here, something or nothing, and fail with an OSError everywhere when it fails somewhere."""
    problem = None
    try:
        if what is not None:
            what()
    except OSError as e:
        if world.size == 1:
            raise
        problem = e.strerror or str(e)
    problems = [p for p in world.gather(problem) if p is not None]
    if problems:
        raise OSError(problems[0])


def _like(own: Mapping[str, Tensor], entry: str) -> Tensor:
    """Room for the optimiser's `entry`, "exp_avg/encoder.norm.weight": as the parameter is, or one number."""
    key, name = entry.split("/", 1)
    if name not in own:
        raise ValueError(f"there is no parameter {name}")
    return torch.zeros((), device=own[name].device) if key == "step" else torch.zeros_like(own[name])


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


def _write(path: Path, data: bytes) -> dict[str, Any]:
    """Write and wait until it is on the disk; its size and digest."""
    with path.open("wb") as f:
        f.write(data)
        f.flush()
        os.fsync(f.fileno())
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def _facts(path: Path) -> dict[str, Any]:
    """Size and digest of a file."""
    with path.open("rb") as f:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(f, "sha256").hexdigest()}


def _sync_directory(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

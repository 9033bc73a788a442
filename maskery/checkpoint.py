"""Write and read checkpoints: a directory each, complete or not there, without pickles.

checkpoints/step-00000400/model.safetensors      the objective's state dict
                          optimizer.safetensors  <state>/<parameter name>, and the groups' numbers in state.json
                          state.json             step, unfinished log sums, sizes and digests of the files
                          config.yaml            the run, should RUN/config.yaml be lost
            last                                 text: the name of the newest good one

Of a sharded method (`sharding.py`) every process writes its parts of both into a file of its own, shard-0000N-....
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
from .text import one_line

Entries = dict[str, dict[str, Any]]  # file -> its size and digest


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
    world: World = ALONE,
) -> Path:
    """Write `root/step-XXXXXXXX` and name it in `root/last`.

    When the disk is full, or anything else goes wrong, `CheckpointError` says so and the earlier checkpoints stay.
    With a `world` of several processes each calls it, writes its own file, and fails when one of them does.
    """
    final, partial = root / f"step-{state.step:08d}", root / f".writing-{state.step}"
    try:
        begun = _on_all(world, (lambda: _begin(root, partial, config)) if world.main else dict)
        written = _on_all(world, lambda: _write_tensors(partial, objective, optimizer, world))
        files = {name: entry for each in (*begun, *written) for name, entry in each.items()}
        _on_all(world, (lambda: _finish(partial, final, state, files)) if world.main else dict)
    except OSError as e:
        if world.main:
            shutil.rmtree(partial, ignore_errors=True)
        earlier = [p.name for p in complete(root)]
        rest = f"{earlier[-1]} is still good" if earlier else "there is no earlier one"
        raise CheckpointError(f"{final}: cannot write the checkpoint: {e.strerror or e}; {rest}") from e
    return final


def prune(root: Path, keep: int) -> None:
    """Remove old checkpoints beyond the newest `keep`; 0 keeps all."""
    for old in complete(root)[:-keep] if keep else []:
        shutil.rmtree(old)


def complete(root: Path) -> list[Path]:
    """The checkpoints in `root`, oldest first; unfinished ones have other names."""
    return sorted(p for p in root.glob("step-*") if p.is_dir())


def newest_good(root: Path) -> tuple[Path | None, tuple[str, ...]]:
    """The newest checkpoint whose files are as they were written, and what is wrong with newer ones."""
    damaged: list[str] = []
    for path in reversed(complete(root)):
        problem = check(path)
        if problem is None:
            return path, tuple(damaged)
        damaged.append(f"{path.name}: {problem}")
    return None, tuple(damaged)


def check(path: Path) -> str | None:
    """Describe what is wrong with the files of a checkpoint; None when they are as they were written."""
    try:
        for name, entry in json.loads((path / "state.json").read_text())["files"].items():
            file = path / name
            if not file.exists():
                return f"{name} is missing"
            if file.stat().st_size != entry["bytes"]:
                return f"{name} has {file.stat().st_size} bytes instead of {entry['bytes']}"
            if _size_and_digest(file) != entry:
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
    values = json.loads((path / "state.json").read_text())
    state = State(values["step"], values["sums"], values["count"], values["trained_on"])
    try:
        if sharding.is_sharded(objective) or (path / sharding.file_of(0)).exists():
            parameters = {name: p for name, p in objective.named_parameters() if p.requires_grad}
            entries = [name for name in sharding.tensor_sizes(path) if "/" in name]
            optimizer_state = {entry: _empty_entry(parameters, entry) for entry in entries}
            sharding.read_shards(
                path, objective.state_dict() | optimizer_state, world
            )  # state_dict: the parameters themselves
        else:
            objective.load_state_dict(load_file(path / "model.safetensors"))
            optimizer_state = load((path / "optimizer.safetensors").read_bytes())
        _load_optimizer(objective, optimizer, optimizer_state)
    except (RuntimeError, ValueError, SafetensorError) as e:
        raise CheckpointError(f"{path}: does not belong to the network of config.yaml: {one_line(e)}") from e
    return Loaded(path, state, damaged)


def objective_state(path: Path) -> dict[str, Tensor]:
    """All tensors of the network in a checkpoint, on the CPU. OSError, SafetensorError: they cannot be read."""
    if (path / sharding.file_of(0)).exists():
        return sharding.read_full(path, lambda name: "/" not in name)
    return load_file(path / "model.safetensors")


def _begin(root: Path, partial: Path, config: str) -> Entries:
    root.mkdir(parents=True, exist_ok=True)
    for stale in root.glob(".writing-*"):
        shutil.rmtree(stale) if stale.is_dir() else stale.unlink()
    partial.mkdir()
    return {"config.yaml": _write(partial / "config.yaml", config.encode())}


def _write_tensors(partial: Path, objective: nn.Module, optimizer: torch.optim.Optimizer, world: World) -> Entries:
    optimizer_state = _optimizer_tensors(objective, optimizer)
    if world.size > 1:
        file = sharding.file_of(world.rank)
        sharding.write_shards(partial, objective.state_dict() | optimizer_state, world)
        return {file: _size_and_digest(partial / file)}
    parts = {"model.safetensors": objective.state_dict(), "optimizer.safetensors": optimizer_state}
    return {file: _write(partial / file, to_bytes(_contiguous(part))) for file, part in parts.items()}


def _finish(partial: Path, final: Path, state: State, files: Entries) -> Entries:
    missing = [name for name in files if not (partial / name).exists()]
    if missing:
        raise OSError(f"{missing[0]} is not there: the nodes have to see one and the same directory")
    _write(partial / "state.json", json.dumps({**asdict(state), "files": files}, indent=1).encode())
    if final.exists():
        shutil.rmtree(final)
    partial.rename(final)
    _sync_directory(final.parent)
    write_file(final.parent / "last", f"{final.name}\n".encode())
    return {}


def _on_all(world: World, work: Callable[[], Entries]) -> list[Entries]:
    """The results of every process. OSError on all of them when one of them raises it."""
    result, problem = {}, None
    try:
        result = work()
    except OSError as e:
        if world.size == 1:
            raise
        problem = e.strerror or str(e)
    results, problems = zip(*world.gather((result, problem)), strict=True)
    if any(problem is not None for problem in problems):
        raise OSError(next(problem for problem in problems if problem is not None))
    return list(results)


def _empty_entry(parameters: Mapping[str, Tensor], entry: str) -> Tensor:
    """Memory for an entry of the optimiser, "exp_avg/encoder.norm.weight": like the parameter, or one number."""
    key, name = entry.split("/", 1)
    if name not in parameters:
        raise ValueError(f"there is no parameter {name}")
    parameter = parameters[name]
    return torch.zeros((), device=parameter.device) if key == "step" else torch.zeros_like(parameter)


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
    """Write a file and wait until it is on the disk; returns its size and digest."""
    with path.open("wb") as f:
        f.write(data)
        f.flush()
        os.fsync(f.fileno())
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def _size_and_digest(path: Path) -> dict[str, Any]:
    with path.open("rb") as f:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(f, "sha256").hexdigest()}


def _sync_directory(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

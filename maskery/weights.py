"""Trained weights in: an encoder from a run, a checkpoint or an exported directory."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from . import checkpoint
from .config import Run, read
from .methods import METHODS
from .nn.vit import ViT, ViTConfig
from .objective import Objective
from .options import UsageError, options, parse


def load_encoder(where: Path) -> ViT:
    """The encoder of a run (its newest good checkpoint), of a checkpoint, or of a directory `export --to timm` wrote.

    In eval mode, on the CPU. ValueError when `where` is none of these, or its files are damaged.
    """
    encoder = ViT(encoder_config(where))
    state = _encoder_state(where, objective_state(where))
    try:
        encoder.load_state_dict(state)
    except RuntimeError as e:
        raise ValueError(f"{where}: the weights do not fit their config: {' '.join(str(e).split())[:200]}") from e
    return encoder.eval()


def start_from(objective: Objective, where: Path) -> str:
    """Load weights into a new objective before its first step; says in a sentence what was loaded."""
    state, own = objective_state(where), objective.state_dict()
    encoder = _encoder_state(where, state)
    for name, wanted in objective.encoder.state_dict().items():
        if name not in encoder or encoder[name].shape != wanted.shape:
            raise ValueError(
                f"{where}: its encoder is not the one of this run: {name} "
                + (f"is {list(encoder[name].shape)}" if name in encoder else "is missing")
                + f", this run needs {list(wanted.shape)}"
            )
    state = {prefix + name: t for prefix in objective.encoders for name, t in encoder.items()} | state
    fits = {name: t for name, t in state.items() if name in own and own[name].shape == t.shape}
    objective.load_state_dict(fits, strict=False)
    rest = dict.fromkeys(_part(name, fits) for name in own if name not in fits)
    return f"started from {where}: {len(fits)} of {len(own)} tensors" + (
        f"; at random: {', '.join(rest)}" if rest else ""
    )


def _part(name: str, fits: Mapping[str, Tensor]) -> str:
    """The largest part of a model that this tensor is in and none of `fits`."""
    steps = name.split(".")
    parts = (".".join(steps[: i + 1]) for i in range(len(steps)))
    return next((p for p in parts if not any(f.startswith(p + ".") for f in fits)), name)


def _encoder_state(where: Path, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Of all tensors at `where`, those of the encoder that evaluation takes, under the encoder's own names."""
    if (where / "config.json").exists():
        return state
    prefix = METHODS[run_of(where).method].encoders[0]
    return {name.removeprefix(prefix): t for name, t in state.items() if name.startswith(prefix)}


def encoder_config(where: Path) -> ViTConfig:
    """The network at `where`, without its weights."""
    if (where / "config.json").exists():
        return _exported_config(where / "config.json")
    return run_of(where).vit()


def run_of(where: Path, say: Callable[[str], None] = print) -> Run:
    """The run of a run directory or of one of its checkpoints. When config.yaml is damaged, a checkpoint's is taken."""
    try:
        return run_from(where / "config.yaml")
    except ValueError as damage:
        good, _ = checkpoint.newest_good(where / "checkpoints")
        if good is None:
            raise
        say(f"{damage}; taking {good / 'config.yaml'} instead")
        return run_from(good / "config.yaml")


def run_from(path: Path) -> Run:
    """The run a YAML file describes. ValueError names the file and what is wrong in it."""
    tree = read(path)
    method = tree.get("method", "mae")
    if method not in METHODS:
        raise ValueError(f"{path}: there is no method {method!r}; there are: {', '.join(METHODS)}")
    try:
        return parse(Run, options(tree), "config", Run(settings=METHODS[method].Config()))
    except UsageError as e:
        raise ValueError(f"{path}: {e}") from None


def objective_state(where: Path) -> dict[str, Tensor]:
    """All tensors of the network at `where`."""
    if (where / "config.json").exists() or (where / "state.json").exists():
        file = where / "model.safetensors"
    elif (where / "checkpoints").is_dir():
        good, damaged = checkpoint.newest_good(where / "checkpoints")
        if good is None:
            raise ValueError(f"{where}: no checkpoint can be used" + (f": {'; '.join(damaged)}" if damaged else " yet"))
        file = good / "model.safetensors"
    elif not where.exists():
        raise ValueError(f"{where}: there is nothing; a run, a checkpoint or an exported directory is wanted")
    else:
        raise ValueError(f"{where}: neither a run, nor a checkpoint, nor an exported directory")
    try:
        return load_file(file)
    except (OSError, SafetensorError) as e:
        raise ValueError(f"{file}: cannot be read: {e}") from e


def _exported_config(path: Path) -> ViTConfig:
    try:
        facts: dict[str, Any] = json.loads(path.read_text())
        args, cfg = facts["model_args"], facts["pretrained_cfg"]
        return ViTConfig(
            args["embed_dim"],
            args["depth"],
            args["num_heads"],
            args["patch_size"],
            tuple(args["img_size"]),
            tuple(cfg["mean"]),
            tuple(cfg["std"]),
        )
    except (KeyError, TypeError, ValueError) as e:
        raise ValueError(f"{path}: not a config.json that `maskery export --to timm` wrote ({e})") from e

"""What a run directory says: its configuration and its weights."""

from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError
from torch import Tensor

from .. import checkpoint
from ..config import Run, read
from ..objectives import OBJECTIVES
from ..options import UsageError, options, parse


def is_run(place: Path) -> bool:
    """Whether it is a run or one of its checkpoints."""
    ours = (place / "state.json").exists() or (place / "checkpoints").is_dir()
    return ours and not (place / "config.json").exists()


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
    if method not in OBJECTIVES:
        raise ValueError(f"{path}: there is no method {method!r}; there are: {', '.join(OBJECTIVES)}")
    try:
        return parse(Run, options(tree), "config", Run(settings=OBJECTIVES[method].Config()))
    except UsageError as e:
        raise ValueError(f"{path}: {e}") from None


def objective_state(where: Path) -> dict[str, Tensor]:
    """All tensors of the network of a run (its newest good checkpoint) or of a checkpoint."""
    file = where
    if not (where / "state.json").exists():
        good, damaged = checkpoint.newest_good(where / "checkpoints")
        if good is None:
            raise ValueError(f"{where}: no checkpoint can be used" + (f": {'; '.join(damaged)}" if damaged else " yet"))
        file = good
    try:
        return checkpoint.objective_state(file)
    except (OSError, ValueError, SafetensorError) as e:
        raise ValueError(f"{file}: cannot be read: {e}") from e

"""checkpoints/best/: the checkpoint with the best periodic evaluation, never pruned; and early stopping."""

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..config import WatchConfig
from ..outputs import partial_directory

BEST = "best"


def compare_to_best(looks: Sequence[Mapping[str, Any]], watch: WatchConfig) -> tuple[bool, bool]:
    """(whether the newest evaluation is the best so far, whether the last `patience` ones were no better).

    Of equal values the first is the best. ValueError when the evaluations have no number `watch.best`.
    """
    if watch.best is None:
        return False, False
    if watch.best not in looks[-1]:
        names = ", ".join(sorted(looks[-1].keys() - {"step", "epoch"}))
        raise ValueError(f"--watch.best {watch.best}: looks have no such number; they have: {names or 'none'}")
    values = [look[watch.best] for look in looks]
    since = len(values) - 1 - values.index(max(values))
    return since == 0, watch.patience is not None and since >= watch.patience


def write_best(checkpoints: Path, step: int) -> None:
    """Make checkpoint `step` the best one."""
    with partial_directory(checkpoints / BEST) as partial:
        shutil.copytree(checkpoints / f"step-{step:08d}", partial, copy_function=_link, dirs_exist_ok=True)


def _link(source: str, target: str) -> None:
    """Give a file a second name; copy it where the file system has no hard links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)

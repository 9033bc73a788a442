"""The checkpoint where a number of the looks was best, and when to stop waiting for a better one.

checkpoints/best/ is a checkpoint like the others, and is not pruned.
"""

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..config import WatchConfig

BEST = "best"


def verdict(looks: Sequence[Mapping[str, Any]], watch: WatchConfig) -> tuple[bool, bool]:
    """(whether the newest look is the best so far, whether `patience` of them were no better).

    Of equally good ones the first is the best. ValueError when looks have no such number.
    """
    if watch.best is None:
        return False, False
    if watch.best not in looks[-1]:
        there = ", ".join(sorted(looks[-1].keys() - {"step", "epoch"}))
        raise ValueError(f"--watch.best {watch.best}: looks have no such number; they have: {there or 'none'}")
    values = [look[watch.best] for look in looks]
    since = len(values) - 1 - values.index(max(values))
    return since == 0, watch.patience is not None and since >= watch.patience


def keep(checkpoints: Path, step: int) -> None:
    """Checkpoint `step` is the best now."""
    half, before = checkpoints / f".writing-{BEST}", checkpoints / f".writing-before-{BEST}"
    for stale in (half, before):
        shutil.rmtree(stale, ignore_errors=True)
    shutil.copytree(checkpoints / f"step-{step:08d}", half, copy_function=_link)
    if (checkpoints / BEST).exists():
        (checkpoints / BEST).rename(before)
    half.rename(checkpoints / BEST)
    shutil.rmtree(before, ignore_errors=True)


def best_of(run: Path) -> Path | None:
    """The best checkpoint of a run, where one was kept."""
    place = run / "checkpoints" / BEST
    return place if (place / "state.json").exists() else None


def _link(source: str, target: str) -> None:
    """The same file under another name; a copy where the file system has no such thing."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)

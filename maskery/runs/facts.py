"""What a run directory says about how its weights came to be: what is there is told, the rest is missing."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import checkpoint
from ..config import Run
from ..evals.results import Result, read_all
from ..tasks.classification.load import CHOSEN
from .best import best_of
from .directory import run_of
from .metrics import whole_lines

NO_RESULTS = ("before-after.json", "compare.json", CHOSEN)  # in evals/: of metrics.jsonl, of several runs, a number


@dataclass(frozen=True)
class Past:
    """Of one run."""

    run: Run
    step: int | None  # of the newest good checkpoint
    best: int | None  # step of the checkpoint that is its classifier, where the best one was kept
    trained_on: str  # "9469 images", as the checkpoint says it; "" when nobody knows
    lines: tuple[Mapping[str, Any], ...]  # of metrics.jsonl: what was logged and what was looked at
    environment: Mapping[str, Any]
    evaluations: tuple[Result, ...]  # evals/*.json, oldest first
    odd: tuple[str, ...] = ()  # files that could not be read

    @property
    def looks(self) -> tuple[Mapping[str, Any], ...]:
        return tuple(line for line in self.lines if "loss" not in line)

    @property
    def seconds(self) -> float | None:
        """Of its steps, from the speed that was logged."""
        logged = [line for line in self.lines if line.get("images_per_second")]
        steps = [0, *(line["step"] for line in logged)]
        each = zip(logged, steps, strict=False)
        total = sum((line["step"] - before) * self.run.batch_size / line["images_per_second"] for line, before in each)
        return total if logged else None


def past_of(run: Path) -> Past:
    """ValueError only when its configuration cannot be read."""
    odd: list[str] = []
    good, _ = checkpoint.newest_good(run / "checkpoints")
    state = _json((good / "state.json") if good else None, odd)
    best = best_of(run)
    environment = _json(run / "environment.json", odd)
    lines = []
    for text in whole_lines(run / "metrics.jsonl"):
        try:
            line = json.loads(text)
        except ValueError:
            odd.append("a line of metrics.jsonl")
            continue
        if isinstance(line, dict) and isinstance(line.get("step"), int):
            lines.append(line)
    found: list[Result] = []
    for file in sorted((run / "evals").glob("*.json"), key=lambda f: f.stat().st_mtime):
        if file.name not in NO_RESULTS:
            try:
                found += read_all(file)
            except ValueError:
                odd.append(f"evals/{file.name}")
    return Past(
        run_of(run, lambda note: None),
        state.get("step"),
        _json(best / "state.json", odd).get("step") if best else None,
        str(state.get("trained_on", "")).partition(",")[0],
        tuple(lines),
        environment,
        tuple(found),
        tuple(odd),
    )


def _json(path: Path | None, odd: list[str]) -> dict[str, Any]:
    if path is None or not path.exists():
        return {}
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        tree = None
    if not isinstance(tree, dict):
        odd.append(path.name)
        return {}
    return tree

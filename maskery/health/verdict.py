"""The input and the result of a health check."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ..runs.metrics import Metrics

Level = Literal["good", "watch", "act"]

EARLY = 0.25  # fraction of a run: before it, warm-up and the first fall of the loss do not tell where it ends
SHORT = 50  # steps: fewer change neither loss nor features enough to judge


@dataclass(frozen=True)
class Verdict:
    name: str
    level: Level
    sentence: str
    advice: str = ""


@dataclass(frozen=True)
class RunRecord:
    """What a run has written so far."""

    metrics: Metrics
    config: Mapping[str, Any] = field(default_factory=dict)  # the tree of config.yaml
    baselines: Mapping[str, Any] = field(default_factory=dict)  # baselines.json

    @property
    def t(self) -> float:
        """Progress in [0, 1] at the last periodic evaluation; 0 for a run too short to judge."""
        steps, rows = self.metrics.steps, self.metrics.looks
        return rows[-1]["step"] / steps if steps and rows and rows[-1]["step"] >= SHORT else 0.0

    @property
    def baseline_losses(self) -> tuple[str, Mapping[str, float]]:
        """The first loss that has trivial baselines, and the loss of each of them."""
        return next(iter(self.baselines.get("guesses", {}).items()), ("loss", {}))

    def option(self, path: str, default: Any) -> Any:
        """The value of one configuration option, by its dotted name."""
        value: Any = self.config
        for part in path.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        return default if value is None else value

    def evaluations(self, name: str) -> list[tuple[float, float]]:
        """(step, value) of one metric at every periodic evaluation with a finite value."""
        rows = [(row["step"], row[name]) for row in self.metrics.looks if isinstance(row.get(name), int | float)]
        return [(step, value) for step, value in rows if math.isfinite(value)]

"""What a check of a run's health is told, and what it answers."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ..runs.metrics import Metrics, Row

Level = Literal["good", "watch", "act"]

EARLY = 0.25  # of a run: before, warm-up and the first fall of the loss say nothing about where it ends
SHORT = 50  # steps before which nothing can be expected of a loss or of features


@dataclass(frozen=True)
class Verdict:
    name: str
    level: Level
    sentence: str
    advice: str = ""


@dataclass(frozen=True)
class Facts:
    metrics: Metrics
    config: Mapping[str, Any] = field(default_factory=dict)  # the tree of config.yaml
    baselines: Mapping[str, Any] = field(default_factory=dict)  # baselines.json

    @property
    def t(self) -> float:
        """Progress at the last look: what is looked at can be no newer. 0 for a run too short to judge."""
        steps, looks = self.metrics.steps, self.metrics.looks
        return looks[-1]["step"] / steps if steps and looks and looks[-1]["step"] >= SHORT else 0.0

    @property
    def pixels(self) -> tuple[str, Mapping[str, float]]:
        """The loss that guesses can be compared with, and what they would lose."""
        for name, by in self.baselines.get("guesses", {}).items():
            return name, by
        return "loss", {}

    def option(self, path: str, default: Any) -> Any:
        """A leaf of the configuration, by its dotted name."""
        value: Any = self.config
        for part in path.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        return default if value is None else value

    def looked(self, name: str) -> list[tuple[float, float]]:
        """(step, value) of one number at every look that has a finite one."""
        return [(look["step"], look[name]) for look in self.metrics.looks if _finite(look, name)]


def _finite(row: Row, name: str) -> bool:
    return isinstance(row.get(name), int | float) and math.isfinite(row[name])

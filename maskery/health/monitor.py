"""Report changes of a run's health while it is trained."""

import json
from dataclasses import asdict
from pathlib import Path

from ..config import Run
from ..runs.metrics import read_metrics
from .checks import RunRecord, verdicts


class HealthMonitor:
    """Compares the verdicts of one periodic evaluation with those of the one before."""

    def __init__(self, out: Path, run: Run):
        self.out, self.run = out, run
        self.levels: dict[str, str] = {}  # check -> good, watch or act

    def changes(self) -> list[str]:
        """A message for each verdict whose level has changed, from the files in the run directory."""
        path = self.out / "baselines.json"
        baselines = json.loads(path.read_text()) if path.exists() else {}
        messages = []
        for verdict in verdicts(RunRecord(read_metrics(self.out / "metrics.jsonl"), asdict(self.run), baselines)):
            before = self.levels.get(verdict.name, "good")
            self.levels[verdict.name] = verdict.level
            if verdict.level != before:
                level = "good again: " if verdict.level == "good" else f"{verdict.level}: "
                messages.append(f"health, {verdict.name}: {level}{verdict.sentence} {verdict.advice}".rstrip())
        return messages

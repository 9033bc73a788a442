"""Weights & Biases and MLflow beside the files of a run, for those who ask for them. Trouble there never stops a run:
metrics.jsonl has everything, and samples/ the pictures.

A run keeps the names it has there in RUN/tracking.json, so that `maskery resume` goes on with them. Keys and passwords
are in the environment or the user's own files, never in the run.
"""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from ..config import LogConfig, Run
from ..text import needs_extra
from .mlflow_run import Mlflow
from .names import Names, Say
from .wandb_run import Wandb


class Tracker(Protocol):
    def log(self, facts: Mapping[str, Any]) -> None:
        """One line of metrics.jsonl. Returns at once."""
        ...

    def picture(self, file: Path, step: int) -> None:
        """The strip of a look. Returns at once."""
        ...

    def close(self, *, failed: bool) -> None: ...


def check(log: LogConfig) -> None:
    """ImportError naming the extra that is missing, ValueError for an address with a password: before anything runs."""
    for name, asked, package in (("wandb", log.wandb, "wandb"), ("mlflow", log.mlflow, "mlflow")):
        if asked and find_spec(package) is None:
            raise ImportError(needs_extra(f"--log.{name}", package, name))
    if log.mlflow and urlsplit(log.mlflow).password:
        raise ValueError(
            "--log.mlflow: an address with a password would be kept in the run; set MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD instead"
        )


def opened(run: Run, out: Path, say: Say) -> list[Tracker]:
    """What this run asks for, going on with what it wrote there before."""
    check(run.log)
    out.mkdir(parents=True, exist_ok=True)
    names, trackers = Names(out / "tracking.json"), []
    if run.log.wandb:
        trackers.append(Wandb(run, out, names, say))
    if run.log.mlflow:
        trackers.append(Mlflow(run, out, names, say))
    return trackers

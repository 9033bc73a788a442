"""Optional trackers of a run: Weights & Biases and MLflow. Their errors never stop a run: metrics.jsonl has all
metrics, and samples/ all pictures.

RUN/tracking.json holds the run's id in each tracker, so that `maskery resume` continues it. Keys and passwords are in
the environment or the user's own files, never in the run.
"""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from ..config import LogConfig, Run
from ..text import needs_extra
from .mlflow_run import Mlflow
from .tracker_ids import Say, TrackerIds
from .wandb_run import Wandb


class Tracker(Protocol):
    def log(self, facts: Mapping[str, Any]) -> None:
        """Send one line of metrics.jsonl. Returns at once."""
        ...

    def picture(self, file: Path, step: int) -> None:
        """Send the strip of a periodic evaluation. Returns at once."""
        ...

    def close(self, *, failed: bool) -> None:
        """Send what is waiting and end the run there."""
        ...


def check_trackers(log: LogConfig) -> None:
    """ImportError naming a missing extra, ValueError for an address with a password: before anything runs."""
    for name, value in (("wandb", log.wandb), ("mlflow", log.mlflow)):  # option, package and extra have one name
        if value and find_spec(name) is None:
            raise ImportError(needs_extra(f"--log.{name}", name, name))
    if log.mlflow and urlsplit(log.mlflow).password:
        raise ValueError(
            "--log.mlflow: an address with a password would be kept in the run; set MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD instead"
        )


def open_trackers(run: Run, out: Path, say: Say) -> list[Tracker]:
    """Open the trackers of a run; one it has written to before is continued."""
    check_trackers(run.log)
    out.mkdir(parents=True, exist_ok=True)
    ids, trackers = TrackerIds(out / "tracking.json"), []
    if run.log.wandb:
        trackers.append(Wandb(run, out, ids, say))
    if run.log.mlflow:
        trackers.append(Mlflow(run, out, ids, say))
    return trackers

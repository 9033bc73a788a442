"""A run of MLflow."""

import math
import os
import queue
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..config import Run, leaves
from ..text import one_line
from .tracker_ids import CLOSE_TIMEOUT, Say, TrackerIds

RETRY_AFTER = 60.0  # seconds between two attempts to reach a server that did not answer


class Mlflow:
    """A run of MLflow, written by a thread of its own: training never waits for a server."""

    def __init__(self, run: Run, out: Path, ids: TrackerIds, say: Say):
        uri = str(run.log.mlflow)
        for name, value in (
            ("HTTP_REQUEST_MAX_RETRIES", "1"),
            ("HTTP_REQUEST_TIMEOUT", "15"),
            ("DISABLE_TELEMETRY", "true"),
        ):
            os.environ.setdefault(f"MLFLOW_{name}", value)
        if "://" not in uri or uri.startswith("file:"):  # a directory: MLflow refuses one without this variable
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
            uri = uri if uri.startswith("file:") else Path(uri).absolute().as_uri()
        self.uri, self.ids, self.say = uri, ids, say
        self.experiment, self.run_name = run.log.experiment, out.absolute().name
        self.settings = {k: str(v)[:500] for k, v in leaves(asdict(run)).items()}
        self.queue: queue.SimpleQueue[Mapping[str, Any] | Path | None] = queue.SimpleQueue()
        self.pictures: list[Path] = []
        self.retry_pictures_at = 0.0
        self.run_failed, self.metrics_failed, self.pictures_failed = False, False, False
        self.thread = threading.Thread(target=self._send_queue, daemon=True)
        self.thread.start()

    def log(self, facts: Mapping[str, Any]) -> None:
        self.queue.put({**facts, "time": time.time_ns() // 1_000_000})

    def picture(self, file: Path, step: int) -> None:
        self.queue.put(file)  # its name has the step, and replaces a picture of that name

    def close(self, *, failed: bool) -> None:
        self.run_failed = failed
        self.queue.put(None)
        self.thread.join(CLOSE_TIMEOUT)
        if self.thread.is_alive():
            self.say(f"MLflow at {self.uri} did not take everything; metrics.jsonl has it")

    def _send_queue(self) -> None:
        """Send what is queued until `close`; what fails is sent with a later line, and once more at the end."""
        client, run_id, retry_at, ended = None, None, 0.0, False
        lines: list[Mapping[str, Any]] = []
        while not ended:
            items = [self.queue.get()]
            while not self.queue.empty():
                items.append(self.queue.get())
            ended = None in items
            lines += [item for item in items if isinstance(item, Mapping)]
            self.pictures += [item for item in items if isinstance(item, Path)]
            if time.monotonic() < retry_at and not ended:
                continue
            try:
                if client is None or run_id is None:
                    client, run_id = self._open()
                for start in range(0, len(lines), 20):
                    self._send_metrics(client, run_id, lines[start : start + 20])
                lines = []
                if ended:
                    client.set_terminated(run_id, "FAILED" if self.run_failed else "FINISHED")
            except Exception as e:  # of any kind: a tracker never stops a run
                retry_at = time.monotonic() + RETRY_AFTER
                if not self.metrics_failed or ended:
                    self.say(f"MLflow at {self.uri} did not take the metrics, metrics.jsonl has them: {one_line(e)}")
                self.metrics_failed = True
                continue
            self._send_pictures(client, run_id, ended)  # last: the artifact store may be another, slow server

    def _send_pictures(self, client: Any, run_id: str, last: bool) -> None:
        """Send the queued pictures, retrying as for metrics; the first failure alone is reported."""
        if time.monotonic() < self.retry_pictures_at and not last:
            return
        try:
            while self.pictures:
                if self.pictures[0].exists():
                    client.log_artifact(run_id, str(self.pictures[0]), "samples")
                del self.pictures[0]
        except Exception as e:
            self.retry_pictures_at = time.monotonic() + RETRY_AFTER
            if not self.pictures_failed:
                self.say(f"MLflow at {self.uri} did not take a picture, samples/ has them: {one_line(e)}")
            self.pictures_failed = True

    def _open(self) -> tuple[Any, str]:
        """Continue the run that tracking.json names, or create one: (client, run id)."""
        from mlflow.entities import Param
        from mlflow.tracking import MlflowClient

        client, run_id = MlflowClient(tracking_uri=self.uri), self.ids["mlflow"]
        if run_id is not None:
            client.update_run(run_id, status="RUNNING")
            return client, run_id
        experiment = client.get_experiment_by_name(self.experiment)
        experiment_id = experiment.experiment_id if experiment else client.create_experiment(self.experiment)
        run_id = client.create_run(experiment_id, run_name=self.run_name).info.run_id
        self.ids["mlflow"] = run_id
        client.log_batch(run_id, params=[Param(k, v) for k, v in self.settings.items()][:100])
        return client, run_id

    @staticmethod
    def _send_metrics(client: Any, run_id: str, lines: list[Mapping[str, Any]]) -> None:
        from mlflow.entities import Metric

        metrics = [
            Metric(key, float(value), line["time"], line["step"])
            for line in lines
            for key, value in line.items()
            if key not in ("step", "time") and isinstance(value, int | float) and math.isfinite(value)
        ]
        client.log_batch(run_id, metrics=metrics)

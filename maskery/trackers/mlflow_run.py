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
from .names import FAREWELL, Names, Say

PATIENCE = 60.0  # seconds between two attempts to reach a server that did not answer


class Mlflow:
    """A run of MLflow, written to by a thread: a server that does not answer keeps nobody waiting but this thread."""

    def __init__(self, run: Run, out: Path, names: Names, say: Say):
        uri = str(run.log.mlflow)
        for name, value in (
            ("HTTP_REQUEST_MAX_RETRIES", "1"),
            ("HTTP_REQUEST_TIMEOUT", "15"),
            ("DISABLE_TELEMETRY", "true"),
        ):
            os.environ.setdefault(f"MLFLOW_{name}", value)
        if "://" not in uri or uri.startswith("file:"):  # a directory: MLflow otherwise wants to be asked for it twice
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
            uri = uri if uri.startswith("file:") else Path(uri).absolute().as_uri()
        self.uri, self.names, self.say = uri, names, say
        self.experiment, self.called = run.log.experiment, out.absolute().name
        self.settings = {k: str(v)[:500] for k, v in leaves(asdict(run)).items()}
        self.arriving: queue.SimpleQueue[Mapping[str, Any] | Path | None] = queue.SimpleQueue()
        self.pictures: list[Path] = []
        self.no_pictures_until = 0.0
        self.failed, self.told, self.told_of_pictures = False, False, False
        self.thread = threading.Thread(target=self._work, daemon=True)
        self.thread.start()

    def log(self, facts: Mapping[str, Any]) -> None:
        self.arriving.put({**facts, "time": time.time_ns() // 1_000_000})

    def picture(self, file: Path, step: int) -> None:
        self.arriving.put(file)  # its name has the step, and replaces one of that name

    def close(self, *, failed: bool) -> None:
        self.failed = failed
        self.arriving.put(None)
        self.thread.join(FAREWELL)
        if self.thread.is_alive():
            self.say(f"MLflow at {self.uri} did not take everything; metrics.jsonl has it")

    def _work(self) -> None:
        """Send what is waiting; what could not be sent waits for the next line, and at the end for one more attempt."""
        client, name, quiet_until, ended = None, None, 0.0, False
        lines: list[Mapping[str, Any]] = []
        while not ended:
            arrived = [self.arriving.get()]
            while not self.arriving.empty():
                arrived.append(self.arriving.get())
            ended = None in arrived
            lines += [one for one in arrived if isinstance(one, Mapping)]
            self.pictures += [one for one in arrived if isinstance(one, Path)]
            if time.monotonic() < quiet_until and not ended:
                continue
            try:
                if client is None or name is None:
                    client, name = self._began()
                for start in range(0, len(lines), 20):
                    self._send(client, name, lines[start : start + 20])
                lines = []
                if ended:
                    client.set_terminated(name, "FAILED" if self.failed else "FINISHED")
            except Exception as e:  # of whatever kind: a run does not end for it
                quiet_until = time.monotonic() + PATIENCE
                if not self.told or ended:
                    self.say(f"MLflow at {self.uri} did not take the metrics, metrics.jsonl has them: {one_line(e)}")
                self.told = True
                continue
            self._show(client, name, ended)  # after the numbers: where files are kept may be somewhere else, and slow

    def _show(self, client: Any, name: str, last: bool) -> None:
        """Send the pictures that are waiting, as with metrics; but that they cannot be is said once."""
        if time.monotonic() < self.no_pictures_until and not last:
            return
        try:
            while self.pictures:
                if self.pictures[0].exists():
                    client.log_artifact(name, str(self.pictures[0]), "samples")
                del self.pictures[0]
        except Exception as e:
            self.no_pictures_until = time.monotonic() + PATIENCE
            if not self.told_of_pictures:
                self.say(f"MLflow at {self.uri} did not take a picture, samples/ has them: {one_line(e)}")
            self.told_of_pictures = True

    def _began(self) -> tuple[Any, str]:
        from mlflow.entities import Param
        from mlflow.tracking import MlflowClient

        client, name = MlflowClient(tracking_uri=self.uri), self.names["mlflow"]
        if name is not None:
            client.update_run(name, status="RUNNING")  # goes on
            return client, name
        experiment = client.get_experiment_by_name(self.experiment)
        number = experiment.experiment_id if experiment else client.create_experiment(self.experiment)
        name = client.create_run(number, run_name=self.called).info.run_id
        self.names["mlflow"] = name
        client.log_batch(name, params=[Param(k, v) for k, v in self.settings.items()][:100])
        return client, name

    @staticmethod
    def _send(client: Any, name: str, lines: list[Mapping[str, Any]]) -> None:
        from mlflow.entities import Metric

        metrics = [
            Metric(key, float(value), line["time"], line["step"])
            for line in lines
            for key, value in line.items()
            if key not in ("step", "time") and isinstance(value, int | float) and math.isfinite(value)
        ]
        client.log_batch(name, metrics=metrics)

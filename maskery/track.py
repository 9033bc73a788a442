"""Weights & Biases and MLflow beside the files of a run, for those who ask for them. Trouble there never stops a run:
metrics.jsonl has everything.

A run keeps the names it has there in RUN/tracking.json, so that `maskery resume` goes on with them. Keys and passwords
are in the environment or the user's own files, never in the run.
"""

import json
import math
import os
import queue
import secrets
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit
from urllib.request import getproxies

from .checkpoint import write as write_whole
from .config import LogConfig, Run

Say = Callable[[str], None]
PATIENCE = 60.0  # seconds between two attempts to reach a server that did not answer
WELCOME = 30.0  # seconds that its beginning waits for Weights & Biases
FAREWELL = 30.0  # seconds that the end of a run waits for one


class Tracker(Protocol):
    def log(self, facts: Mapping[str, Any]) -> None:
        """One line of metrics.jsonl. Returns at once."""
        ...

    def close(self, *, failed: bool) -> None: ...


def check(log: LogConfig) -> None:
    """ImportError naming the extra that is missing, ValueError for an address with a password: before anything runs."""
    for name, asked, package in (("wandb", log.wandb, "wandb"), ("mlflow", log.mlflow, "mlflow")):
        if asked and find_spec(package) is None:
            raise ImportError(f"--log.{name} needs {package}: pip install 'maskery[{name}]'")
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


class Names:
    """tracking.json: what this run is called elsewhere."""

    def __init__(self, path: Path):
        self.path = path

    def __getitem__(self, tracker: str) -> str | None:
        try:
            return json.loads(self.path.read_text()).get(tracker)
        except (OSError, ValueError, AttributeError):
            return None  # a damaged one is no reason to stop: the run gets another name

    def __setitem__(self, tracker: str, name: str) -> None:
        known = {t: self[t] for t in ("wandb", "mlflow") if self[t]}
        write_whole(self.path, json.dumps(known | {tracker: name}, indent=1).encode())


class Wandb:
    """A run of Weights & Biases; offline when WANDB_MODE says so, when nobody is logged in, and without a network.

    Offline it is kept in RUN/wandb, and `wandb sync` uploads it.
    """

    def __init__(self, run: Run, out: Path, names: Names, say: Say):
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb
        from wandb.errors import Error as WandbError

        self.say = say
        name = names["wandb"] or secrets.token_hex(4)
        names["wandb"] = name
        entity, _, project = str(run.log.wandb).rpartition("/")
        settings = wandb.Settings(
            init_timeout=WELCOME,
            login_timeout=10,
            finish_timeout=FAREWELL,
            silent=True,
            console="off",
            disable_git=True,
            save_code=False,
        )
        how: dict[str, Any] = {
            "project": project,
            "entity": entity or None,
            "id": name,
            "resume": "allow",
            "name": out.absolute().name,
            "dir": str(out),
            "config": asdict(run),
            "settings": settings,
        }
        try:
            if "WANDB_MODE" not in os.environ:
                _call(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai"))
            self.run = wandb.init(**how)
        except (WandbError, OSError) as e:
            say(f"Weights & Biases cannot be reached ({_line(e)}): going on offline")
            wandb.teardown()  # which otherwise believes that the run goes on
            self.run = wandb.init(**how, mode="offline")
        kept = f"run {name}, kept in {out / 'wandb'} until `wandb sync` uploads it"
        say(f"Weights & Biases: {self.run.url or kept}")
        self.run.define_metric("*", step_metric="step")  # lines that are made again after a resume keep their place

    def log(self, facts: Mapping[str, Any]) -> None:
        try:
            self.run.log(dict(facts))
        except Exception as e:  # of whatever kind: a run does not end for it
            self.say(f"Weights & Biases did not take a line, metrics.jsonl has it: {_line(e)}")

    def close(self, *, failed: bool) -> None:
        try:
            self.run.finish(exit_code=int(failed))
        except Exception as e:
            self.say(f"Weights & Biases was not told of the end: {_line(e)}")


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
        if "://" not in uri or uri.startswith(
            "file:"
        ):  # a directory, which MLflow otherwise wants to be asked for twice
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
            uri = uri if uri.startswith("file:") else Path(uri).absolute().as_uri()
        self.uri, self.names, self.say = uri, names, say
        self.experiment, self.called = run.log.experiment, out.absolute().name
        self.settings = {k: str(v)[:500] for k, v in _leaves(asdict(run))}
        self.lines: queue.SimpleQueue[Mapping[str, Any] | None] = queue.SimpleQueue()
        self.failed, self.told = False, False
        self.thread = threading.Thread(target=self._work, daemon=True)
        self.thread.start()

    def log(self, facts: Mapping[str, Any]) -> None:
        self.lines.put({**facts, "time": time.time_ns() // 1_000_000})

    def close(self, *, failed: bool) -> None:
        self.failed = failed
        self.lines.put(None)
        self.thread.join(FAREWELL)
        if self.thread.is_alive():
            self.say(f"MLflow at {self.uri} did not take everything; metrics.jsonl has it")

    def _work(self) -> None:
        """Send what is waiting; what could not be sent waits for the next line, and at the end for one more attempt."""
        client, name, waiting, quiet_until, ended = None, None, [], 0.0, False
        while not ended:
            line = self.lines.get()
            ended = line is None
            waiting += [] if line is None else [line]
            while not ended and not self.lines.empty():
                line = self.lines.get()
                ended = line is None
                waiting += [] if line is None else [line]
            if time.monotonic() < quiet_until and not ended:
                continue
            try:
                if client is None or name is None:
                    client, name = self._began()
                for start in range(0, len(waiting), 20):
                    self._send(client, name, waiting[start : start + 20])
                waiting = []
                if ended:
                    client.set_terminated(name, "FAILED" if self.failed else "FINISHED")
            except Exception as e:  # of whatever kind: a run does not end for it
                quiet_until = time.monotonic() + PATIENCE
                if not self.told or ended:
                    self.say(f"MLflow at {self.uri} did not take the metrics, metrics.jsonl has them: {_line(e)}")
                self.told = True

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


def _call(address: str) -> None:
    """OSError at once where nobody is; wandb itself would try for as long as it may."""
    url = urlsplit(address)
    if not getproxies():
        socket.create_connection((url.hostname, url.port or (80 if url.scheme == "http" else 443)), timeout=5).close()


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found = []
    for name, value in tree.items():
        found += _leaves(value, f"{prefix}{name}.") if isinstance(value, Mapping) else [(f"{prefix}{name}", value)]
    return found


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__

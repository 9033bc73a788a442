"""The logs of a run: metrics.jsonl, TensorBoard, train.log, skipped.jsonl, messages and progress on the console.

Metrics and strips also go to the trackers that the run names: trackers/.
"""

import importlib
import importlib.util
import json
import os
import platform
import resource
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from torch.utils.tensorboard import SummaryWriter

from .distributed import World
from .evals.results import version_of
from .objective import Losses
from .outputs import partial_path
from .runs.metrics import read_rows
from .terminal import Terminal
from .text import duration
from .trackers.tracker import Tracker


class RunLog:
    """The log files of one run, opened to continue after `step`: later lines of an interrupted run are removed."""

    def __init__(self, out: Path, terminal: Terminal, step: int, steps: int, trackers: Sequence[Tracker] = ()):
        out.mkdir(parents=True, exist_ok=True)
        self.terminal, self.steps, self.trackers = terminal, steps, trackers
        self.metrics_path = out / "metrics.jsonl"
        _cut_after(self.metrics_path, step)
        self.stream: TextIO = self.metrics_path.open("a")
        self.text: TextIO = (out / "train.log").open("a")
        self.board = SummaryWriter(str(out / "tensorboard"), purge_step=step + 1 if step else None)
        self.skipped = Skipped(out / "skipped.jsonl")
        self.last_shown = 0.0
        columns = (BarColumn(24), MofNCompleteColumn(), TextColumn("{task.description}"))
        live = terminal.console.is_terminal
        self.progress = Progress(*columns, console=terminal.console, disable=not live)
        self.task = self.progress.add_task("", total=steps, completed=step)
        for message in terminal.said:
            self._write(message)

    def __enter__(self) -> "RunLog":
        self.progress.start()
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error:
            self._write(f"stopped: {error}")
        self.progress.stop()
        for tracker in self.trackers:
            tracker.close(failed=error is not None)
        self.board.close()
        self.stream.close()
        self.text.close()

    def say(self, message: str) -> None:
        """Print one line on the console and write it to train.log."""
        self.terminal.say(message)
        self._write(message)

    def interval(self, metrics: dict[str, Any], seconds_left: float) -> None:
        """Write the metrics of one log interval to metrics.jsonl, TensorBoard and the progress bar.

        Where stderr is no terminal, a plain line is printed every 15 seconds and at the end.
        """
        self._metrics(metrics)
        summary = (
            f"loss {metrics['loss']:.4f}  lr {metrics['lr']:.2e}  {metrics['images_per_second']:,.0f} images/s  "
            f"data wait {metrics['data_wait']:.0%}  {metrics['memory']:.1f} GB  {duration(seconds_left)} left"
        )
        self.progress.update(self.task, completed=metrics["step"], description=summary)
        now = time.monotonic()
        if now - self.last_shown > 15 or metrics["step"] == self.steps:
            self.last_shown = now
            summary = f"step {metrics['step']}/{self.steps}  {summary}"
            self._write(summary) if self.terminal.console.is_terminal else self.say(summary)

    def evaluation(self, metrics: dict[str, Any], samples: Path) -> None:
        """Write the metrics of a periodic evaluation, a line without "loss", and its strip from `samples`."""
        import numpy as np
        from PIL import Image

        self._metrics(metrics)
        step = metrics["step"]
        summary = "  ".join(f"{k.replace('_', ' ')} {v:.4f}" for k, v in metrics.items() if k not in ("step", "epoch"))
        if summary:
            self.say(f"step {step}/{self.steps}  {summary}")
        picture = samples / f"step-{step:08d}.png"
        if picture.exists():
            self.board.add_image("samples", np.asarray(Image.open(picture)), step, dataformats="HWC")
            for tracker in self.trackers:
                tracker.picture(picture, step)

    def evaluations(self) -> tuple[dict[str, Any], ...]:
        """The metrics of all periodic evaluations since the run began."""
        return tuple(row for row in read_rows(self.metrics_path) if "loss" not in row)

    def before_and_after(self, folder: Path) -> None:
        """Print the first and the last evaluation together, and write them to evals/before-after.json."""
        evaluations = self.evaluations()
        if len(evaluations) < 2 or evaluations[0]["step"] != 0:
            return
        first, last = evaluations[0], evaluations[-1]
        names = [name for name in first if name in last and name not in ("step", "epoch")]
        changes = {name: {"before": first[name], "after": last[name]} for name in names}
        for name, change in sorted(changes.items()):
            self.say(f"{name.replace('_', ' ')}: {change['before']:.4f} before, {change['after']:.4f} after")
        folder.mkdir(exist_ok=True)
        facts = {"step": last["step"], "epoch": last["epoch"], **changes, "command": sys.argv}
        (folder / "before-after.json").write_text(json.dumps(facts, indent=1))

    def _metrics(self, facts: dict[str, Any]) -> None:
        self.stream.write(json.dumps(facts) + "\n")
        self.stream.flush()
        for tracker in self.trackers:
            tracker.log(facts)
        for name, value in facts.items():
            if name not in ("step", "epoch", "t"):
                self.board.add_scalar(name, value, facts["step"])

    def _write(self, message: str) -> None:
        self.text.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {message}\n")
        self.text.flush()


class Skipped:
    """skipped.jsonl: the images that could not be read, each once, with the reason."""

    def __init__(self, path: Path):
        self.path = path
        self.reasons: dict[str, str] = {row["name"]: row["reason"] for row in read_rows(path)}

    def add(self, skipped: Iterable[tuple[str, str]]) -> int:
        """Add the new ones; returns their number."""
        new = {name: reason for name, reason in skipped if name not in self.reasons}
        if new:
            with self.path.open("a") as f:
                f.writelines(json.dumps({"name": name, "reason": reason}) + "\n" for name, reason in new.items())
            self.reasons |= new
        return len(new)


class LossSums:
    """Sums of losses since the last log line, kept on the device and read once per line, not per step."""

    def __init__(self, device: torch.device, totals: dict[str, float] | None = None, count: int = 0):
        self.device, self.count = device, count  # count in micro-batches
        # float64 holds sums of float32 numbers exactly, so neither order nor interruption changes a digit
        self.totals = {n: torch.tensor(v, dtype=torch.float64, device=device) for n, v in (totals or {}).items()}

    def add(self, losses: Losses) -> None:
        for name, value in losses.items():
            value = value.detach().double()
            self.totals[name] = self.totals[name] + value if name in self.totals else value.clone()
        self.count += 1

    def gather(self, world: World) -> tuple[dict[str, float], int]:
        """Sums and count over all processes. This waits for the device."""
        values = torch.stack([*self.totals.values(), torch.tensor(self.count, dtype=torch.float64, device=self.device)])
        *totals, count = world.total(values).tolist()
        return dict(zip(self.totals, totals, strict=True)), round(count)

    def means(self, world: World) -> dict[str, float]:
        """Means over all processes. This waits for the device."""
        totals, count = self.gather(world)
        return {name: total / count for name, total in totals.items()}


class StepTimer:
    """Time the steps since `step`, without evaluations and checkpoints."""

    def __init__(self, step: int):
        self.step, self.start, self.data_wait, self.pauses = step, time.perf_counter(), 0.0, 0.0  # in seconds

    @contextmanager
    def waiting_for_data(self) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.data_wait += time.perf_counter() - start

    @contextmanager
    def paused(self) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.pauses += time.perf_counter() - start

    def seconds(self) -> float:
        return max(time.perf_counter() - self.start - self.pauses, 1e-9)

    def speed(self, step: int, batch_size: int) -> dict[str, float]:
        """Images per second, and the fraction of the time spent on waiting for data."""
        seconds = self.seconds()
        return {
            "images_per_second": round((step - self.step) * batch_size / seconds, 1),
            "data_wait": round(self.data_wait / seconds, 4),
        }

    def seconds_left(self, step: int, steps: int) -> float:
        return self.seconds() / (step - self.step) * (steps - step)


def memory(device: torch.device) -> float:
    """Peak memory of this process in GB: of the GPU, or of the machine on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    scale = 1 if sys.platform == "darwin" else 1024  # macOS counts in bytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale / 1e9


def device_usage(device: torch.device) -> dict[str, float]:
    """Device columns of a log line: memory in GB, and GPU utilisation.

    Utilisation needs nvidia-ml-py and a driver that reports it; it is left out otherwise.
    """
    used = {"memory": round(memory(device), 3)}
    if device.type == "cuda" and importlib.util.find_spec("pynvml"):
        with suppress(importlib.import_module("pynvml").NVMLError):
            used["gpu_use"] = torch.cuda.utilization(device) / 100
    return used


def environment(world: World) -> dict[str, Any]:
    """The content of environment.json: versions, machine, command."""
    cuda = world.device.type == "cuda"
    packages = ("maskery", "torch", "timm", "numpy", "pillow", "pyarrow", "safetensors")
    return {
        "command": sys.argv,
        "python": platform.python_version(),
        "packages": {name: version_of(name) for name in packages},
        "machine": platform.platform(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(world.device) if cuda else "cpu",
        "cuda": torch.version.cuda if cuda else None,
        "processes": world.size,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def _cut_after(path: Path, step: int) -> None:
    """Keep the lines before checkpoint `step`, which is written between the step's log line and its evaluation."""
    if not path.exists():
        return
    earlier = [row for row in read_rows(path) if row["step"] < step or (row["step"] == step and "loss" in row)]
    with partial_path(path) as partial:
        partial.write_text("".join(json.dumps(row) + "\n" for row in earlier))

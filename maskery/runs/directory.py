"""What a run directory holds: configuration, checkpoints, numbers, evaluations."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor

from .. import checkpoint
from ..config import Run, read
from ..objectives import OBJECTIVES
from ..options import UsageError, options, parse
from .best import BEST
from .metrics import Metrics, read_metrics

BEFORE_AFTER, COMPARISON, CHOSEN_HEAD = "before-after.json", "compare.json", "chosen.json"  # in evals/, no results
OTHERS = tuple(f"evals/{name}" for name in (BEFORE_AFTER, COMPARISON, CHOSEN_HEAD))
JSON_FILES = ("environment.json", "baselines.json", *OTHERS)
SKIPPED_SHOWN = 200  # names of unreadable images that `RunDirectory.skipped` returns


def is_run(where: Path) -> bool:
    """Whether WHERE is a run or one of its checkpoints."""
    ours = (where / "state.json").exists() or (where / "checkpoints").is_dir()
    return ours and not (where / "config.json").exists()


def open_run(where: Path, say: Callable[[str], None] = print) -> "RunDirectory":
    """Open a run or one of its checkpoints. ValueError when its configuration cannot be read.

    Of a damaged config.yaml the newest checkpoint's copy takes the place, and `say` gets a message.
    """
    is_checkpoint = (where / "state.json").exists() and not (where / "checkpoints").is_dir()
    directory = RunDirectory(where.parent.parent, where) if is_checkpoint else RunDirectory(where)
    if directory.config_problem:
        say(directory.config_problem)
    return directory


def open_tolerantly(path: Path) -> "RunDirectory":
    """Open a run whose every file may be missing or damaged. ValueError when there is no run at all."""
    if not path.is_dir():
        raise ValueError(f"{path}: there is no such run")
    if not (path / "config.yaml").exists() and not (path / "metrics.jsonl").exists():
        raise ValueError(f"{path}: is no run: neither config.yaml nor metrics.jsonl is in it")
    return RunDirectory(path)


def read_config(path: Path) -> Run:
    """Parse a config.yaml. ValueError names the file and what is wrong in it."""
    tree = read(path)
    method = tree.get("method", "mae")
    if method not in OBJECTIVES:
        raise ValueError(f"{path}: there is no method {method!r}; there are: {', '.join(OBJECTIVES)}")
    try:
        return parse(Run, options(tree), "config", Run(settings=OBJECTIVES[method].Config()))
    except UsageError as e:
        raise ValueError(f"{path}: {e}") from None


def _json_file(name: str) -> property:
    """The object in a JSON file of the run; empty where there is no file, or a damaged one."""
    return property(lambda run: _json(run.path / name) or {})


@dataclass(frozen=True)
class RunDirectory:
    """A run, or one checkpoint of it. Files are read on first use; all but config.yaml may be missing or damaged."""

    path: Path  # of the run
    checkpoint: Path | None = None  # the one that was named, of RUN/checkpoints/STEP

    # ------------------------------------------------------------------------------------------------ configuration
    @property
    def run(self) -> Run:
        """The run's configuration. ValueError when no copy of it can be read."""
        return self._config[0]

    @property
    def config_problem(self) -> str:
        """What is wrong with config.yaml, and which copy is taken instead."""
        return self._config[1]

    @cached_property
    def _config(self) -> tuple[Run, str]:
        try:
            return read_config((self.checkpoint or self.path) / "config.yaml"), ""
        except ValueError as e:
            if self.checkpoint or not self.newest:
                raise
            copy = self.newest / "config.yaml"
            return read_config(copy), f"{e}; taking {copy} instead"

    @cached_property
    def config_values(self) -> Mapping[str, Any]:
        """The values in config.yaml; empty when it is damaged."""
        try:
            return read(self.path / "config.yaml")
        except ValueError:
            return {}

    # -------------------------------------------------------------------------------------------------- checkpoints
    @cached_property
    def _newest_good(self) -> tuple[Path | None, tuple[str, ...]]:
        return checkpoint.newest_good(self.path / "checkpoints")

    @property
    def newest(self) -> Path | None:
        """The newest checkpoint whose files are as they were written."""
        return self._newest_good[0]

    @property
    def last(self) -> str | None:
        """The name of the newest checkpoint, unchecked."""
        try:
            return (self.path / "checkpoints" / "last").read_text(encoding="utf-8", errors="replace").strip() or None
        except OSError:
            return None

    @property
    def best(self) -> Path | None:
        """The best checkpoint, where one was kept."""
        path = self.path / "checkpoints" / BEST
        return path if (path / "state.json").exists() else None

    def state(self, path: Path | None) -> Mapping[str, Any]:
        """The contents of a checkpoint's state.json; empty without one."""
        return (_json(path / "state.json") or {}) if path else {}

    def tensors(self, best: bool = False) -> dict[str, Tensor]:
        """All tensors of the network: of the named checkpoint, else of the best if wanted and kept, else the newest."""
        path = self.checkpoint or (self.best if best else None) or self.newest
        if path is None:
            damaged = "; ".join(self._newest_good[1])
            raise ValueError(f"{self.path}: no checkpoint can be used" + (f": {damaged}" if damaged else " yet"))
        try:
            return checkpoint.objective_state(path)
        except (OSError, ValueError, SafetensorError) as e:
            raise ValueError(f"{path}: cannot be read: {e}") from e

    # -------------------------------------------------------------------------------------------- numbers, pictures
    @cached_property
    def metrics(self) -> Metrics:
        """The contents of metrics.jsonl so far."""
        try:
            return read_metrics(self.path / "metrics.jsonl")
        except OSError as e:
            return Metrics(problem=e.strerror or str(e))

    environment = _json_file("environment.json")
    baselines = _json_file("baselines.json")
    before_after = _json_file(f"evals/{BEFORE_AFTER}")
    comparison = _json_file(f"evals/{COMPARISON}")  # the numbers of a run that `maskery compare` made

    @property
    def chosen_head(self) -> int | None:
        """Which of several heads is the classifier; None before the run was measured."""
        head = (_json(self.path / "evals" / CHOSEN_HEAD) or {}).get("head")
        return head if isinstance(head, int) else None

    @property
    def evaluations(self) -> tuple[Path, ...]:
        """The files of results in evals/."""
        files = (self.path / "evals").glob("*.json")
        return tuple(sorted(file for file in files if f"evals/{file.name}" not in OTHERS))

    @property
    def strips(self) -> tuple[Path, ...]:
        """Pictures of the same held-out images after more and more steps."""
        return tuple(sorted((self.path / "samples").glob("step-*.png")))

    @cached_property
    def skipped(self) -> tuple[tuple[tuple[str, str], ...], int]:
        """The first images that could not be read as (name, reason), and how many there are."""
        try:
            with (self.path / "skipped.jsonl").open(encoding="utf-8", errors="replace") as stream:
                lines = (line for line in stream if line.endswith("\n"))
                first = [entry for line in islice(lines, SKIPPED_SHOWN) if (entry := _skipped(line))]
                return tuple(first), len(first) + sum(1 for _ in lines)
        except OSError:
            return (), 0

    # ------------------------------------------------------------------------------------------ damage and versions
    def damaged(self) -> list[str]:
        """The JSON files that exist and cannot be read, evaluations aside."""
        return [name for name in JSON_FILES if _json(self.path / name) is None]

    def missing(self) -> Iterator[str]:
        """Sentences about what a report of this run cannot show."""
        try:
            if self.config_problem:
                yield self.config_problem
            read(self.path / "config.yaml")
        except ValueError as e:
            yield f"The configuration cannot be read: {e}"
        metrics = self.metrics
        if metrics.problem:
            yield f"No numbers yet: {metrics.problem} (metrics.jsonl)."
        elif not metrics.lines:
            yield "No steps have been logged yet."
        if metrics.damaged:
            yield f"{metrics.damaged:,} lines of metrics.jsonl are damaged and left out."
        for name in self.damaged():
            yield f"{name} is damaged and left out."
        if metrics.looks and "guesses" not in self.baselines:
            yield "What guesses would lose was not measured (baselines.json): nothing is held out, or an old run."
        if not self.last:
            yield "There is no checkpoint yet."
        if not self.strips:
            yield "There are no pictures in samples/ (none were asked for, or none is made yet)."

    def version(self) -> str:
        """A text that changes with the files a report is made from: their sizes and times."""
        names = ("config.yaml", "metrics.jsonl", "baselines.json", "checkpoints/last", "skipped.jsonl")
        files = (self.path / name for name in (*names, "samples", "evals"))
        return " ".join(f"{s.st_size}.{s.st_mtime_ns}" for s in (f.stat() for f in files if f.exists()))


def _json(path: Path) -> Mapping[str, Any] | None:
    """The object in a JSON file; empty when there is no file, None when it is damaged."""
    try:
        tree = json.loads(path.read_text(encoding="utf-8", errors="replace")) if path.exists() else {}
    except (OSError, ValueError):
        return None
    return tree if isinstance(tree, dict) else None


def _skipped(line: str) -> tuple[str, str] | None:
    try:
        entry = json.loads(line)
        return str(entry["name"]), str(entry["reason"])
    except (ValueError, KeyError, TypeError):
        return None

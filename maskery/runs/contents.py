"""What a run directory holds so far: everything may be missing, half-written or damaged, and is then named."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from ..config import Run, read
from ..evals import results
from ..evals.results import Result
from .directory import run_of
from .metrics import Metrics, read_metrics

SKIPPED = 200  # of the files that could not be read, shown at most


@dataclass(frozen=True)
class RunDirectory:
    path: Path
    run: Run | None  # None: its configuration cannot be read
    config: Mapping[str, Any]
    metrics: Metrics
    baselines: Mapping[str, Any]
    environment: Mapping[str, Any]
    before_after: Mapping[str, Any]
    compared: Mapping[str, Any]  # evals/compare.json, of a run that `maskery compare` made
    results: tuple[Result, ...]
    skipped: tuple[tuple[str, str], ...]  # (name, reason), the first of them
    skipped_count: int
    strips: tuple[Path, ...]
    checkpoint: str | None  # the newest
    missing: tuple[str, ...]  # sentences


def read_run(path: Path) -> RunDirectory:
    """ValueError in one line when there is no run at all."""
    if not path.is_dir():
        raise ValueError(f"{path}: there is no such run")
    if not (path / "config.yaml").exists() and not (path / "metrics.jsonl").exists():
        raise ValueError(f"{path}: is no run: neither config.yaml nor metrics.jsonl is in it")
    missing: list[str] = []

    run, config = None, {}
    try:
        run = run_of(path, missing.append)
        config = read(path / "config.yaml")
    except (ValueError, OSError) as e:
        missing.append(f"The configuration cannot be read: {e}")
    metrics = Metrics()
    try:
        metrics = read_metrics(path / "metrics.jsonl")
    except OSError as e:
        missing.append(f"No numbers yet: {e.strerror or e} (metrics.jsonl).")
    if metrics.damaged:
        missing.append(f"{metrics.damaged:,} lines of metrics.jsonl are damaged and left out.")
    if not metrics.lines and (path / "metrics.jsonl").exists():
        missing.append("No steps have been logged yet.")

    if metrics.looks and "guesses" not in _json(path / "baselines.json"):
        missing.append("What guesses would lose was not measured (baselines.json): nothing is held out, or an old run.")

    found: list[Result] = []
    known = {"before-after.json", "compare.json"}
    for file in sorted((path / "evals").glob("*.json")):
        if file.name in known:
            continue
        try:
            found += results.read_all(file)
        except ValueError as e:
            missing.append(f"An evaluation cannot be read: {e}")
    last = _text(path / "checkpoints" / "last")
    checkpoint = last.strip() if last else None
    if not checkpoint:
        missing.append("There is no checkpoint yet.")
    strips = tuple(sorted((path / "samples").glob("step-*.png")))
    if not strips:
        missing.append("There are no pictures in samples/ (none were asked for, or none is made yet).")
    skipped, count = _skipped(path / "skipped.jsonl")
    return RunDirectory(
        path,
        run,
        config,
        metrics,
        _json(path / "baselines.json"),
        _json(path / "environment.json"),
        _json(path / "evals" / "before-after.json"),
        _json(path / "evals" / "compare.json"),
        tuple(found),
        skipped,
        count,
        strips,
        checkpoint,
        tuple(missing),
    )


def state(path: Path) -> str:
    """Another word whenever something in the run directory is new: sizes and times of what the page is made from."""
    names = ("config.yaml", "metrics.jsonl", "baselines.json", "checkpoints/last", "skipped.jsonl", "samples", "evals")
    return " ".join(f"{s.st_size}.{s.st_mtime_ns}" for name in names if (s := _stat(path / name)))


def _stat(path: Path) -> Any:
    try:
        return path.stat()
    except OSError:
        return None


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None


def _json(path: Path) -> Mapping[str, Any]:
    try:
        facts = json.loads(_text(path) or "{}")
    except ValueError:  # half-written
        return {}
    return facts if isinstance(facts, dict) else {}


def _skipped(path: Path) -> tuple[tuple[tuple[str, str], ...], int]:
    try:
        with path.open(encoding="utf-8", errors="replace") as stream:
            lines = (line for line in stream if line.endswith("\n"))
            head = [row for line in islice(lines, SKIPPED) if (row := _row(line))]
            return tuple(head), len(head) + sum(1 for _ in lines)
    except OSError:
        return (), 0


def _row(line: str) -> tuple[str, str] | None:
    try:
        facts = json.loads(line)
        return str(facts["name"]), str(facts["reason"])
    except (ValueError, KeyError, TypeError):
        return None

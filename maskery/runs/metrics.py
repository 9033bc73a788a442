"""Read metrics.jsonl in bounded memory: a few thousand buckets of log lines, and the periodic evaluations (looks).

A bucket is a number of consecutive log lines: their last step, and mean, lowest and highest of every number.
"""

import itertools
import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

CHUNK, MAX_BUCKETS = 1024, 4096  # lines parsed at a time
MAX_LOOKS = 4096  # more are thinned evenly

MIN_RATE = 0.05  # images per second are logged to a tenth: what reads 0.0 is less than this
POSITIONS = ("step", "t", "epoch")  # where a bucket ends: the last value counts, not the mean

Row = dict[str, Any]


@dataclass(frozen=True)
class Column:
    """One number over the run, one value per bucket; NaN where no line of the bucket has it."""

    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


@dataclass(frozen=True)
class Metrics:
    columns: dict[str, Column] = field(default_factory=dict)
    looks: tuple[Row, ...] = ()
    lines: int = 0  # log lines in the file
    damaged: int = 0  # lines that cannot be parsed
    last: Row = field(default_factory=dict)  # the newest log line
    problem: str = ""  # why the file cannot be read

    def __getitem__(self, name: str) -> np.ndarray:
        """Bucket means of one number; empty when nothing was logged."""
        return self.columns[name].mean if name in self.columns else np.full(self.buckets, math.nan)

    @property
    def buckets(self) -> int:
        return len(self.columns["step"].mean) if "step" in self.columns else 0

    @property
    def steps(self) -> int:
        """Steps of the full run; 0 before the first log line."""
        return round(self.last["step"] / self.last["t"]) if self.last.get("t") else 0

    def late(self, name: str, fraction: float = 0.25) -> np.ndarray:
        """The newest fraction of a number's logged values; at least one value if there is any."""
        values = self[name][np.isfinite(self[name])]
        return values[len(values) - max(1, math.ceil(fraction * len(values))) :] if len(values) else values

    def training_seconds(self, batch_size: int) -> float | None:
        """The time of all steps by their logged speed; None when no speed was logged."""
        steps, rates = self["step"], self["images_per_second"]
        known = np.isfinite(rates)
        if not known.any():
            return None
        images = np.diff(steps, prepend=0) * batch_size
        return float((images[known] / np.maximum(rates[known], MIN_RATE)).sum())


def read_metrics(path: Path) -> Metrics:
    """Read the complete lines of the file so far. OSError when it cannot be read."""
    looks, damaged, lines, buckets, last = [], 0, 0, Buckets(), {}
    with path.open("rb") as stream:
        for rows, bad in _chunks(stream):
            damaged += bad
            logged = [row for row in rows if "loss" in row]
            looks += [row for row in rows if "loss" not in row]
            looks = looks[:1] + looks[1:-1:2] + looks[-1:] if len(looks) > MAX_LOOKS else looks
            lines += len(logged)
            buckets.add(logged)
            last = logged[-1] if logged else last
    return Metrics(buckets.columns(), tuple(looks), lines, damaged, last)


class Buckets:
    """Collects log lines in buckets; merges neighbours when there are too many."""

    def __init__(self) -> None:
        self.stride, self.counts = 1, np.empty(0)
        self.parts: dict[str, np.ndarray] = {}  # name -> [3, buckets]: mean, low, high

    def add(self, rows: list[Row]) -> None:
        if not rows:
            return
        stride = min(self.stride, CHUNK)
        starts = np.arange(0, len(rows), stride)
        counts = np.diff(np.append(starts, len(rows))).astype(float)
        for name in {name for row in rows for name in row} | self.parts.keys():
            values = _numbers([row.get(name) for row in rows])
            known = np.isfinite(values)
            n = np.add.reduceat(known.astype(float), starts)
            mean = np.add.reduceat(np.where(known, values, 0.0), starts) / np.where(n, n, math.nan)
            low = np.fmin.reduceat(np.where(known, values, math.nan), starts)
            high = np.fmax.reduceat(np.where(known, values, math.nan), starts)
            if name in POSITIONS:
                mean = high
            before = self.parts.get(name, np.full((3, len(self.counts)), math.nan))
            self.parts[name] = np.concatenate([before, np.stack([mean, low, high])], axis=1)
        self.counts = np.append(self.counts, counts)
        while len(self.counts) > MAX_BUCKETS:
            self.halve()

    def halve(self) -> None:
        even = len(self.counts) // 2 * 2
        a, b = self.counts[0:even:2], self.counts[1:even:2]
        for name, part in self.parts.items():
            (m1, l1, h1), (m2, l2, h2) = part[:, 0:even:2], part[:, 1:even:2]
            known = np.isfinite(m1) * a, np.isfinite(m2) * b
            both = (np.nan_to_num(m1) * known[0] + np.nan_to_num(m2) * known[1]) / np.where(
                known[0] + known[1] > 0, known[0] + known[1], math.nan
            )
            low, high = np.fmin(l1, l2), np.fmax(h1, h2)
            merged = np.stack([high if name in POSITIONS else both, low, high])
            self.parts[name] = np.concatenate([merged, part[:, even:]], axis=1)
        self.counts = np.append(a + b, self.counts[even:])
        self.stride *= 2

    def columns(self) -> dict[str, Column]:
        return {name: Column(*part) for name, part in self.parts.items()}


def _chunks(stream: Iterable[bytes]) -> Iterator[tuple[list[Row], int]]:
    """Parse some lines at a time; yields rows, and how many lines were damaged."""
    stream = iter(stream)
    while lines := [line for line in itertools.islice(stream, CHUNK) if line.endswith(b"\n")]:
        try:
            rows = json.loads(b"[" + b",".join(lines) + b"]")
        except ValueError:  # json's and Unicode's
            rows = [_row(line) for line in lines]
        good = [row for row in rows if isinstance(row, dict) and "step" in row]
        yield good, len(lines) - len(good)


def _row(line: bytes) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None


def _numbers(values: list[Any]) -> np.ndarray:
    """As floats; NaN where there is none."""
    try:
        return np.array(values, dtype=float)  # None is nan
    except (TypeError, ValueError, OverflowError):
        return np.array([float(v) if isinstance(v, int | float) and abs(v) < 1e300 else math.nan for v in values])


def complete_lines(path: Path) -> list[str]:
    """The lines of a file, without a last one that was cut off."""
    if not path.exists():
        return []
    return [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]

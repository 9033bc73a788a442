"""Read metrics.jsonl: log lines as columns of at most `MAX_BUCKETS` values, and periodic evaluations (looks)."""

import json
import math
from array import array
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

MAX_BUCKETS = 4096  # longer runs: a bucket is several consecutive log lines
MIN_RATE = 0.05  # images per second are logged to a tenth: what reads 0.0 is less than this
POSITIONS = ("step", "t", "epoch")  # of a bucket the last value counts, not the mean

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
        return float(seconds_of_lines(steps, rates, batch_size)[known].sum()) if known.any() else None


def seconds_of_lines(steps: ArrayLike, rates: ArrayLike, batch_size: int, start: int = 0) -> np.ndarray:
    """Training time of each log line since the one before, the first since step `start`, by its images per second."""
    return np.diff(steps, prepend=start) * batch_size / np.maximum(rates, MIN_RATE)


def read_metrics(path: Path) -> Metrics:
    """Read the complete lines of the file so far. OSError when it cannot be read."""
    columns: dict[str, array[float]] = {}
    looks, lines, damaged, last = [], 0, 0, {}
    with path.open("rb") as stream:
        for row in (_row(line) for line in stream if line.endswith(b"\n")):
            if row is None:
                damaged += 1
            elif "loss" not in row:
                looks.append(row)
            else:
                for name, value in row.items():
                    column = columns.setdefault(name, array("d"))
                    column.extend([math.nan] * (lines - len(column)))
                    column.append(_number(value))
                lines, last = lines + 1, row
    buckets = {name: _buckets(name, column, lines) for name, column in columns.items()}
    return Metrics(buckets, tuple(looks), lines, damaged, last)


def _row(line: bytes) -> Row | None:
    """One line; None when it is damaged."""
    try:
        row = json.loads(line)
    except ValueError:  # json's and Unicode's
        return None
    return row if isinstance(row, dict) and "step" in row else None


def _number(value: Any) -> float:
    """A float; NaN for what is no number."""
    return float(value) if isinstance(value, int | float) and abs(value) < 1e300 else math.nan


def _buckets(name: str, column: "array[float]", lines: int) -> Column:
    values = np.full(lines, math.nan)
    values[: len(column)] = column
    values[~np.isfinite(values)] = math.nan
    starts = np.arange(0, lines, max(1, math.ceil(lines / MAX_BUCKETS)))
    count = np.add.reduceat(np.isfinite(values).astype(float), starts)
    mean = np.add.reduceat(np.nan_to_num(values), starts) / np.where(count, count, math.nan)
    low, high = np.fmin.reduceat(values, starts), np.fmax.reduceat(values, starts)
    return Column(high if name in POSITIONS else mean, low, high)


def read_rows(path: Path) -> list[Row]:
    """The objects in a JSONL file, without a last line that was cut off; none when there is no file."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]

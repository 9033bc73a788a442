"""A comparison's numbers as rows, lines and an honest sentence.

Differences are paired: between two runs of the same seed, which share images, order, crops and initial weights.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from ..text import duration

MEASURES = {
    "knn_mean_patch": "kNN, mean patch token",
    "knn_class_token": "kNN, class token",
    "linear_mean_patch": "linear probe, mean patch token",
    "linear_class_token": "linear probe, class token",
}
HEAD = {
    "knn_mean_patch": "kNN patch",
    "knn_class_token": "kNN class",
    "linear_mean_patch": "linear patch",
    "linear_class_token": "linear class",
}
FEWEST = 3  # seeds from which a spread says something
T95 = (
    4.303,
    3.182,
    2.776,
    2.571,
    2.447,
    2.365,
    2.306,
    2.262,
)  # Student's t at 2 to 9 degrees of freedom, two-sided 95 %

Results = Mapping[str, Mapping[int, Mapping[str, Any]]]  # label -> seed -> numbers of one run


def rows(start: str, results: Results) -> list[dict[str, Any]]:
    """One row a label, in order; the first, `start`, is what all began with, the second what others are measured by."""
    table = []
    for label, runs in results.items():
        row: dict[str, Any] = {"label": label, "seeds": len(runs)}
        for name in ("epochs", "training_seconds", "images_per_second", *MEASURES):
            values = [run[name] for run in runs.values() if name in run]
            if values:
                row[name] = _spread(values)
        first = next((other for other in results if other != start), start)
        for key, other in (("above_start", start), ("above_first", first)):
            if other in results and label not in (start, other):
                above = {name: paired(runs, results[other], name) for name in MEASURES}
                row[key] = {name: d for name, d in above.items() if d}
        table.append(row)
    return table


def paired(runs: Mapping[int, Mapping[str, Any]], others: Mapping[int, Mapping[str, Any]], name: str) -> dict[str, Any]:
    """Mean and standard deviation of the differences of runs with the same seed; empty when there is none."""
    both = [seed for seed in runs if seed in others and name in runs[seed] and name in others[seed]]
    return _spread([runs[seed][name] - others[seed][name] for seed in both]) if both else {}


def exceeds(difference: Mapping[str, Any]) -> bool | None:
    """Whether 0 lies outside the 95 % interval of a mean difference; None when there are too few seeds to tell."""
    n = difference["seeds"]
    if n < FEWEST:
        return None
    t = T95[n - FEWEST] if n - FEWEST < len(T95) else 2.262  # a little strict beyond 10 seeds
    return abs(difference["mean"]) > t * difference["std"] / math.sqrt(n)


def reading(start: str, results: Results) -> list[str]:
    """What the numbers say, and what they do not. Ranked by the seeds that all methods have, if there are some."""
    results = {m: {s: r for s, r in runs.items() if not MEASURES.keys().isdisjoint(r)} for m, runs in results.items()}
    methods = [m for m in results if m != start and results[m]]
    if not methods:
        return []
    shared = set.intersection(*(set(results[m]) for m in methods))
    results = {m: {s: r for s, r in runs.items() if s in shared or not shared} for m, runs in results.items()}
    told = [name for name in MEASURES if all(_mean(results[m], name) is not None for m in methods)]
    said = [_reading_of(told[0], start, methods, results)]
    others = []
    for name in told[1:]:
        best, second = _ranked(name, methods, results)
        verdict = "" if second is None else f" ({_verdict(paired(results[best], results[second], name))})"
        others.append(f"{MEASURES[name]}: {best}{verdict}")
    return [*said, "First by the other measures: " + "; ".join(others) + "."] if others else said


def lines(start: str, table: Sequence[Mapping[str, Any]]) -> list[str]:
    """The table for a console: numbers, then differences in points. +- is the standard deviation over seeds."""
    measures = [name for name in MEASURES if any(name in row for row in table)]
    width = max(len(row["label"]) for row in table) + 2
    heads = ["epochs", "training", "images/s", *(HEAD[name] for name in measures)]
    said = [" " * width + "".join(f"{head:>14}" for head in heads)]
    for row in table:
        cells = [cell(row, name) for name in ("epochs", "training_seconds", "images_per_second", *measures)]
        said.append(f"{row['label']:{width}}" + "".join(f"{c:>14}" for c in cells))
    first = table[1]["label"] if len(table) > 1 else ""
    for key, other in (("above_start", start), ("above_first", first)):
        some = [row for row in table if row.get(key)]
        if some and measures:
            said += ["", f"points above {other}, seed by seed"]
            for row in some:
                said.append(
                    f"{row['label']:{width}}" + " " * 42 + "".join(f"{points(row[key].get(m)):>14}" for m in measures)
                )
    return said


def cell(row: Mapping[str, Any], name: str) -> str:
    """One number of a row in words; "-" where there is none."""
    if name not in row:
        return "-"
    mean, std = row[name]["mean"], row[name]["std"]
    if name == "training_seconds":
        return duration(mean)
    if name == "images_per_second":
        return f"{mean:,.0f}" if mean >= 10 else f"{mean:.1f}"
    if name == "epochs":
        return f"{mean:.1f}"
    return f"{100 * mean:.1f} %" if std is None else f"{100 * mean:.1f} ± {100 * std:.1f}"


def points(difference: Mapping[str, Any] | None) -> str:
    """A difference of shares as percentage points."""
    if not difference:
        return "-"
    spread = "" if difference["std"] is None else f" ± {100 * difference['std']:.1f}"
    mean = round(100 * difference["mean"], 1) + 0.0  # no -0.0
    return f"{mean:+.1f}{spread}"


def _reading_of(name: str, start: str, methods: Sequence[str], results: Results) -> str:
    best, second = _ranked(name, methods, results)
    said = f"By {MEASURES[name]}, {best} comes first with {100 * (_mean(results[best], name) or 0):.1f} %"
    if second is not None:
        difference = paired(results[best], results[second], name)
        said += f", {points(difference)} points against {second}: {_verdict(difference)}"
    above = paired(results[best], results.get(start, {}), name)
    if above:
        said += f". Against {start}: {points(above)} points, {_verdict(above)}"
        said += "" if above["mean"] > 0 else f". So no method is better than {start}"
    return said + "."


def _verdict(difference: Mapping[str, Any]) -> str:
    if not difference:
        return "no seed that both have"
    told, n = exceeds(difference), difference["seeds"]
    if told is None:
        return "1 seed is too few to tell" if n == 1 else f"{n} seeds are too few to tell"
    return (
        f"more than the spread over {n} seeds explains" if told else f"within the spread over {n} seeds: not told apart"
    )


def _ranked(name: str, methods: Sequence[str], results: Results) -> tuple[str, str | None]:
    order = sorted(methods, key=lambda m: -(_mean(results[m], name) or 0))  # stable: of equals, the one named first
    return order[0], order[1] if len(order) > 1 else None


def _mean(runs: Mapping[int, Mapping[str, Any]], name: str) -> float | None:
    values = [run[name] for run in runs.values() if name in run]
    return statistics.fmean(values) if values else None


def _spread(values: Sequence[float]) -> dict[str, Any]:
    std = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.fmean(values), "std": std, "seeds": len(values)}

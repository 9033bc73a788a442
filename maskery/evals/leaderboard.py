"""Methods of `maskery compare` ranked by the accuracies of their encoders: table, console lines, sentences."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..text import duration
from .seed_statistics import BySeed, is_significant, paired_difference, percent, points, spread_of

MEASURES = {
    "knn_mean_patch": "kNN, mean patch token",
    "knn_class_token": "kNN, class token",
    "linear_mean_patch": "linear probe, mean patch token",
    "linear_class_token": "linear probe, class token",
}
HEADS = {
    "knn_mean_patch": "kNN patch",
    "knn_class_token": "kNN class",
    "linear_mean_patch": "linear patch",
    "linear_class_token": "linear class",
}
COSTS = ("epochs", "training_seconds", "images_per_second")

ByMethod = Mapping[str, BySeed]  # method, or the label of what all methods start from -> seed -> numbers
Rows = Sequence[Mapping[str, Any]]


def table(start: str, results: ByMethod) -> list[dict[str, Any]]:
    """Make one row a label, in order: `start` (what all methods start from) first, then the reference method."""
    reference = next((label for label in results if label != start), start)
    rows = []
    for label, runs in results.items():
        row: dict[str, Any] = {"label": label, "seeds": len(runs)}
        row |= {name: value for name in (*COSTS, *MEASURES) if (value := spread_of(runs, name))}
        for key, baseline in (("above_start", start), ("above_first", reference)):
            if baseline in results and label not in (start, baseline):
                above = {name: paired_difference(runs, results[baseline], name) for name in MEASURES}
                row[key] = {name: difference for name, difference in above.items() if difference}
        rows.append(row)
    return rows


def lines(start: str, rows: Rows) -> list[str]:
    """Format the table for a console: numbers, then differences in points; ± is the standard deviation over seeds."""
    measures = [name for name in MEASURES if any(name in row for row in rows)]
    width = max(len(row["label"]) for row in rows) + 2
    heads = ["epochs", "training", "images/s", *(HEADS[name] for name in measures)]
    text = [" " * width + "".join(f"{head:>14}" for head in heads)]
    for row in rows:
        text.append(f"{row['label']:{width}}" + "".join(f"{cell(row, name):>14}" for name in (*COSTS, *measures)))
    for baseline, above in differences(start, rows):
        if measures:
            text += ["", f"points above {baseline}, seed by seed"]
            for label, by_measure in above.items():
                cells = "".join(f"{points(by_measure.get(name)):>14}" for name in measures)
                text.append(f"{label:{width}}" + " " * 42 + cells)
    return text


def differences(start: str, rows: Rows) -> list[tuple[str, dict[str, Mapping[str, Any]]]]:
    """List (baseline, {label: {measure: paired difference}}) for `start` and the reference method, where there are."""
    reference = rows[1]["label"] if len(rows) > 1 else ""
    listed = [
        (baseline, {row["label"]: row[key] for row in rows if row.get(key)})
        for key, baseline in (("above_start", start), ("above_first", reference))
    ]
    return [(baseline, above) for baseline, above in listed if above]


def cell(row: Mapping[str, Any], name: str) -> str:
    """Format one number of a row; "-" where there is none."""
    if name not in row or name in MEASURES:
        return percent(row.get(name))
    mean = row[name]["mean"]
    if name == "training_seconds":
        return duration(mean)
    return f"{mean:,.0f}" if name == "images_per_second" and mean >= 10 else f"{mean:.1f}"


def reading(start: str, results: ByMethod) -> list[str]:
    """Say which method is first by each measure, and whether that is more than noise.

    Methods are ranked by the seeds that all of them have, if there are any.
    """
    results = {m: {s: r for s, r in runs.items() if not MEASURES.keys().isdisjoint(r)} for m, runs in results.items()}
    methods = [method for method in results if method != start and results[method]]
    if not methods:
        return []
    shared = set.intersection(*(set(results[method]) for method in methods))
    results = {m: {s: r for s, r in runs.items() if s in shared or not shared} for m, runs in results.items()}
    complete = [name for name in MEASURES if all(spread_of(results[method], name) for method in methods)]
    others = []
    for name in complete[1:]:
        best, second = _first_two(name, methods, results)
        verdict = f" ({_verdict(paired_difference(results[best], results[second], name))})" if second else ""
        others.append(f"{MEASURES[name]}: {best}{verdict}")
    sentences = [_conclusion(complete[0], start, methods, results)]
    return [*sentences, "First by the other measures: " + "; ".join(others) + "."] if others else sentences


def _conclusion(name: str, start: str, methods: Sequence[str], results: ByMethod) -> str:
    best, second = _first_two(name, methods, results)
    text = f"By {MEASURES[name]}, {best} comes first with {100 * _mean(results[best], name):.1f} %"
    if second:
        difference = paired_difference(results[best], results[second], name)
        text += f", {points(difference)} points against {second}: {_verdict(difference)}"
    above = paired_difference(results[best], results.get(start, {}), name)
    if above:
        text += f". Against {start}: {points(above)} points, {_verdict(above)}"
        text += "" if above["mean"] > 0 else f". So no method is better than {start}"
    return text + "."


def _verdict(difference: Any) -> str:
    if not difference:
        return "no seed in common"
    significant, n = is_significant(difference), difference["seeds"]
    if significant is None:
        return "1 seed is too few to tell" if n == 1 else f"{n} seeds are too few to tell"
    if significant:
        return f"more than the spread over {n} seeds explains"
    return f"within the spread over {n} seeds: not told apart"


def _first_two(name: str, methods: Sequence[str], results: ByMethod) -> tuple[str, str | None]:
    order = sorted(methods, key=lambda method: -_mean(results[method], name))  # stable: of equals, the one named first
    return order[0], order[1] if len(order) > 1 else None


def _mean(runs: BySeed, name: str) -> float:
    value = spread_of(runs, name)
    return value["mean"] if value else 0.0

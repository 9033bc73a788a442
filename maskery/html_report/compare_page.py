"""compare.html and compare.png of a comparison: curves of kNN accuracy, tables, pictures, settings."""

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from ..evals.leaderboard import COSTS, HEADS, MEASURES, Rows, cell, differences
from ..evals.seed_statistics import points, spread
from ..html.charts import Chart, Curve, Scale, chart
from ..html.page import picture, render
from ..outputs import partial_path
from ..text import needs_extra

# Okabe and Ito's colours without yellow: told apart by everybody, and in print
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#555555")
MEASURE = "knn_mean_patch"  # which periodic evaluations have too


@dataclass(frozen=True)
class AccuracyCurves:
    """kNN accuracy during training: means over seeds, with standard deviations."""

    by_label: Mapping[str, Mapping[str, np.ndarray]]  # label -> step, epoch, seconds, mean, std: a value an evaluation
    start: float | None  # accuracy before the first step
    unit: str  # of training time
    unit_seconds: int

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> "AccuracyCurves | None":
        """Average the periodic evaluations in compare.json; None when they have no kNN."""
        curves = {method["label"]: _average(method["label"], facts) for method in facts["methods"]}
        evaluated = [curve for curve in curves.values() if len(curve["step"])]
        if not evaluated:
            return None
        longest = max(curve["seconds"].max() for curve in evaluated)
        unit = ("hours", 3600) if longest > 5400 else ("minutes", 60) if longest > 90 else ("seconds", 1)
        return cls(curves, evaluated[0]["mean"][0] if evaluated[0]["step"][0] == 0 else None, *unit)


def _average(label: str, facts: Mapping[str, Any]) -> dict[str, np.ndarray]:
    looks = (look for run in facts["runs"] if run["label"] == label for look in run["looks"] if MEASURE in look)
    rows, step_of = [], itemgetter("step")
    for step, group in groupby(sorted(looks, key=step_of), step_of):
        seeds = list(group)
        accuracy, seconds = (spread([look[name] for look in seeds]) for name in (MEASURE, "seconds"))
        rows.append((step, seeds[0]["epoch"], seconds["mean"], accuracy["mean"], accuracy["std"] or 0.0))
    columns = np.array(rows, float).reshape(-1, 5).T
    return dict(zip(("step", "epoch", "seconds", "mean", "std"), columns, strict=True))


def write_picture(facts: Mapping[str, Any], path: Path) -> str | None:
    """Draw accuracy over epochs and over training time (extra: report). None, or why there is no picture."""
    curves = AccuracyCurves.of(facts)
    if curves is None:
        return "no picture: no kNN was made while the runs went on (it needs labels and --watch.looks)"
    if importlib.util.find_spec("matplotlib") is None:
        return f"no picture: {needs_extra('it', 'matplotlib', 'report')}"
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.9), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for axis, name, scale in zip(axes, ("epoch", "seconds"), (1, curves.unit_seconds), strict=True):
        for i, (label, curve) in enumerate(curves.by_label.items()):
            colour, x, y, std = COLOURS[i % len(COLOURS)], curve[name] / scale, 100 * curve["mean"], 100 * curve["std"]
            axis.plot(x, y, "o-", color=colour, markersize=3.5, linewidth=1.6, label=label)
            axis.fill_between(x, y - std, y + std, color=colour, alpha=0.16, linewidth=0)
        if curves.start is not None:
            label = facts["start"].replace("$", r"\$")  # in a path it is no formula
            axis.axhline(100 * curves.start, color="#666666", linestyle=":", linewidth=1.4, label=label)
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set(xlabel="epochs", ylabel=f"{MEASURES[MEASURE]}, %")
    axes[1].set(xlabel=f"{curves.unit} of training")
    axes[0].legend(frameon=False, fontsize=9)
    with partial_path(path) as partial:
        figure.savefig(partial, format="png", dpi=130)
    return None


def charts(facts: Mapping[str, Any]) -> list[Chart]:
    """Draw the same curves for the page."""
    curves = AccuracyCurves.of(facts)
    if curves is None:
        return []
    guides = [] if curves.start is None else [(facts["start"], curves.start)]
    note = f"{MEASURES[MEASURE]}: means over seeds, bands one standard deviation."
    drawn = []
    for name, unit, scale in (("epoch", "epoch", 1), ("seconds", f"{curves.unit} of training", curves.unit_seconds)):
        lines = []
        for i, (label, curve) in enumerate(curves.by_label.items()):
            x, mean, std = curve[name] / scale, curve["mean"], curve["std"]
            lines.append(Curve(label, x, mean, mean - std, mean + std, dots=True, colour=i % len(COLOURS)))
        drawn.append(chart(f"Accuracy by {unit}", lines, Scale(percent=True), unit=unit, guides=guides, note=note))
    return [one for one in drawn if one]


def page(facts: Mapping[str, Any], out: Path) -> str:
    """Render compare.html: reading, tables, curves, the last strip of each method's first run, settings."""
    first, labels = facts["seeds"][0], [method["label"] for method in facts["methods"]]
    done, planned = sum("steps" in run for run in facts["runs"]), len(facts["seeds"]) * len(labels)
    samples = ((label, (out / f"{label}-seed{first}" / "samples").glob("step-*.png")) for label in labels)
    files = ((label, max(pictures, default=None)) for label, pictures in samples)
    strips = [(label, f"{label}, seed {first}", uri) for label, file in files if file and (uri := picture(file))]
    measures = [name for name in MEASURES if any(name in row for row in facts["table"])]
    columns, table = (*COSTS, *measures), facts["table"]
    best = {name: max(row[name]["mean"] for row in table if name in row) for name in measures}
    rows = [[(cell(row, n), n in row and row[n]["mean"] == best.get(n)) for n in columns] for row in table]
    drawn, note = charts(facts), facts["picture"]
    return render(
        "compare.html",
        title=" against ".join(labels),
        facts=facts,
        budget=facts["budget"] or "as many epochs as the settings say",
        so_far="" if facts["finished"] else f"So far: {done} of {planned} runs.",
        colours={label: i % len(COLOURS) for i, label in enumerate(labels)},
        heads=["epochs", "training time", "images/s", *(HEADS[name] for name in measures)],
        rows=[(row["label"], cells) for row, cells in zip(table, rows, strict=True)],  # (text, whether it is the best)
        differences=_differences(facts["start"], table),
        charts=drawn,
        note="" if drawn and note.startswith("no picture") else note,  # of compare.png, which these charts do not need
        strips=strips,
        settings=[(f"{m['label']} = {m['method']}", m["settings"].items()) for m in facts["methods"]],
        command=" ".join(facts["command"]),
    )


def _differences(start: str, table: Rows) -> list[tuple[str, list[str], list[tuple[str, list[str]]]]]:
    """List (baseline, heads, rows of points)."""
    tables = []
    for baseline, above in differences(start, table):
        measures = [name for name in MEASURES if any(name in by_measure for by_measure in above.values())]
        rows = [(label, [points(by_measure.get(name)) for name in measures]) for label, by_measure in above.items()]
        tables.append((baseline, [HEADS[name] for name in measures], rows))
    return tables

"""A comparison as a picture (extra: maskery[report]) and as one page that needs nothing beside it."""

import importlib.util
import io
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..evals.leaderboard import HEADS, MEASURES, Rows, cell, differences
from ..evals.paired import points
from ..html.charts import Chart, Curve, chart
from ..html.page import picture as embedded
from ..html.page import render

# Okabe and Ito's colours without yellow: told apart by everybody, and in print
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#555555")
SHOWN = "knn_mean_patch"  # the measure that looks have while a run goes on


def picture(facts: Mapping[str, Any], path: Path) -> str | None:
    """Write kNN over epochs and over training time; why there is no picture, or None when there is one."""
    drawn = {m["label"]: _curve(m["label"], facts) for m in facts["methods"]}
    if not any(drawn.values()):
        return "no picture: no kNN was made while the runs went on (it needs labels and --watch.looks)"
    if importlib.util.find_spec("matplotlib") is None:
        return "no picture: it needs matplotlib (pip install 'maskery[report]')"
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.9), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    unit, per = _unit(drawn)
    for axis, name, scale in ((axes[0], "epoch", 1), (axes[1], "seconds", per)):
        for i, (label, curve) in enumerate(drawn.items()):
            x, y = [p[name] / scale for p in curve], [100 * p["mean"] for p in curve]
            low, high = ([100 * (p["mean"] + sign * p["std"]) for p in curve] for sign in (-1, 1))
            colour = COLOURS[i % len(COLOURS)]
            axis.plot(x, y, "o-", color=colour, markersize=3.5, linewidth=1.6, label=label)
            axis.fill_between(x, low, high, color=colour, alpha=0.16, linewidth=0)
        start = next(curve for curve in drawn.values() if curve)[0]
        if start["step"] == 0:
            words = facts["start"].replace("$", r"\$")  # no formula, should it be in a path
            axis.axhline(100 * start["mean"], color="#666666", linestyle=":", linewidth=1.4, label=words)
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set(xlabel="epochs", ylabel=f"{MEASURES[SHOWN]}, %")
    axes[1].set(xlabel=f"{unit} of training")
    axes[0].legend(frameon=False, fontsize=9)
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=130)
    half = path.with_name(f".writing-{path.name}")
    half.write_bytes(data.getvalue())
    half.replace(path)
    return None


def page(facts: Mapping[str, Any], out: Path) -> str:
    """compare.html: reading, tables, curves, the last strip of each method's first run, settings."""
    first, labels = facts["seeds"][0], [m["label"] for m in facts["methods"]]
    done, wanted = sum("steps" in run for run in facts["runs"]), len(facts["seeds"]) * len(labels)
    strips = []
    for label in labels:
        found = sorted((out / f"{label}-seed{first}" / "samples").glob("step-*.png"))
        uri = embedded(found[-1]) if found else None
        if uri:
            strips.append((label, f"{label}, seed {first}", uri))
    measures = [name for name in MEASURES if any(name in row for row in facts["table"])]
    charts, note = curves(facts), facts["picture"]
    return render(
        "compare.html",
        title=" against ".join(labels),
        facts=facts,
        budget=facts["budget"] or "as many epochs as the settings say",
        so_far="" if facts["finished"] else f"So far: {done} of {wanted} runs.",
        colours={label: i % len(COLOURS) for i, label in enumerate(labels)},
        heads=["epochs", "training time", "images/s", *(HEADS[name] for name in measures)],
        rows=[_row(row, facts["table"], measures) for row in facts["table"]],
        differences=_differences(facts["start"], facts["table"]),
        charts=charts,
        note="" if charts and note.startswith("no picture") else note,  # compare.png's, which these curves do not need
        strips=strips,
        settings=[(f"{m['label']} = {m['method']}", m["settings"].items()) for m in facts["methods"]],
        command=" ".join(facts["command"]),
    )


def curves(facts: Mapping[str, Any]) -> list[Chart]:
    """kNN over epochs and over training time, means over seeds with one standard deviation as the band."""
    drawn = {m["label"]: _curve(m["label"], facts) for m in facts["methods"]}
    if not any(drawn.values()):
        return []
    unit, per = _unit(drawn)
    start = next(curve for curve in drawn.values() if curve)[0]
    guides = [(facts["start"], start["mean"])] if start["step"] == 0 else []
    made = []
    for name, words, scale in (("epoch", "epoch", 1), ("seconds", f"{unit} of training", per)):
        lines = []
        for i, (label, points_) in enumerate(drawn.items()):
            x, mean, std = (np.array([p[n] for p in points_], float) for n in (name, "mean", "std"))
            lines.append(Curve(label, x / scale, mean, mean - std, mean + std, dots=True, colour=i % len(COLOURS)))
        note = f"{MEASURES[SHOWN]}: means over seeds, bands one standard deviation."
        made.append(chart(f"Accuracy by {words}", lines, unit=words, guides=guides, percent=True, note=note))
    return [c for c in made if c]


def _unit(drawn: Mapping[str, list[dict[str, float]]]) -> tuple[str, int]:
    """What training time is counted in, and how many seconds that has."""
    longest = max(point["seconds"] for points in drawn.values() for point in points)
    return ("hours", 3600) if longest > 5400 else ("minutes", 60) if longest > 90 else ("seconds", 1)


def _curve(label: str, facts: Mapping[str, Any]) -> list[dict[str, float]]:
    """Mean and standard deviation over seeds at every step that was looked at."""
    at: dict[int, list[Mapping[str, float]]] = {}
    for run in facts["runs"]:
        for look in run["looks"] if run["label"] == label else ():
            if SHOWN in look:
                at.setdefault(look["step"], []).append(look)
    return [
        {
            "step": step,
            "epoch": looks[0]["epoch"],
            "seconds": statistics.fmean(look["seconds"] for look in looks),
            "mean": statistics.fmean(look[SHOWN] for look in looks),
            "std": statistics.stdev([look[SHOWN] for look in looks]) if len(looks) > 1 else 0.0,
        }
        for step, looks in sorted(at.items())
    ]


def _row(
    row: Mapping[str, Any], table: Sequence[Mapping[str, Any]], measures: Sequence[str]
) -> tuple[str, list[tuple[str, bool]]]:
    """Label, and cells with whether they are the best of their column."""
    cells = [(cell(row, name), False) for name in ("epochs", "training_seconds", "images_per_second")]
    for name in measures:
        best = max(other[name]["mean"] for other in table if name in other)
        cells.append((cell(row, name), name in row and row[name]["mean"] == best))
    return row["label"], cells


def _differences(start: str, table: Rows) -> list[tuple[str, list[str], list[tuple[str, list[str]]]]]:
    """(above what, heads, rows of points)."""
    made = []
    for baseline, above in differences(start, table):
        measures = [name for name in MEASURES if any(name in by_measure for by_measure in above.values())]
        rows = [(label, [points(by_measure.get(name)) for name in measures]) for label, by_measure in above.items()]
        made.append((baseline, [HEADS[name] for name in measures], rows))
    return made

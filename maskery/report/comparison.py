"""A comparison as a picture (extra: maskery[report]) and as one page that needs nothing beside it."""

import base64
import importlib.util
import io
import statistics
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from .standings import HEAD, MEASURES, cell, points

# Okabe and Ito's colours without yellow: told apart by everybody, and in print
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#555555")
SHOWN = "knn_mean_patch"  # the measure that looks have while a run goes on

STYLE = """
:root { color-scheme: light dark; --ink: #1c2024; --soft: #60666d; --line: #dfe3e8; --paper: #fff; --shade: #f5f7f9 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8eaed; --soft: #a0a7af; --line: #353a40; --paper: #16181b; --shade: #1f2226 } }
body { font: 16px/1.55 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 0 auto;
  max-width: 64rem; padding: 1.5rem 1rem 4rem }
h1 { font-size: 1.6rem; line-height: 1.25; margin: .5rem 0 } h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem }
p { max-width: 46rem } .soft { color: var(--soft); font-size: .9rem; overflow-wrap: anywhere }
.verdict { background: var(--shade); border-left: 4px solid #0072b2; padding: .8rem 1rem; margin: 1rem 0 }
.verdict p { margin: .3rem 0 }
.wide { overflow-x: auto } table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .92rem }
th, td { padding: .4rem .7rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line) }
th { font-weight: 600; color: var(--soft) } th:first-child, td:first-child { text-align: left }
td.best { font-weight: 700 } .swatch { display: inline-block; width: .7em; height: .7em; border-radius: 2px;
  margin-right: .5em } .start td { color: var(--soft) }
img { max-width: 100%; height: auto; background: #fff; border-radius: 4px }
.wide img { width: max(100%, 40rem); max-width: none }
.strips { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(22rem, 100%), 1fr)); gap: 1.2rem }
figure { margin: 0 } figcaption { font-weight: 600; margin-bottom: .3rem }
details { margin: .5rem 0 } summary { cursor: pointer } code { font-size: .88em; overflow-wrap: anywhere }
.settings td { white-space: normal; text-align: left; overflow-wrap: anywhere }
"""


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
    longest = max(point["seconds"] for points in drawn.values() for point in points)
    unit, per = ("hours", 3600) if longest > 5400 else ("minutes", 60) if longest > 90 else ("seconds", 1)
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
    """compare.html: reading, tables, picture, the last strip of each method's first run, settings."""
    first = facts["seeds"][0]
    done, wanted = sum("steps" in run for run in facts["runs"]), len(facts["seeds"]) * len(facts["methods"])
    state = "" if facts["finished"] else f"<p><b>So far: {done} of {wanted} runs.</b></p>"
    budget = facts["budget"] or "as many epochs as the settings say"
    plot = _image(out / "compare.png", "kNN accuracy over epochs and over training time")
    strips = []
    for method in facts["methods"]:
        found = sorted((out / f"{method['label']}-seed{first}" / "samples").glob("step-*.png"))
        if found:
            shown = _image(found[-1], f"held-out images as {method['label']} sees them")
            strips.append(f"<figure><figcaption>{escape(method['label'])}, seed {first}</figcaption>{shown}</figure>")
    colours = {m["label"]: COLOURS[i % len(COLOURS)] for i, m in enumerate(facts["methods"])}
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(" against ".join(colours))}</title><style>{STYLE}</style></head><body>
<p class="soft">Maskery, a comparison</p>
<h1>{escape(" against ".join(colours))}</h1>
<p class="soft">{escape(facts["data"])}: {facts["images"]:,} training images, {facts["held_out"]:,} held out.
Budget of a run: {escape(budget)}. Seeds: {", ".join(map(str, facts["seeds"]))}.</p>
{state}
<div class="verdict">{"".join(f"<p>{escape(sentence)}</p>" for sentence in facts["reading"])}</div>
<div class="wide">{_table(facts["table"], colours)}</div>
<p class="soft">{escape(facts["protocol"])}</p>
{_differences(facts["table"], facts["start"], colours)}
{f'<h2>While the runs went on</h2><div class="wide">{plot}</div>' if plot else ""}
<p class="soft">{escape(facts["picture"])}</p>
{f'<h2>Held-out images at the end</h2><div class="strips">{"".join(strips)}</div>' if strips else ""}
<h2>Settings</h2>
{"".join(_settings(m["label"] + " = " + m["method"], m["settings"]) for m in facts["methods"])}
{_settings("the same for all", facts["run"])}
<p class="soft">{escape(facts["made"])}, {escape(facts["device"])}.
<code>{escape(" ".join(facts["command"]))}</code></p>
</body></html>
"""


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


def _table(table: list[Mapping[str, Any]], colours: Mapping[str, str]) -> str:
    measures = [name for name in MEASURES if any(name in row for row in table)]
    best = {name: max(row[name]["mean"] for row in table if name in row) for name in measures}
    heads = ["epochs", "training time", "images/s", *(HEAD[name] for name in measures)]
    body = ""
    for row in table:
        cells = "".join(f"<td>{cell(row, name)}</td>" for name in ("epochs", "training_seconds", "images_per_second"))
        for name in measures:
            bold = ' class="best"' if name in row and row[name]["mean"] == best[name] else ""
            cells += f"<td{bold}>{cell(row, name)}</td>"
        kind = "" if row["label"] in colours else ' class="start"'
        body += f"<tr{kind}>{_name(row['label'], colours)}{cells}</tr>"
    return f"<table><tr><th></th>{''.join(f'<th>{h}</th>' for h in heads)}</tr>{body}</table>"


def _differences(table: list[Mapping[str, Any]], start: str, colours: Mapping[str, str]) -> str:
    first = next(iter(colours))
    said = ""
    for key, other in (("above_start", start), ("above_first", first)):
        some = [row for row in table if row.get(key)]
        measures = [name for name in MEASURES if any(name in row[key] for row in some)]
        if some:
            body = "".join(
                f"<tr>{_name(row['label'], colours)}"
                + "".join(f"<td>{points(row[key].get(name))}</td>" for name in measures)
                + "</tr>"
                for row in some
            )
            heads = "".join(f"<th>{HEAD[name]}</th>" for name in measures)
            said += f"<h2>Points above {escape(other)}, seed by seed</h2>"
            said += f'<div class="wide"><table><tr><th></th>{heads}</tr>{body}</table></div>'
    return said


def _name(label: str, colours: Mapping[str, str]) -> str:
    swatch = f'<span class="swatch" style="background:{colours[label]}"></span>' if label in colours else ""
    return f"<td>{swatch}{escape(label)}</td>"


def _settings(title: str, leaves: Mapping[str, Any]) -> str:
    body = "".join(f"<tr><td>{escape(name)}</td><td>{escape(str(value))}</td></tr>" for name, value in leaves.items())
    return f'<details><summary>{escape(title)}</summary><table class="settings">{body}</table></details>'


def _image(path: Path, what: str) -> str:
    if not path.exists():
        return ""
    return f'<img alt="{escape(what)}" src="data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}">'

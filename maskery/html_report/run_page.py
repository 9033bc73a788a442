"""report.html of a run, with tables of its evaluations: whether pretraining helped."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..config import leaves
from ..evals.comparison import compare_results
from ..evals.results import Result, read_files
from ..evals.seed_statistics import percent, points
from ..health.checks import RunRecord, Verdict, verdicts
from ..html.page import picture, render
from ..objectives import OBJECTIVES
from ..runs.directory import RunDirectory
from ..text import duration, plain
from . import diagnostics
from .gallery import COLUMNS, Gallery

STRIPS = 9  # through time, evenly spread; the first and the last are always among them
TITLES = {
    "knn": "Nearest neighbours",
    "quick_probe": "Quick linear probe",
    "probe": "Linear probe",
    "finetune": "Fine-tuning",
    "segment": "Segmentation",
    "detect": "Detection",
    "robustness": "Robustness",
}


@dataclass(frozen=True)
class Table:
    title: str
    note: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    reading: tuple[str, ...] = ()


def run_page(run: RunDirectory, gallery: Gallery | None, missing: Sequence[str] = (), version: str = "") -> str:
    """Render the page; `gallery` needs images and a checkpoint, `missing` says why parts of it do not exist.

    `version` is what a page served live is asked for; "" for a file.
    """
    metrics, method = run.metrics, str(run.config_values.get("method", "?"))
    record = RunRecord(metrics, run.config_values, run.baselines)
    health = () if method in OBJECTIVES and OBJECTIVES[method].labelled else verdicts(record)
    main = record.baseline_losses[0]
    results, unreadable = read_files(run.evaluations)
    own = (compare_table(run.comparison), before_and_after_table(run.before_after))
    evaluations = [*tables(results), *(table for table in own if table)]
    skipped, skipped_count = run.skipped
    return render(
        "run.html",
        version=version,
        title=f"{run.path.name}: a run of {method}",
        name=plain(run.path.resolve().name),
        method=method,
        data=plain(str(run.config_values.get("data", "unknown"))),
        status=status(run),
        summary=summary(run, health, evaluations),
        tiles=tiles(run, main),
        verdicts=sorted(health, key=lambda v: ("act", "watch", "good").index(v.level)),
        missing=[plain(words) for words in (*run.missing(), *unreadable.values(), *missing)],
        loss=diagnostics.loss_chart(record),
        feature_charts=diagnostics.feature_charts(metrics),
        training_charts=diagnostics.training_charts(metrics),
        method_charts=diagnostics.method_charts(metrics, main),
        strips=strips(run),
        gallery=gallery,
        columns=COLUMNS,
        sheet_rows=-(-len(gallery.dots) // COLUMNS) if gallery else 0,
        evaluations=evaluations,
        made=time.strftime("%Y-%m-%d %H:%M"),
        config=leaf_texts(run.config_values),
        environment=leaf_texts(run.environment),
        skipped=[(plain(name), plain(reason)) for name, reason in skipped],
        skipped_count=skipped_count,
    )


def status(run: RunDirectory) -> str:
    """How far the run is."""
    last, steps = run.metrics.last, run.metrics.steps
    if not last:
        return "Nothing has been logged yet."
    done = f"step {last['step']:,} of {steps:,}, epoch {last.get('epoch', 0):.1f}"
    return f"Finished: {done}." if last["step"] >= steps else f"At {done}."


def summary(run: RunDirectory, health: Sequence[Verdict], evaluations: Sequence[Table]) -> list[str]:
    """The whole page in a few sentences: health, what was learned, whether it helped."""
    words, by_name = [], {v.name: v for v in health}
    bad = {level: [v for v in health if v.level == level] for level in ("act", "watch")}
    if bad["act"]:
        words.append(f"Something is wrong: {bad['act'][0].sentence}")
    elif bad["watch"]:
        words.append(f"Nothing is broken; worth a look: {' and '.join(v.name for v in bad['watch'])}.")
    elif health:
        words.append("The run is healthy.")
    if "expected loss" in by_name and not bad["act"]:
        words.append(by_name["expected loss"].sentence)
    if "neighbours" in by_name and by_name["neighbours"] not in bad["act"]:
        words.append(by_name["neighbours"].sentence)
    if verdict := next((t.reading[0] for t in evaluations if t.reading), None):
        words.append(verdict[0].upper() + verdict[1:])
    elif run.metrics.lines:
        words.append("Whether it helps a task of yours, only an evaluation says: maskery eval probe RUN --data DIR.")
    return words


def tiles(run: RunDirectory, main: str) -> list[tuple[str, str, str]]:
    """The most important numbers: (name, value, comment); `main` is the loss that trivial baselines exist for."""
    looks, last, made = run.metrics.looks, run.metrics.last, []
    if len(looks) > 1:
        first, newest = looks[0], looks[-1]
        rows = [
            (f"held_out_{main}" if f"held_out_{main}" in newest else "held_out_loss", "held-out loss", ".3f"),
            ("knn_mean_patch", "kNN, mean patch", ".1%"),
            ("knn_class_token", "kNN, class token", ".1%"),
            ("effective_rank", "directions used", ".1f"),
        ]
        both = [row for row in rows if row[0] in first and row[0] in newest]
        made += [(name, f"{newest[key]:{form}}", f"from {first[key]:{form}}") for key, name, form in both]
    if last:
        batch = run.config_values.get("batch_size", 0)
        seconds = run.metrics.training_seconds(batch) or 0.0
        made.append(("images seen", f"{last['step'] * batch:,}", f"{last.get('epoch', 0):.1f} epochs"))
        made.append(("training time", duration(seconds), f"{last.get('images_per_second', 0):,.0f} images/s"))
    return made


def strips(run: RunDirectory) -> list[tuple[str, str]]:
    """(step and epoch, data URI) of strips evenly spread over the run."""
    files, most = run.strips, min(STRIPS, len(run.strips))
    chosen = [files[round(i * (len(files) - 1) / max(most - 1, 1))] for i in range(most)]
    epochs = {look["step"]: look.get("epoch") for look in run.metrics.looks}
    made = []
    for file in chosen:
        digits = file.stem.removeprefix("step-")
        step = int(digits) if digits.isdigit() else 0
        when = f"step {step:,}" + (f", epoch {epochs[step]:.1f}" if epochs.get(step) is not None else "")
        if uri := picture(file):
            made.append((when, uri))
    return made


def leaf_texts(tree: Mapping[str, Any]) -> list[tuple[str, str]]:
    """{"optim": {"betas": (0.9, 0.95)}} -> [("optim.betas", "0.9 0.95")]."""
    rows = ((name, value if isinstance(value, list | tuple) else [value]) for name, value in leaves(tree).items())
    return [(plain(name), plain(" ".join(map(str, values)))) for name, values in rows]


# --- tables of evaluations --------------------------------------------------------------------------------------------


def tables(results: Sequence[Result]) -> list[Table]:
    """Make one table for every evaluation, protocol and data; of the same weights and seed the newest result counts."""
    groups: dict[tuple[str, str, str], dict[tuple[str, str], Result]] = {}
    for result in results:
        key = (result.evaluation, result.protocol, result.fingerprint)
        groups.setdefault(key, {})[result.of, str(sorted(result.seeds()))] = result
    made = [_table([*group.values()]) for group in groups.values()]
    return sorted(made, key=lambda table: not table.reading)  # those that say whether it helped come first


def before_and_after_table(facts: Mapping[str, Any]) -> Table | None:
    """Compare the run's first and last periodic evaluation."""
    rows = [
        (_words(name), f"{v['before']:.4g}", f"{v['after']:.4g}")
        for name, v in facts.items()
        if isinstance(v, Mapping) and {"before", "after"} <= v.keys()
    ]
    note = f"Measured by the run itself, before the first step and after step {facts.get('step', '?')}."
    return Table("First and last evaluation", note, ("", "before", "after"), tuple(sorted(rows))) if rows else None


def compare_table(facts: Mapping[str, Any]) -> Table | None:
    """Show what `maskery compare` measured of the run."""
    names = [name for name in facts if name.startswith(("knn_", "linear_")) and isinstance(facts[name], float)]
    rows = tuple((_words(name), f"{100 * facts[name]:.1f} %") for name in names)
    return Table("As measured by maskery compare", "", ("", "the run's end"), rows) if rows else None


def _table(results: list[Result]) -> Table:
    first = results[0]
    title = TITLES.get(first.evaluation, first.evaluation)
    try:
        comparison = compare_results(results)
    except ValueError as e:
        rows = tuple((result.of, *(f"{value:.4g}" for value in result.numbers.values())) for result in results)
        return Table(title, f"{first.protocol}. {e}", ("", *map(_words, first.numbers)), rows)
    rows, baselines = comparison.rows, comparison.baselines
    heads = ("", *(row.label for row in rows), *(f"above {baseline}" for baseline in baselines))
    cells = []
    for name in comparison.names:
        above = [next((points(row.above[b].get(name)) for row in rows[::-1] if b in row.above), "-") for b in baselines]
        cells.append((_words(name), *(percent(row.numbers.get(name)) for row in rows), *above))
    return Table(title, f"{first.protocol}.", heads, tuple(cells), comparison.reading)


def _words(name: str) -> str:
    return name.replace("_", " ")

"""report.html of a run, with charts of its metrics, and tables of its evaluations: whether pretraining helped."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..config import leaves
from ..evals.comparison import compare_results
from ..evals.results import Result, read_files
from ..evals.seed_statistics import percent, points
from ..health.checks import RunRecord, Verdict, verdicts
from ..html.charts import LINEAR, Chart, Curve, Scale, chart
from ..html.page import picture, render
from ..objectives import OBJECTIVES
from ..runs.directory import RunDirectory
from ..runs.metrics import Metrics
from ..text import duration, plain
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
        loss=loss_chart(record),
        feature_charts=feature_charts(metrics),
        training_charts=training_charts(metrics),
        method_charts=method_charts(metrics, main),
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


# --- charts -----------------------------------------------------------------------------------------------------------

LOOP = ("step", "epoch", "t", "loss", "lr", "grad_norm", "images_per_second", "data_wait", "memory", "gpu_use")

MEANING = {
    "reconstruction": ("Reconstruction", "how far predicted pixels are from the true ones: MAE's loss"),
    "consistency": ("Consistency", "how far the student's predictions are from its teacher's"),
    "teacher_distance": ("Distance to the teacher", "the same as a share of how large predictions are"),
    "homologous": ("Homologous contrast", "how badly patches tell their own image from the others they are mixed with"),
    "homologous_share": ("Own patches attended to", "share of the keys a patch chooses that are of its own image"),
    "alignment": ("Alignment", "2 - 2 cos between the student's features and the teacher's of the strong view"),
    "target_spread": ("Spread of the teacher's targets", "0: all targets are one, the teacher has collapsed"),
    "loss_teacher": ("Distance to the frozen teacher", "2 - 2 cos of features: 0 equal, 2 unrelated"),
    "loss_student": ("Distance to the momentum student", "2 - 2 cos of features: 0 equal, 2 unrelated"),
    "entropy_teacher": ("Evenness of the teacher's attention", "1: every patch alike, masks are random; 0: one patch"),
    "entropy_student": ("Evenness of the student's attention", "1: every patch alike, masks are random; 0: one patch"),
    "agreement": ("Agreement of both attentions", "1: teacher and student look at the same patches"),
    "alpha": ("The teacher's share", "of masks and loss: alpha"),
}
ACCURACIES = {
    "knn_mean_patch": "mean of the patch tokens",
    "knn_class_token": "class token",
    "top1": "top-1",
    "map": "mean average precision",
    "miou": "mean IoU",
}
ZERO, FRACTION = Scale(zero=True), Scale(percent=True, zero=True)


def training_curve(metrics: Metrics, name: str, label: str = "training") -> list[Curve]:
    """A metric of the log lines, with a band where a bucket holds several lines."""
    if name not in metrics.columns:
        return []
    c = metrics.columns[name]
    has_band = metrics.lines > metrics.buckets
    return [Curve(label, metrics["step"], c.mean, c.low if has_band else None, c.high if has_band else None)]


def evaluation_curve(metrics: Metrics, name: str, label: str = "held out") -> list[Curve]:
    """A metric of the periodic evaluations."""
    rows = [(row["step"], row[name]) for row in metrics.looks if isinstance(row.get(name), int | float)]
    return [Curve(label, *np.array(rows, float).T, dots=len(rows) <= 60)] if len(rows) > 1 else []


def loss_chart(record: RunRecord) -> Chart | None:
    """The loss that trivial baselines exist for, in training and held out, with the baselines as dotted lines."""
    metrics, (name, values) = record.metrics, record.baseline_losses
    name = name if name in metrics.columns else "loss"
    title = "Loss" if name == "loss" else MEANING.get(name, (name,))[0]
    note = "Training images under new crops and masks every time, and held-out images under always the same masks."
    note += " Dotted: what simple guesses would give on these very images." if values else ""
    curves = [*training_curve(metrics, name), *evaluation_curve(metrics, f"held_out_{name}")]
    guides = [(f"guess: {words}, {value:.2f}", value) for words, value in values.items()]
    return chart(title, curves, Scale(settle=0.04), note=note, guides=guides)


def feature_charts(metrics: Metrics) -> list[Chart]:
    """Whether features become better: kNN accuracy where there are labels, effective rank and spread."""
    accuracies = [c for name, label in ACCURACIES.items() for c in evaluation_curve(metrics, name, label)]
    rank = evaluation_curve(metrics, "effective_rank", "effective rank")
    spread = evaluation_curve(metrics, "feature_spread", "spread")
    votes = "20 nearest neighbours among training images vote, without any training."
    collapse = "Effective rank of held-out features: a fall to 1 is collapse."
    alike = "Spread of held-out features: 0 says that all images look alike to the network."
    return _charts(
        ("Accuracy on held-out images", accuracies, FRACTION, votes),
        ("Directions that features use", rank, ZERO, collapse),
        ("How much images differ", spread, ZERO, alike),
    )


def training_charts(metrics: Metrics) -> list[Chart]:
    """Learning rate, gradient norm, speed and memory."""
    rows = (
        ("Learning rate", "lr", "learning rate", ZERO, ""),
        ("Gradient norm", "grad_norm", "norm", Scale(log=True), "On a logarithmic scale."),
        ("Images per second", "images_per_second", "images/s", ZERO, ""),
        ("Waiting for images", "data_wait", "fraction of the time", FRACTION, ""),
        ("GPU in use", "gpu_use", "fraction of the time", FRACTION, ""),
        ("Memory", "memory", "GB", ZERO, "The most this process has used, in GB."),
    )
    charts = ((title, training_curve(metrics, name, label), scale, note) for title, name, label, scale, note in rows)
    return _charts(*charts)


def method_charts(metrics: Metrics, shown: str) -> list[Chart]:
    """A chart for every metric that the method itself logs, except for the one already shown."""
    names = [name for name in metrics.columns if name not in (*LOOP, shown)]
    rows = []
    for name in [*(n for n in MEANING if n in names), *sorted(n for n in names if n not in MEANING)]:
        title, note = MEANING.get(name, (name.replace("_", " "), ""))
        curves = [*training_curve(metrics, name), *evaluation_curve(metrics, f"held_out_{name}")]
        rows.append((title, curves, LINEAR, note))
    return _charts(*rows)


def _charts(*rows: tuple[str, list[Curve], Scale, str]) -> list[Chart]:
    """Those charts of (title, curves, scale, note) that there are numbers for."""
    made = (chart(title, curves, scale, note=note) for title, curves, scale, note in rows)
    return [one for one in made if one]


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

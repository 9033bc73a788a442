"""report.html of a run."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from ..config import leaves
from ..evals.results import read_files
from ..health.checks import RunRecord, Verdict, verdicts
from ..html.page import picture, render
from ..objectives import OBJECTIVES
from ..runs.directory import RunDirectory
from ..text import duration, plain
from . import comparisons, diagnostics
from .gallery import COLUMNS, Gallery

STRIPS = 9  # through time, evenly spread; the first and the last are always among them


def run_page(run: RunDirectory, gallery: Gallery | None, missing: Sequence[str] = (), version: str = "") -> str:
    """Render the page; `gallery` needs images and a checkpoint, `missing` says why parts of it do not exist.

    `version` is what a page served live is asked for; "" for a file.
    """
    metrics, method = run.metrics, method_of(run)
    health = run_verdicts(run)
    main = main_loss(run)
    results, unreadable = read_files(run.evaluations)
    own = (comparisons.compare_table(run.comparison), comparisons.before_and_after_table(run.before_after))
    evaluations = [*comparisons.tables(results), *(table for table in own if table)]
    shown = (main, "reconstruction" if main == "reconstruction" else "loss")
    return render(
        "run.html",
        version=version,
        title=f"{run.path.name}: a run of {method}",
        name=plain(run.path.resolve().name),
        method=method,
        data=plain(str(run.config_values.get("data", "unknown"))),
        status=status(run),
        live=bool(version),
        summary=summary(run, health, evaluations),
        tiles=tiles(run),
        verdicts=sorted(health, key=lambda v: ("act", "watch", "good").index(v.level)),
        missing=[plain(words) for words in (*run.missing(), *unreadable.values(), *missing)],
        loss=diagnostics.loss_chart(metrics, run.baselines),
        feature_charts=diagnostics.feature_charts(metrics),
        training_charts=diagnostics.training_charts(metrics),
        method_charts=diagnostics.method_charts(metrics, shown),
        strips=strips(run),
        gallery=gallery,
        columns=COLUMNS,
        sheet_rows=-(-len(gallery.dots) // COLUMNS) if gallery else 0,
        evaluations=evaluations,
        made=time.strftime("%Y-%m-%d %H:%M"),
        **details(run),
    )


def method_of(run: RunDirectory) -> str:
    return str(run.config_values.get("method", "?"))


def main_loss(run: RunDirectory) -> str:
    """The loss that trivial baselines exist for."""
    return next(iter(run.baselines.get("guesses", {})), "loss")


def run_verdicts(run: RunDirectory) -> Sequence[Verdict]:
    """The health of a run; nothing for objectives that learn from labels."""
    method = method_of(run)
    if method in OBJECTIVES and OBJECTIVES[method].labelled:
        return ()
    return verdicts(RunRecord(run.metrics, run.config_values, run.baselines))


def details(run: RunDirectory) -> dict[str, Any]:
    """Configuration, environment and unreadable files, for the end of the page."""
    return {
        "config": leaf_texts(run.config_values),
        "environment": leaf_texts(run.environment),
        "skipped": [(plain(n), plain(r)) for n, r in run.skipped[0]],
        "skipped_count": run.skipped[1],
    }


def status(run: RunDirectory) -> str:
    """How far the run is."""
    last, steps = run.metrics.last, run.metrics.steps
    if not last:
        return "Nothing has been logged yet."
    done = f"step {last['step']:,} of {steps:,}, epoch {last.get('epoch', 0):.1f}"
    return f"Finished: {done}." if last["step"] >= steps else f"At {done}."


def summary(run: RunDirectory, health: Sequence[Verdict], evaluations: Sequence[comparisons.Table]) -> list[str]:
    """The whole page in a few sentences: health, what was learned, whether it helped."""
    words = []
    bad = {level: [v for v in health if v.level == level] for level in ("act", "watch")}
    if bad["act"]:
        words.append(f"Something is wrong: {bad['act'][0].sentence}")
    elif bad["watch"]:
        names = " and ".join(v.name for v in bad["watch"])
        words.append(f"Nothing is broken; worth a look: {names}.")
    elif health:
        words.append("The run is healthy.")
    by_name = {v.name: v for v in health}
    if "expected loss" in by_name and not bad["act"]:
        words.append(by_name["expected loss"].sentence)
    if "neighbours" in by_name and by_name["neighbours"] not in bad["act"]:
        words.append(by_name["neighbours"].sentence)
    verdict = next((t.reading[0] for t in evaluations if t.reading), None)
    if verdict:
        words.append(verdict[0].upper() + verdict[1:])
    elif run.metrics.lines:
        words.append("Whether it helps a task of yours, only an evaluation says: maskery eval probe RUN --data DIR.")
    return words


def tiles(run: RunDirectory) -> list[tuple[str, str, str]]:
    """The most important numbers: (name, value, comment)."""
    looks, last, made = run.metrics.looks, run.metrics.last, []
    if len(looks) > 1:
        first, newest = looks[0], looks[-1]
        key = f"held_out_{main_loss(run)}"
        key = key if key in newest else "held_out_loss"
        rows = [
            (key, "held-out loss", ".3f"),
            ("knn_mean_patch", "kNN, mean patch", ".1%"),
            ("knn_class_token", "kNN, class token", ".1%"),
            ("effective_rank", "directions used", ".1f"),
        ]
        made += [
            (name, f"{newest[k]:{f}}", f"from {first[k]:{f}}") for k, name, f in rows if k in first and k in newest
        ]
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
        uri = picture(file)
        if uri:
            made.append((when, uri))
    return made


def leaf_texts(tree: Mapping[str, Any]) -> list[tuple[str, str]]:
    """{"optim": {"betas": (0.9, 0.95)}} -> [("optim.betas", "0.9 0.95")]."""
    words = {
        name: map(str, value if isinstance(value, list | tuple) else [value]) for name, value in leaves(tree).items()
    }
    return [(plain(name), plain(" ".join(texts))) for name, texts in words.items()]

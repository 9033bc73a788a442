"""report.html of a run: what it says, and from what."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from ..config import leaves
from ..evals.results import read_files
from ..health.checks import Facts, Verdict, verdicts
from ..html.page import picture, render
from ..objectives import OBJECTIVES
from ..runs.directory import RunDirectory
from ..text import duration, plain
from . import comparisons, diagnostics
from .gallery import COLUMNS, Gallery

STRIPS = 9  # through time, evenly spread; the first and the last are always among them


def run_page(found: RunDirectory, seen: Gallery | None, missing: Sequence[str] = (), version: str = "") -> str:
    """The page; `seen` is what needed images and a checkpoint, `missing` why something of that is not there.

    `version` is what a page served live is asked for; "" for a file.
    """
    metrics, method = found.metrics, str(found.config_values.get("method", "?"))
    labelled = method in OBJECTIVES and OBJECTIVES[method].labelled
    said = () if labelled else verdicts(Facts(metrics, found.config_values, found.baselines))
    order = {"act": 0, "watch": 1, "good": 2}
    loss = diagnostics.losses(metrics, found.baselines)
    main = next(iter(found.baselines.get("guesses", {})), "loss")
    results, unreadable = read_files(found.evaluations)
    own = (comparisons.compare_table(found.comparison), comparisons.before_and_after_table(found.before_after))
    evaluations = [*comparisons.tables(results), *(table for table in own if table)]
    return render(
        "run.html",
        version=version,
        title=f"{found.path.name}: a run of {method}",
        name=plain(found.path.resolve().name),
        method=method,
        data=plain(str(found.config_values.get("data", "unknown"))),
        status=status(found),
        live=bool(version),
        summary=summary(found, said, evaluations),
        tiles=tiles(found),
        verdicts=sorted(said, key=lambda v: order[v.level]),
        missing=[plain(words) for words in (*found.missing(), *unreadable.values(), *missing)],
        loss=loss,
        learning=diagnostics.learning(metrics),
        running=diagnostics.running(metrics),
        of_method=diagnostics.of_method(metrics, (main, "reconstruction" if main == "reconstruction" else "loss")),
        strips=strips(found),
        seen=seen,
        columns=COLUMNS,
        sheet_rows=-(-len(seen.dots) // COLUMNS) if seen else 0,
        evaluations=evaluations,
        config=leaf_texts(found.config_values),
        environment=leaf_texts(found.environment),
        skipped=[(plain(n), plain(r)) for n, r in found.skipped[0]],
        skipped_count=found.skipped[1],
        made=time.strftime("%Y-%m-%d %H:%M"),
    )


def status(found: RunDirectory) -> str:
    """How far the run is."""
    last, steps = found.metrics.last, found.metrics.steps
    if not last:
        return "Nothing has been logged yet."
    done = f"step {last['step']:,} of {steps:,}, epoch {last.get('epoch', 0):.1f}"
    return f"Finished: {done}." if last["step"] >= steps else f"At {done}."


def summary(found: RunDirectory, said: Sequence[Verdict], evaluations: Sequence[comparisons.Table]) -> list[str]:
    """The whole page in a few sentences: health, what was learned, whether it helped."""
    words = []
    bad = {level: [v for v in said if v.level == level] for level in ("act", "watch")}
    if bad["act"]:
        words.append(f"Something is wrong: {bad['act'][0].sentence}")
    elif bad["watch"]:
        names = " and ".join(v.name for v in bad["watch"])
        words.append(f"Nothing is broken; worth a look: {names}.")
    elif said:
        words.append("The run is healthy.")
    by_name = {v.name: v for v in said}
    if "expected loss" in by_name and not bad["act"]:
        words.append(by_name["expected loss"].sentence)
    if "neighbours" in by_name and by_name["neighbours"] not in bad["act"]:
        words.append(by_name["neighbours"].sentence)
    verdict = next((t.reading[0] for t in evaluations if t.reading), None)
    if verdict:
        words.append(verdict[0].upper() + verdict[1:])
    elif found.metrics.lines:
        words.append("Whether it helps a task of yours, only an evaluation says: maskery eval probe RUN --data DIR.")
    return words


def tiles(found: RunDirectory) -> list[tuple[str, str, str]]:
    """(what, number, beside it)."""
    looks, last, made = found.metrics.looks, found.metrics.last, []
    if len(looks) > 1:
        name = next(iter(found.baselines.get("guesses", {})), "loss")
        key = f"held_out_{name}" if f"held_out_{name}" in looks[-1] else "held_out_loss"
        if key in looks[0] and key in looks[-1]:
            made.append(("held-out loss", f"{looks[-1][key]:.3f}", f"from {looks[0][key]:.3f}"))
        for key, words in (("knn_mean_patch", "kNN, mean patch"), ("knn_class_token", "kNN, class token")):
            if key in looks[0] and key in looks[-1]:
                made.append((words, f"{looks[-1][key]:.1%}", f"from {looks[0][key]:.1%}"))
        if "effective_rank" in looks[-1]:
            made.append(
                (
                    "directions used",
                    f"{looks[-1]['effective_rank']:.1f}",
                    f"from {looks[0].get('effective_rank', 0):.1f}",
                )
            )
    if last:
        batch = found.config_values.get("batch_size", 0)
        seconds = found.metrics.training_seconds(batch) or 0.0
        made.append(("images seen", f"{last['step'] * batch:,}", f"{last.get('epoch', 0):.1f} epochs"))
        made.append(("training time", duration(seconds), f"{last.get('images_per_second', 0):,.0f} images/s"))
    return made


def strips(found: RunDirectory) -> list[tuple[str, str]]:
    """(when, data URI), through time."""
    files, most = found.strips, min(STRIPS, len(found.strips))
    chosen = [files[round(i * (len(files) - 1) / max(most - 1, 1))] for i in range(most)]
    epochs = {look["step"]: look.get("epoch") for look in found.metrics.looks}
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

"""What a model card says of the run that its weights are from: data, training, numbers."""

import sys
from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from pathlib import PurePath
from typing import Any

from ..evals.results import Result
from ..objectives import OBJECTIVES
from ..runs.facts import Past
from ..text import duration
from .markdown import code, plain, table

WORDS = {"knn_mean_patch": "kNN, mean patch token", "knn_class_token": "kNN, class token"}


def of_run(past: Past, best: int | None = None) -> list[str]:
    """Its parts; `best`: the step whose weights they are, where those were chosen."""
    return [
        "## Data\n\n" + _data(past),
        "## Training\n\n" + _training(past, best),
        "## Numbers\n\n" + _measured(past),
    ]


def _data(past: Past) -> str:
    images, run = past.run.images, past.run
    count = f"{past.trained_on} for training" if past.trained_on else "the number of images is not recorded"
    read = [f"{images.channels} channels" if images.channels else "", f"{images.bits} bits" if images.bits else ""]
    return (
        f"{code(PurePath(run.data).name)}: {count}, read as {', '.join(filter(None, read)) or 'found'}. Held out: the "
        f"data's own split where it has one, else {images.holdout:.0%} by a hash of the name."
        + (" Its labels were used." if OBJECTIVES[run.method].labelled else " Labels were not used for training.")
    )


def _training(past: Past, best: int | None) -> str:
    run, where = past.run, past.environment
    last = max((line["step"] for line in past.lines if "loss" in line), default=None)
    epochs = next((line["epoch"] for line in reversed(past.lines) if "epoch" in line), None)
    seconds = past.seconds
    device = where.get("device")
    rows = {
        "method": plain(method_of(past)),
        "settings": "; ".join(f"{name} {value}" for name, value in _leaves(run.settings)),
        "steps": f"{past.step or last or 'not recorded'}" + (f", {epochs:g} epochs" if epochs is not None else ""),
        "batch": f"{run.batch_size}; lr {run.lr:g} (base {run.optim.base_lr:g} x batch / 256), "
        f"weight decay {run.optim.weight_decay:g}, crops {run.crop.scale[0]:g} to {run.crop.scale[1]:g} of the area",
        **({"weights": f"of step {best}, the best by {run.watch.best}"} if best is not None else {}),
        "started from": code(PurePath(run.init).name) if run.init else "random weights",
        "device": f"{where.get('processes', 1)} x {device}, {run.precision}" if device else "not recorded",
        "time": f"about {duration(seconds)} of steps" if seconds else "not recorded",
        "seed": str(run.seed),
    }
    return table(("", ""), rows.items())


def _measured(past: Past) -> str:
    parts = []
    if len(past.looks) >= 2 and past.looks[0]["step"] == 0:
        first, last = past.looks[0], past.looks[-1]
        names = [n for n in first if n in last and n not in ("step", "epoch") and isinstance(first[n], int | float)]
        rows = [(WORDS.get(n, n.replace("_", " ")), f"{first[n]:.4g}", f"{last[n]:.4g}") for n in names]
        told = f"On held-out images, before the first step and after step {last['step']}:"
        if "held_out_loss" in names and not OBJECTIVES[past.run.method].labelled:
            told = told[:-1] + " (the loss under the same masks; compare it with the same method's only):"
        parts.append(told + "\n\n" + table(("", "before", "after"), rows))
    else:
        parts.append("No numbers of this run are recorded from before and after its training.")
    if past.evaluations:
        rows = [(r.evaluation, r.of, _of_result(r), code(PurePath(r.data).name), r.protocol) for r in past.evaluations]
        rows = [tuple(cell if cell.startswith("`") else plain(cell) for cell in row) for row in rows]
        head = ("evaluation", "of", "numbers", "data", "protocol")
        parts.append("Evaluations (shares, not percent):\n\n" + table(head, rows))
    else:
        parts.append("It was not evaluated with `maskery eval`.")
    if past.odd:
        parts.append(f"Could not be read, and is missing here: {', '.join(map(code, past.odd))}.")
    return "\n\n".join(parts)


def _of_result(result: Result) -> str:
    seeds, images = len(result.seeds()), result.counts.get("held_out")
    return (
        ", ".join(f"{n} {x:.4g}" for n, x in result.numbers.items())
        + (f" (mean of {seeds} seeds)" if seeds > 1 else "")
        + (f" ({images:,} held-out images)" if images else "")
    )


def _leaves(settings: Any) -> Iterable[tuple[str, Any]]:
    for f in fields(settings):
        value = getattr(settings, f.name)
        if is_dataclass(value):
            yield from ((f"{f.name} {name}", leaf) for name, leaf in _leaves(value))
        elif f.name in ("teacher", "teacher_weights") and value:
            yield f.name, code(PurePath(value).name)
        elif f.name != "classes" and isinstance(value, bool | int | float | str):  # which have a place of their own
            yield f.name, value


def method_of(past: Past) -> str:
    """Its name and paper, as its own file says them."""
    doc = sys.modules[OBJECTIVES[past.run.method].__module__].__doc__ or past.run.method
    return doc.splitlines()[0].rstrip(".")

"""The model card: README.md of every exported directory. It says what is known, and of the rest that it is not."""

import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from pathlib import PurePath
from typing import Any

import yaml

from .. import __version__
from ..evals.results import Result
from ..log import duration
from ..nn.vit import SIZES, Size, ViTConfig
from ..objectives import OBJECTIVES
from .facts import Past, past_of
from .source import Exported, Source

WORDS = {"knn_mean_patch": "kNN, mean patch token", "knn_class_token": "kNN, class token"}


def card(source: Source, done: Exported) -> str:
    """The text of README.md. Names from outside cannot break out of it."""
    past = past_of(source.run) if source.run else None
    c = source.encoder.config
    tags = ["vision-transformer", "maskery", *(["masked-autoencoder", past.run.method] if past else [])]
    tags += ["onnx"] if done.to == "onnx" else []
    front = {"library_name": done.library, "pipeline_tag": "image-feature-extraction", "tags": tags}
    blocks = [
        f"---\n# license: apache-2.0   # yours to choose, see below\n{yaml.safe_dump(front, sort_keys=False)}---",
        f"# {_title(source, past)}",
        _about(c, done),
        f"## Load it\n\n```python\n{done.load}\n```",
        f"Checked when it was written: {done.compared}, to {done.difference:.1e} of the largest value.",
        *(_of_run(past) if past else [_of_weights(source)]),
        "## Limits\n\n" + _list([*done.limits, *_limits(past)]),
        "## Licence\n\nNone has been chosen: whoever owns the images and these weights writes it at the top.",
        f"Written by Maskery {__version__}.",
    ]
    return "\n\n".join(blocks).encode("utf-8", "backslashreplace").decode() + "\n"


def code(text: object) -> str:
    """Anything as code in a line of Markdown, also within a table."""
    plain = re.sub(r"[\x00-\x1f\x7f`]", "?", str(text)).replace("|", "\\|")
    return f"`{plain}`"


def _title(source: Source, past: Past | None) -> str:
    if past:
        return f"{_method(past).partition(':')[0]} on {code(PurePath(past.run.data).name)}"
    return f"A vision transformer from {code(PurePath(source.where).name or 'memory')}"


def _about(c: ViTConfig, done: Exported) -> str:
    size = Size(c.dim, c.depth, c.heads)
    name = next((name for name, known in SIZES.items() if known == size), "a vision transformer")
    return (
        f"{name}/{c.patch_size}: width {c.dim}, {c.depth} blocks, {c.heads} heads. Input: {c.channels} channels of "
        f"{c.image_size[0]} x {c.image_size[1]} pixels (height x width); it takes {done.sizes}. Values in [0, 1] are "
        f"normalised by mean {_numbers(c.mean)} and standard deviation {_numbers(c.std)}. Output: a class token and "
        f"{c.num_patches} patch tokens of width {c.dim}; it has no classifier."
    )


def _of_run(past: Past) -> list[str]:
    return [
        "## Data\n\n" + _data(past),
        "## Training\n\n" + _training(past),
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


def _training(past: Past) -> str:
    run, where = past.run, past.environment
    last = max((line["step"] for line in past.lines if "loss" in line), default=None)
    epochs = next((line["epoch"] for line in reversed(past.lines) if "epoch" in line), None)
    seconds = past.seconds
    device = where.get("device")
    rows = {
        "method": _plain(_method(past)),
        "settings": "; ".join(f"{name} {value}" for name, value in _leaves(run.settings)),
        "steps": f"{past.step or last or 'not recorded'}" + (f", {epochs:g} epochs" if epochs is not None else ""),
        "batch": f"{run.batch_size}; lr {run.lr:g} (base {run.optim.base_lr:g} x batch / 256), "
        f"weight decay {run.optim.weight_decay:g}, crops {run.crop.scale[0]:g} to {run.crop.scale[1]:g} of the area",
        "started from": code(PurePath(run.init).name) if run.init else "random weights",
        "device": f"{where.get('processes', 1)} x {device}, {run.precision}" if device else "not recorded",
        "time": f"about {duration(seconds)} of steps" if seconds else "not recorded",
        "seed": str(run.seed),
    }
    return _table(("", ""), rows.items())


def _measured(past: Past) -> str:
    parts = []
    if len(past.looks) >= 2 and past.looks[0]["step"] == 0:
        first, last = past.looks[0], past.looks[-1]
        names = [n for n in first if n in last and n not in ("step", "epoch") and isinstance(first[n], int | float)]
        rows = [(WORDS.get(n, n.replace("_", " ")), f"{first[n]:.4g}", f"{last[n]:.4g}") for n in names]
        told = f"On held-out images, before the first step and after step {last['step']}:"
        if "held_out_loss" in names:
            told = told[:-1] + " (the loss under the same masks; compare it with the same method's only):"
        parts.append(told + "\n\n" + _table(("", "before", "after"), rows))
    else:
        parts.append("No numbers of this run are recorded from before and after its training.")
    if past.evaluations:
        rows = [(r.evaluation, r.of, _of_result(r), code(PurePath(r.data).name), r.protocol) for r in past.evaluations]
        rows = [tuple(cell if cell.startswith("`") else _plain(cell) for cell in row) for row in rows]
        head = ("evaluation", "of", "numbers", "data", "protocol")
        parts.append("Evaluations (shares, not percent):\n\n" + _table(head, rows))
    else:
        parts.append("It was not evaluated with `maskery eval`.")
    if past.odd:
        parts.append(f"Could not be read, and is missing here: {', '.join(map(code, past.odd))}.")
    return "\n\n".join(parts)


def _of_result(result: Result) -> str:
    seeds = len(result.seeds())
    return ", ".join(f"{n} {x:.4g}" for n, x in result.numbers.items()) + (
        f" (mean of {seeds} seeds)" if seeds > 1 else ""
    )


def _of_weights(source: Source) -> str:
    name = code(PurePath(source.where).name or "memory")
    return (
        f"## Where it is from\n\n{name}, which is no run of Maskery: its data, training and numbers are not known "
        "here. See where the weights were published, and their licence."
    )


def _limits(past: Past | None) -> Iterable[str]:
    yield "Features are as good as the images were like yours; try them on a few labels before you rely on them"
    if past and not OBJECTIVES[past.run.method].labelled:
        yield "Learned without labels; what bias the images had, the features may have"


def _leaves(settings: Any) -> Iterable[tuple[str, Any]]:
    for f in fields(settings):
        value = getattr(settings, f.name)
        if is_dataclass(value):
            yield from ((f"{f.name} {name}", leaf) for name, leaf in _leaves(value))
        elif f.name in ("teacher", "teacher_weights") and value:
            yield f.name, code(PurePath(value).name)
        elif isinstance(value, bool | int | float | str):
            yield f.name, value


def _method(past: Past) -> str:
    """Its name and paper, as its own file says them."""
    doc = sys.modules[OBJECTIVES[past.run.method].__module__].__doc__ or past.run.method
    return doc.splitlines()[0].rstrip(".")


def _numbers(values: Iterable[float]) -> str:
    return ", ".join(f"{v:.4g}" for v in values)


def _plain(text: str) -> str:
    """Text without what Markdown or HTML would take for its own."""
    return re.sub(r"([\\`*_{}\[\]<>#|])", r"\\\1", " ".join(text.split()))


def _list(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}." for line in lines)


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]] | Mapping[str, str]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)

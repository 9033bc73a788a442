"""The model card, README.md of every exported directory: what is known, and what is not."""

import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path, PurePath
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from .. import __version__
from ..config import leaves
from ..data.crops import resize_size
from ..evals.results import Result, read_files
from ..nn.vit import SIZES, Size
from ..objectives import OBJECTIVES
from ..runs.directory import RunDirectory
from ..text import duration
from .model import ExportModel, ExportResult

NUMBERS = {"knn_mean_patch": "kNN, mean patch token", "knn_class_token": "kNN, class token"}


def card(model: ExportModel, result: ExportResult) -> str:
    """The text of README.md. Names from outside cannot break out of it."""
    c, classifier, run = model.encoder.config, model.classifier, model.run
    name = PurePath(run.run.data if run else model.where).name or "memory"
    method = _method(run) if run else ""
    fraction = classifier.crop_fraction if classifier else 1
    if classifier:
        title = f"A classifier of {len(classifier.classes)} classes: {code(name)}"
    else:
        title = f"{method.partition(':')[0]} on {code(name)}" if run else f"A vision transformer from {code(name)}"
    size = Size(c.dim, c.depth, c.heads)
    text = _template().render(
        front=yaml.safe_dump(_front(model, result), sort_keys=False),
        title=title,
        name=name,
        architecture=next((name for name, known in SIZES.items() if known == size), "a vision transformer"),
        c=c,
        result=result,
        classifier=classifier,
        pool=model.network.pool if model.network else None,
        covered=resize_size(c.image_size, fraction) if fraction < 1 else None,
        run=run and run.run,
        version=__version__,
        **(_of_run(run, method, classifier is not None) if run else {}),
    )
    return text.encode("utf-8", "backslashreplace").decode()


@cache
def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"code": code, "table": table, "numbers": lambda xs: ", ".join(f"{x:.4g}" for x in xs)}
    return environment.get_template("card.md.jinja")


def _front(model: ExportModel, result: ExportResult) -> dict[str, Any]:
    """The metadata that the Hugging Face hub reads."""
    kind = "image-classification" if model.classifier else "masked-autoencoder"
    tags = ["vision-transformer", "maskery"] + [kind] * bool(model.run or model.classifier)
    tags += [model.run.run.method] if model.run else []
    tags += ["onnx"] if result.to == "onnx" else []
    task = "image-classification" if model.classifier else "image-feature-extraction"
    return {"library_name": result.library, "pipeline_tag": task, "tags": tags}


def _of_run(directory: RunDirectory, method: str, is_classifier: bool) -> dict[str, Any]:
    """The parts of a card that a run has."""
    run, state = directory.run, directory.state(directory.newest)
    count, how = str(state.get("trained_on", "")).partition(",")[0], run.images
    read_as = [f"{how.channels} channels" if how.channels else "", f"{how.bits} bits" if how.bits else ""]
    files = sorted(directory.evaluations, key=lambda file: file.stat().st_mtime)
    results, unreadable = read_files(files)
    damaged = [*directory.damaged(), *["a line of metrics.jsonl"] * directory.metrics.damaged]
    return {
        "labelled": OBJECTIVES[run.method].labelled,
        "images": f"{count} for training" if count else "the number of images is not recorded",
        "read_as": ", ".join(filter(None, read_as)) or "found",
        "training": _training(directory, method, is_classifier),
        "before_after": _before_after(directory),
        "evaluations": [_evaluation(result) for result in results],
        "damaged": [*damaged, *(f"evals/{file.name}" for file in unreadable)],
    }


def _training(directory: RunDirectory, method: str, is_classifier: bool) -> list[tuple[str, str]]:
    run, metrics, environment = directory.run, directory.metrics, directory.environment
    steps = directory.state(directory.newest).get("step") or metrics.last.get("step") or "not recorded"
    lines = [line for line in (*metrics.looks, metrics.last) if "epoch" in line]
    epochs = f", {max(line['epoch'] for line in lines):g} epochs" if lines else ""
    seconds, device = metrics.training_seconds(run.batch_size), environment.get("device")
    rows = {
        "method": plain(method),
        "settings": _settings(run.settings),
        "steps": f"{steps}{epochs}",
        "batch": f"{run.batch_size}; lr {run.lr:g} (base {run.optim.base_lr:g} x batch / 256), "
        f"weight decay {run.optim.weight_decay:g}, crops {run.crop.scale[0]:g} to {run.crop.scale[1]:g} of the area",
        "weights": "",
        "started from": code(PurePath(run.init).name) if run.init else "random weights",
        "device": f"{environment.get('processes', 1)} x {device}, {run.precision}" if device else "not recorded",
        "time": f"about {duration(seconds)} of steps" if seconds else "not recorded",
        "seed": str(run.seed),
    }
    if is_classifier and not directory.checkpoint and directory.best:
        step = directory.state(directory.best).get("step")
        rows["weights"] = f"of step {step}, the best by {run.watch.best}"
    return [(name, value) for name, value in rows.items() if value or name != "weights"]


def _before_after(directory: RunDirectory) -> dict[str, Any] | None:
    """The numbers from before the first step and after the last."""
    looks = directory.metrics.looks
    if len(looks) < 2 or looks[0]["step"] != 0:
        return None
    first, last = looks[0], looks[-1]
    names = [n for n in first if n in last and n not in ("step", "epoch") and isinstance(first[n], int | float)]
    rows = [(NUMBERS.get(n, n.replace("_", " ")), f"{first[n]:.4g}", f"{last[n]:.4g}") for n in names]
    masked = "held_out_loss" in names and not OBJECTIVES[directory.run.method].labelled
    return {"step": last["step"], "rows": rows, "masked": masked}


def _evaluation(result: Result) -> tuple[str, ...]:
    seeds, images = len(result.seeds()), result.counts.get("held_out")
    numbers = ", ".join(f"{name} {value:.4g}" for name, value in result.numbers.items())
    numbers += f" (mean of {seeds} seeds)" if seeds > 1 else ""
    numbers += f" ({images:,} held-out images)" if images else ""
    data = code(PurePath(result.data).name)
    return plain(result.evaluation), plain(result.of), plain(numbers), data, plain(result.protocol)


def _settings(settings: Any) -> str:
    parts = []
    for name, value in leaves(asdict(settings)).items():
        last = name.rpartition(".")[2]
        if last in ("teacher", "teacher_weights") and value:
            value = code(PurePath(value).name)
        if last != "classes" and isinstance(value, bool | int | float | str):  # classes have their own section
            parts.append(f"{name.replace('.', ' ')} {value}")
    return "; ".join(parts)


def _method(directory: RunDirectory) -> str:
    """The method's name and paper, the first line of its module."""
    method = directory.run.method
    doc = sys.modules[OBJECTIVES[method].__module__].__doc__ or method
    return doc.splitlines()[0].rstrip(".")


def code(text: object) -> str:
    """Anything as code in a line of Markdown, also within a table."""
    printable = re.sub(r"[\x00-\x1f\x7f`]", "?", str(text)).replace("|", "\\|")
    return f"`{printable}`"


def plain(text: str) -> str:
    """Text without what Markdown or HTML would take for its own."""
    return re.sub(r"([\\`*_{}\[\]<>#|])", r"\\\1", " ".join(text.split()))


def table(rows: Iterable[Sequence[str]], head: Sequence[str]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)

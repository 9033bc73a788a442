"""What a classifier that a task has trained says about all held-out images: numbers, tables, pictures."""

import json
from pathlib import Path
from typing import Any

import torch

from ...config import Run
from ...data.dataset import ImageData
from ...evals.classify import headline, numbers
from ...evals.metrics import confusion, multilabel, per_class
from ...outputs import write_file
from ...pictures.confusion import confusion_picture, most_confused
from ...runs.directory import CHOSEN_HEAD
from ...terminal import Terminal
from ..found import Found, length_of, said_of_labels
from .finetune import FinetuneConfig
from .objective import ClassificationObjective, Judged, judged
from .probe import ProbeConfig


def classified(
    task: ClassificationObjective, run: Run, data: ImageData, evals: Path, precision: torch.dtype, workers: int
) -> Found:
    """Its answers; of several heads those of the best to choose by. Writes chosen.json and confusion.png."""
    several = task.labels.several
    head, tuned = 0, {}
    if len(task.suffixes) > 1 and len(data.validation):
        on = judged(task, data, data.validation, precision, workers)
        tuned = {s: numbers(x, on.truth)[headline(several)] for s, x in zip(task.suffixes, on.logits, strict=True)}
        head = max(range(len(task.suffixes)), key=lambda i: tuned[task.suffixes[i]])
    with Terminal().bar("held-out images") as tick:
        found = judged(task, data, data.held_out, precision, workers, tick)
    logits = found.logits[head]

    tables, notes = details(logits, found, data, evals)
    if len(task.suffixes) > 1:
        heads = {
            suffix.removeprefix("_lr_"): {"held_out": numbers(x, found.truth)[headline(several)]}
            | ({"tune": tuned[suffix]} if tuned else {})
            for suffix, x in zip(task.suffixes, found.logits, strict=True)
        }
        tables["learning rates"] = heads
        chosen = task.suffixes[head].removeprefix("_lr_")
        how = "best on images kept out of training" if tuned else "the first one; none were kept out to choose by"
        notes.append(f"of {len(heads)} learning rates, the one times {chosen} is reported: {how}")
        lrs = [float(name) for name in heads]
        if tuned and float(chosen) in (min(lrs), max(lrs)):
            notes.append("that is an end of the learning rates there were: --settings.lrs takes others")
    write_file(evals / CHOSEN_HEAD, json.dumps({"head": head}).encode())
    return Found(numbers(logits, found.truth), tables, notes, found.indices, found.skipped)


def details(logits: torch.Tensor, found: Judged, data: ImageData, evals: Path) -> tuple[dict[str, Any], list[str]]:
    """Tables of the single classes, and what should be known about them; draws evals/confusion.png."""
    if data.multi_hot is not None:
        _, each = multilabel(logits, found.truth)
        defined = [None if ap != ap else ap for ap in each]  # NaN: no image has that label
        return {"average precision": dict(zip(data.classes, defined, strict=True))}, []
    matrix = confusion(logits.argmax(1), found.truth, len(data.classes))
    why_not = confusion_picture(matrix, data.classes, evals / "confusion.png")
    tables = {"classes": per_class(matrix).rows(data.classes), "taken for": most_confused(matrix, data.classes)}
    return tables, [why_not] if why_not else []


def protocol(run: Run) -> str:
    """How the classifier was trained, in words, the same for all that may stand beside each other."""
    settings: Any = run.settings
    parts = length_of(run)
    if isinstance(settings, ProbeConfig):
        what = f"linear probe of the {settings.pooling.replace('_', ' ')}"
        if settings.pooling == "attentive":
            what = "attentive probe"
        if settings.layer or settings.blocks > 1:
            what += f" ({settings.blocks} blocks up to {settings.layer or 'the last'})"
        parts += [f"{len(settings.lrs)} learning rates"] if len(settings.lrs) > 1 else []
    else:
        assert isinstance(settings, FinetuneConfig)
        what = f"fine-tuning by the {settings.pooling.replace('_', ' ')}"
        parts += [f"layer decay {settings.layer_decay:g}", f"drop path {settings.drop_path:g}"]
        parts += [f"mixup {settings.mixup:g}, cutmix {settings.cutmix:g}", f"smoothing {settings.smoothing:g}"]
        parts += [settings.augment or "no RandAugment", f"erasing {settings.erasing:g}"]
        parts += [f"average of weights {settings.average:g}"] if settings.average else []
    parts += said_of_labels(run)
    cut = "" if settings.eval_share == 1 else f", {settings.eval_share:.1%} of the short side"
    return f"{what}: {', '.join(parts)}; measured on the centre crop{cut}"

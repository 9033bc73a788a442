"""Report of a classifier: numbers, tables of the classes, the learning rate that was chosen, the confusion matrix."""

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from ...config import Run
from ...data.dataset import ImageData
from ...evals.classify import headline, numbers
from ...evals.metrics import class_rows, confusion, multilabel, per_class
from ...outputs import write_file
from ...pictures.plots import confusion_picture, most_confused
from ...runs.directory import CHOSEN_HEAD
from ...terminal import Terminal
from ..outcome import Outcome, training_protocol
from .finetune import FinetuneConfig
from .objective import ClassificationObjective
from .probe import ProbeConfig


def measure_classifier(task: ClassificationObjective, data: ImageData, directory: Path, **options: Any) -> Outcome:
    """Measure the head that is best on validation images. Writes chosen.json and confusion.png."""
    name, head, validation = headline(task.labels.several), 0, []
    if len(task.suffixes) > 1 and len(data.validation):
        validation = task.predict(data, data.validation, **options).scores(name)
        head = validation.index(max(validation))
    with Terminal().bar("held-out images") as tick:
        predictions = task.predict(data, data.held_out, progress=tick, **options)
    logits, truth = predictions.logits[head], predictions.truth
    tables, notes = class_tables(logits, truth, data, directory)
    if len(task.suffixes) > 1:
        rates = [suffix.removeprefix("_lr_") for suffix in task.suffixes]
        tables["learning rates"] = {
            rate: {"held_out": value} | ({"tune": validation[i]} if validation else {})
            for i, (rate, value) in enumerate(zip(rates, predictions.scores(name), strict=True))
        }
        how = "best on images kept out of training" if validation else "the first one; none were kept out to choose by"
        notes.append(f"of {len(rates)} learning rates, the one times {rates[head]} is reported: {how}")
        if validation and rates[head] in (min(rates, key=float), max(rates, key=float)):
            notes.append("that is an end of the learning rates there were: --settings.lrs takes others")
    write_file(directory / CHOSEN_HEAD, json.dumps({"head": head}).encode())
    return Outcome(numbers(logits, truth), predictions.indices, predictions.skipped, tables, notes)


def class_tables(logits: Tensor, truth: Tensor, data: ImageData, directory: Path) -> tuple[dict[str, Any], list[str]]:
    """Tables of the single classes, and notes; draws confusion.png."""
    if data.multi_hot is not None:
        _, precisions = multilabel(logits, truth)
        defined = [None if ap != ap else ap for ap in precisions]  # NaN: no image has that label
        return {"average precision": dict(zip(data.classes, defined, strict=True))}, []
    matrix = confusion(logits.argmax(1), truth, len(data.classes))
    no_picture = confusion_picture(matrix, data.classes, directory / "confusion.png")
    tables = {"classes": class_rows(per_class(matrix), data.classes), "taken for": most_confused(matrix, data.classes)}
    return tables, [no_picture] if no_picture else []


def classification_protocol(run: Run) -> str:
    settings = run.settings
    if isinstance(settings, ProbeConfig):
        what = f"linear probe of the {settings.pooling.replace('_', ' ')}"
        if settings.pooling == "attentive":
            what = "attentive probe"
        if settings.layer or settings.blocks > 1:
            what += f" ({settings.blocks} blocks up to {settings.layer or 'the last'})"
        own = [f"{len(settings.lrs)} learning rates"] if len(settings.lrs) > 1 else []
    else:
        assert isinstance(settings, FinetuneConfig)
        what = f"fine-tuning by the {settings.pooling.replace('_', ' ')}"
        own = [f"mixup {settings.mixup:g}, cutmix {settings.cutmix:g}", f"smoothing {settings.smoothing:g}"]
        own += [settings.augment or "no RandAugment", f"erasing {settings.erasing:g}"]
        own += [f"average of weights {settings.average:g}"] if settings.average else []
    trained = training_protocol(run, own, isinstance(settings, FinetuneConfig))
    cut = "" if settings.eval_share == 1 else f", {settings.eval_share:.1%} of the short side"
    return f"{what}: {trained}; measured on the centre crop{cut}"

"""What a finished run of a task is worth: its answers on all held-out images, as a result and as pictures."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from .. import checkpoint
from ..config import Run
from ..data.dataset import Data, open_data
from ..evals.classify import headline, numbers
from ..evals.few import Few
from ..evals.metrics import confusion, multilabel, per_class
from ..evals.results import Result, fingerprint, write
from ..log import Quiet, Terminal
from ..report.confusion import confusion_picture, most_confused
from ..report.curves import learning_curves
from .classifier import Judged, judged
from .finetune import FinetuneConfig
from .probe import ProbeConfig
from .trained import CHOSEN, load_classifier

RESULT = "result.json"


def measure(where: Path, device: torch.device, of: str, weights: str) -> Result:
    """Measure the run of a task where it was best, and write its evals/: result.json, chosen.json, confusion.png."""
    trained = load_classifier(where)
    run, task = trained.run, trained.task.to(device)
    opened = open_data(run.data, replace(run.images, memory=0.0), run.size, Quiet())
    _, data = task.prepared(run.settings, opened)
    workers = data.workers()
    precision = torch.bfloat16 if run.precision == "bf16" else torch.float32
    several = task.labels.several

    head, tuned = 0, {}
    if len(task.suffixes) > 1 and len(data.tune):
        on = judged(task, data, data.tune, precision, workers)
        tuned = {s: numbers(x, on.truth)[headline(several)] for s, x in zip(task.suffixes, on.logits, strict=True)}
        head = max(range(len(task.suffixes)), key=lambda i: tuned[task.suffixes[i]])
    with Terminal().bar("held-out images") as tick:
        found = judged(task, data, data.held_out, precision, workers, tick)
    logits, evals = found.logits[head], where / "evals"
    evals.mkdir(exist_ok=True)

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
    if found.skipped:
        notes.append(f"{found.skipped} of {len(data.held_out)} held-out images could not be read and are left out")
    counts = {"train": len(data.train), "tune": len(data.tune), "held_out": len(found.indices)}
    result = Result(
        evaluation=run.method,
        numbers=numbers(logits, found.truth),
        protocol=protocol(run),
        data=run.data,
        fingerprint=fingerprint(opened.images.source, opened.train, found.indices),
        weights=weights,
        of=of,
        seed=run.seed,
        counts=counts | {"classes": len(task.labels.names)},
        notes=notes,
        tables=tables,
        device=str(device),
    )
    checkpoint.write(evals / CHOSEN, json.dumps({"head": head}).encode())
    learning_curves(where)
    write(result, None, evals / RESULT)
    return result


def details(logits: torch.Tensor, found: Judged, data: Data, evals: Path) -> tuple[dict[str, Any], list[str]]:
    """Tables of the single classes, and what should be known about them; draws evals/confusion.png."""
    if data.tags is not None:
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
    length = f"{run.epochs:g} epochs" if run.steps is None else f"{run.steps} steps"
    parts = [length, f"batch {run.batch_size}", f"{run.optim.name}, base lr {run.optim.base_lr:g}"]
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
    labels = settings.labels
    few = Few.of(labels.share, labels.shots)
    parts += [str(few)] if few else []
    parts += [f"{labels.tune:.0%} of the training images kept out to choose by"] if labels.tune else []
    parts += ["classes balanced in the loss"] if labels.balanced else []
    parts += [f"the best of {run.watch.looks} looks by {run.watch.best}"] if run.watch.best else []
    cut = "" if settings.eval_share == 1 else f", {settings.eval_share:.1%} of the short side"
    return f"{what}: {', '.join(parts)}; measured on the centre crop{cut}"

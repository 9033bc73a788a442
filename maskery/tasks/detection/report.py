"""What a detector that a task has trained says about all held-out images: numbers, tables, pictures."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...config import Run
from ...data.crops import to_float
from ...data.dataset import ImageData, spread
from ...data.sources.coco import CocoSource
from ...data.sources.rle import shape_mask
from ...evals.detect import SCORE, average_precision, pasted
from ...pictures.objects import outlined
from ...pictures.segments import legend
from ...pictures.strip import strip
from ...terminal import Terminal
from ..found import Found, length_of, said_of_labels
from ..segmentation.report import scaled, together
from .objective import Detect

SHOWN = 8  # held-out images in detections.png


def found_objects(task: Detect, run: Run, data: ImageData, evals: Path, precision: torch.dtype, workers: int) -> Found:
    """Its answers. Writes detections.png, whole images with truth and prediction."""
    M, names, columns, source = task.config.labels.count, task.config.labels.names, [], data.images.source
    assert isinstance(source, CocoSource)
    shown, classes = set(spread(data.held_out, SHOWN).tolist()), set[int]()

    def show(i: int, answer: dict[str, Tensor]) -> None:
        if i in shown:
            columns.append([scaled(x[None]) for x in pictures(data, i, answer, M, task.with_masks)])
            objects = source.objects(i)
            classes.update(objects.classes[~objects.crowd].tolist())
            classes.update(answer["classes"][answer["scores"] >= SCORE].tolist())

    with Terminal().bar("held-out images") as tick:
        seen = task.seen(data, data.held_out, precision=precision, workers=workers, progress=tick, each=show)
    captions = ("image", "truth", f"found (surer than {SCORE})")
    each = {caption: together(images) for caption, images in zip(captions, zip(*columns, strict=True), strict=True)}
    strip(each, evals / "detections.png", "held-out images, a colour a class", legend=legend(names, classes))
    scores = average_precision(seen, task.with_masks)
    objects = np.bincount([a["category_id"] - 1 for a in seen.truth["annotations"] if not a["iscrowd"]], minlength=M)
    rows: list[dict[str, Any]] = [
        {"class": name, **{f"{kind}_ap": scores.by_class[kind][m] for kind in scores.by_class}, "objects": int(n)}
        for m, (name, n) in enumerate(zip(names, objects, strict=True))
    ]
    notes, unseen = [], [row["class"] for row in rows if not row["objects"]]
    if unseen:
        named = ", ".join(unseen[:5]) + (", ..." if len(unseen) > 5 else "")
        notes.append(f"{len(unseen)} of {M} classes are nowhere in the held-out images and left out of means: {named}")
    if not task.with_masks:
        notes.append("boxes only: not every object has a shape, or --settings.masks is off")
    area = sum(a["area"] for a in seen.truth["annotations"])
    truth = f"objects of the classes {objects.tolist()}, {area:.0f} pixels"
    return Found(scores.numbers, {"classes": rows}, notes, seen.indices, len(seen.skipped), truth)


def pictures(
    data: ImageData, i: int, answer: dict[str, Tensor], classes: int, masks: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The image, its objects, what was found in it: [3 or C, H, W] in [0, 1]."""
    array, source = data.images.open(i).at(1.0).array, data.images.source
    assert isinstance(source, CocoSource)
    height, width = source.sizes[i].tolist()
    image = to_float(torch.from_numpy(array.copy()).permute(2, 0, 1)[None], torch.device("cpu"))
    image = F.interpolate(image, (height, width), mode="area")[0]
    objects, sure = source.objects(i), answer["scores"] >= SCORE
    kept = [k for k, crowd in enumerate(objects.crowd.tolist()) if not crowd]
    truth = [shape_mask(objects.shapes[k], (height, width)) for k in kept] if masks else []
    answers = (
        [pasted(*one, (height, width)) for one in zip(answer["masks"], answer["boxes"], strict=True)] if masks else []
    )

    def stacked(each: list[np.ndarray]) -> Tensor | None:
        return torch.from_numpy(np.array(each).reshape(-1, height, width)) if masks else None

    found = stacked(answers)
    return (
        image,
        outlined(
            image,
            torch.from_numpy(objects.boxes[kept]),
            torch.from_numpy(objects.classes[kept]),
            classes,
            stacked(truth),
        ),
        outlined(
            image, answer["boxes"][sure], answer["classes"][sure], classes, None if found is None else found[sure]
        ),
    )


def protocol(run: Run) -> str:
    """How the detector was trained, in words, the same for all that may stand beside each other."""
    settings = run.settings
    what = "Mask R-CNN" if settings.masks == "on" else "Faster R-CNN"
    what += " on the simple feature pyramid"
    parts = length_of(run)
    if settings.freeze:
        what += " of a frozen encoder"
    else:
        parts += [f"layer decay {settings.layer_decay:g}", f"drop path {settings.drop_path:g}"]
    if settings.window:
        parts.append(f"windows of {settings.window} patches, {settings.global_blocks} global blocks")
    low, high = settings.scale
    parts += [f"jitter {low:g} to {high:g}", f"{settings.width} wide", f"{settings.rois} proposals an image"]
    parts += said_of_labels(run)
    return f"{what}: {', '.join(parts)}; COCO's average precision on whole images, scaled to fit the input"

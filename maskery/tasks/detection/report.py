"""Report of a detector: COCO's numbers, a table of the classes, pictures of whole images."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...config import Run
from ...data.dataset import ImageData
from ...data.sources.coco import CocoSource
from ...data.sources.rle import shape_mask
from ...evals.detect import SCORE, average_precision
from ...pictures.segments import outlined
from ...pictures.strip import ExampleStrip, whole_image
from ...terminal import Terminal
from ..outcome import Outcome, absent_classes, training_protocol
from .objective import Detect

CAPTIONS = ("image", "truth", f"found (surer than {SCORE})")


def measure_detector(task: Detect, data: ImageData, directory: Path, **options: Any) -> Outcome:
    """Measure it on all held-out images. Writes detections.png, some of them with truth and prediction."""
    names = task.config.labels.names
    strip = ExampleStrip(data.held_out, CAPTIONS)

    def show(i: int, answer: dict[str, Tensor]) -> None:
        if i in strip.shown:
            strip.add(*pictures(data, i, answer, task))

    with Terminal().bar("held-out images") as tick:
        result = task.detected(data, data.held_out, show, progress=tick, **options)
    strip.write(directory / "detections.png", "held-out images, a colour a class", names)
    numbers, by_class = average_precision(result, task.with_masks)
    annotations = result.truth["annotations"]
    counts = np.bincount([a["category_id"] - 1 for a in annotations if not a["iscrowd"]], minlength=len(names))
    rows: list[dict[str, Any]] = [
        {"class": name, **{f"{kind}_ap": values[m] for kind, values in by_class.items()}, "objects": int(n)}
        for m, (name, n) in enumerate(zip(names, counts, strict=True))
    ]
    notes = absent_classes(names, [row["class"] for row in rows if not row["objects"]])
    if not task.with_masks:
        notes.append("boxes only: not every object has a shape, or --settings.masks is off")
    truth = f"objects of the classes {counts.tolist()}, {sum(a['area'] for a in annotations):.0f} pixels"
    return Outcome(numbers, result.indices, len(result.skipped), {"classes": rows}, notes, truth)


def pictures(data: ImageData, i: int, answer: dict[str, Tensor], task: Any) -> tuple[list[Tensor], list[int]]:
    """An image, its objects, the detected ones [3 or C, H, W] in [0, 1], and the classes in them."""
    source = data.images.source
    assert isinstance(source, CocoSource)
    size = tuple(source.sizes[i].tolist())
    image, objects, masks = whole_image(data, i, size), source.objects(i), None
    single = np.flatnonzero(~objects.crowd)
    if task.with_masks:
        masks = torch.from_numpy(np.array([shape_mask(objects.shapes[k], size) for k in single]).reshape(-1, *size))
    boxes, classes = (torch.from_numpy(x[single]) for x in (objects.boxes, objects.classes))
    truth = outlined(image, boxes, classes, task.config.labels.count, masks)
    seen = [*classes.tolist(), *answer["classes"][answer["scores"] >= SCORE].tolist()]
    return [image, truth, task.predicted(image, answer)], seen


def detection_protocol(run: Run) -> str:
    settings = run.settings
    network = "Mask R-CNN" if settings.masks == "on" else "Faster R-CNN"
    frozen = " of a frozen encoder" if settings.freeze else ""
    windows = f"windows of {settings.window} patches, {settings.global_blocks} global blocks"
    low, high = settings.scale
    own = [f"jitter {low:g} to {high:g}", f"{settings.width} wide", f"{settings.rois} proposals an image"]
    trained = training_protocol(run, [windows, *own] if settings.window else own, not settings.freeze)
    how = "COCO's average precision on whole images, scaled to fit the input"
    return f"{network} on the simple feature pyramid{frozen}: {trained}; {how}"

"""What a segmenter that a task has trained says about all held-out images: numbers, tables, pictures."""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import Run
from ..data.dataset import Data, spread
from ..data.views import to_float
from ..evals.segment import iou, numbers, rows
from ..evals.segment import segmented as ask
from ..log import Terminal
from ..report.pictures import strip
from ..report.segments import painted
from .found import Found, length_of, said_of_labels
from .segment import Segment

SHOWN, SIDE = 8, 320  # held-out images in segments.png, and the size of the squares they are shown in


def segmented(task: Segment, run: Run, data: Data, evals: Path, precision: torch.dtype, workers: int) -> Found:
    """Its answers. Writes segments.png, whole images with truth and prediction."""
    M, names, seen = task.config.labels.count, task.config.labels.names, []
    shown = set(spread(data.held_out, SHOWN).tolist())

    def show(i: int, predicted: Tensor, truth: Tensor) -> None:
        if i in shown:
            array = data.images.open(i).at(1.0).array
            image = to_float(torch.from_numpy(array.copy()).permute(2, 0, 1)[None], torch.device("cpu"))
            image = F.interpolate(image, truth.shape, mode="area")
            columns = (image, painted(image, truth[None], M), painted(image, predicted[None], M))
            seen.append([fitted(column) for column in columns])

    with Terminal().bar("held-out images") as tick:
        found = ask(
            task.segment,
            data,
            data.held_out,
            run.size,
            task.meaning(data),
            next(task.parameters()).device,
            inference=task.config.inference,
            precision=precision,
            workers=workers,
            progress=tick,
            each=show,
        )
    captions = ("image", "truth", "prediction")
    columns = {caption: torch.cat(images) for caption, images in zip(captions, zip(*seen, strict=True), strict=True)}
    strip(columns, evals / "segments.png", "held-out images, dark where nobody named a class")
    notes, unseen = [], [name for name, value in zip(names, iou(found.matrix).tolist(), strict=True) if value != value]
    if unseen:
        named = ", ".join(unseen[:5]) + (", ..." if len(unseen) > 5 else "")
        notes.append(f"{len(unseen)} of {M} classes are nowhere in the held-out images and left out of means: {named}")
    tables = {"classes": rows(found.matrix, names)}
    return Found(numbers(found.matrix), tables, notes, found.indices, len(found.skipped))


def fitted(image: Tensor) -> Tensor:
    """Images [1, C, H, W] in the middle of a white square, [1, C, SIDE, SIDE]."""
    height, width = image.shape[2:]
    h, w = (max(1, round(n * SIDE / max(height, width))) for n in (height, width))
    square = image.new_ones(1, image.shape[1], SIDE, SIDE)
    top, left = (SIDE - h) // 2, (SIDE - w) // 2
    square[:, :, top : top + h, left : left + w] = F.interpolate(image, (h, w), mode="nearest")
    return square


def protocol(run: Run) -> str:
    """How the segmenter was trained, in words, the same for all that may stand beside each other."""
    settings = run.settings
    what = {"upernet": "UPerNet", "mlp": "all-MLP decoder", "linear": "linear head"}[settings.head]
    parts = length_of(run)
    if settings.freeze:
        what += " on a frozen encoder"
    else:
        parts += [f"layer decay {settings.layer_decay:g}", f"drop path {settings.drop_path:g}"]
    low, high = settings.scale
    parts += [f"crops at scales {low:g} to {high:g}"]
    parts += [] if settings.distortion else ["colours as they are"]
    parts += said_of_labels(run)
    how = {
        "slide": "in windows that overlap by a third, short side as the crop's",
        "whole": "on whole images at the crop's size",
    }[settings.inference]
    return f"{what}: {', '.join(parts)}; measured {how}"

"""What a segmenter that a task has trained says about all held-out images: numbers, tables, pictures."""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ...config import Run
from ...data.crops import to_float
from ...data.dataset import ImageData, spread
from ...evals.segment import iou, numbers, rows
from ...evals.segment import segmented as ask
from ...pictures.segments import legend, painted
from ...pictures.strip import strip
from ...terminal import Terminal
from ..found import Found, length_of, said_of_labels
from .objective import Segment

SHOWN, SIDE = 8, 320  # held-out images in segments.png, and their long side there


def segmented(task: Segment, run: Run, data: ImageData, evals: Path, precision: torch.dtype, workers: int) -> Found:
    """Its answers. Writes segments.png, whole images with truth and prediction."""
    M, names, seen = task.config.labels.count, task.config.labels.names, []
    shown, classes = set(spread(data.held_out, SHOWN).tolist()), set[int]()

    def show(i: int, predicted: Tensor, truth: Tensor) -> None:
        if i in shown:
            array = data.images.open(i).at(1.0).array
            image = to_float(torch.from_numpy(array.copy()).permute(2, 0, 1)[None], torch.device("cpu"))
            image = F.interpolate(image, truth.shape, mode="area")
            columns = (image, painted(image, truth[None], M), painted(image, predicted[None], M))
            seen.append([scaled(column) for column in columns])
            classes.update(truth.unique().tolist(), predicted.unique().tolist())

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
    columns = {caption: together(images) for caption, images in zip(captions, zip(*seen, strict=True), strict=True)}
    title = "held-out images, dark where nobody named a class"
    strip(columns, evals / "segments.png", title, legend=legend(names, classes))
    notes, unseen = [], [name for name, value in zip(names, iou(found.matrix).tolist(), strict=True) if value != value]
    if unseen:
        named = ", ".join(unseen[:5]) + (", ..." if len(unseen) > 5 else "")
        notes.append(f"{len(unseen)} of {M} classes are nowhere in the held-out images and left out of means: {named}")
    shades = legend(names, range(M))
    tables = {"classes": [row | {"colour": shades[str(row["class"])]} for row in rows(found.matrix, names)]}
    truth = f"pixels of the classes {found.matrix.sum(1).tolist()}"
    return Found(numbers(found.matrix), tables, notes, found.indices, len(found.skipped), truth)


def scaled(image: Tensor) -> Tensor:
    """An image [1, C, H, W] with a long side of SIDE; no colours are mixed."""
    longest = max(image.shape[2:])
    return F.interpolate(image, [max(1, round(n * SIDE / longest)) for n in image.shape[2:]], mode="nearest")


def together(images: Sequence[Tensor]) -> Tensor:
    """Images [1, C, H_i, W_i] in the middle of white ones of one size, [B, C, H, W]."""
    height, width = (max(image.shape[axis] for image in images) for axis in (2, 3))
    padded = []
    for image in images:
        down, right = height - image.shape[2], width - image.shape[3]
        padded.append(F.pad(image, (right // 2, right - right // 2, down // 2, down - down // 2), value=1.0))
    return torch.cat(padded)


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

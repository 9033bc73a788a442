"""Report of a segmenter: numbers, a table of the classes, pictures of whole images."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...config import Run
from ...data.dataset import ImageData
from ...evals.segment import class_rows, iou, numbers
from ...pictures.segments import legend, painted
from ...pictures.strip import ExampleStrip, whole_image
from ...terminal import Terminal
from ..outcome import Outcome, absent_classes, training_protocol
from .objective import Segment

HEADS = {"upernet": "UPerNet", "mlp": "all-MLP decoder", "linear": "linear head"}
INFERENCE = {
    "slide": "in windows that overlap by a third, short side as the crop's",
    "whole": "on whole images at the crop's size",
}


def measure_segmenter(task: Segment, data: ImageData, directory: Path, **options: Any) -> Outcome:
    """Measure it on all held-out images. Writes segments.png, some of them with truth and prediction."""
    names = task.config.labels.names
    M = len(names)
    strip = ExampleStrip(data.held_out, ("image", "truth", "prediction"))

    def show(i: int, predicted: Tensor, truth: Tensor) -> None:
        if i in strip.shown:
            image = whole_image(data, i, truth.shape)
            masks = [painted(image[None], mask[None], M)[0] for mask in (truth, predicted)]
            strip.add([image, *masks], torch.cat([truth.unique(), predicted.unique()]).tolist())

    with Terminal().bar("held-out images") as tick:
        matrix, images = task.segmented(data, data.held_out, show, progress=tick, **options)
    strip.write(directory / "segments.png", "held-out images, dark where no class is labelled", names)
    absent = [name for name, value in zip(names, iou(matrix).tolist(), strict=True) if value != value]
    colours = legend(names, range(M))
    classes = [row | {"colour": colours[str(row["class"])]} for row in class_rows(matrix, names)]
    return Outcome(
        numbers(matrix),
        images.indices,
        len(images.skipped),
        {"classes": classes},
        absent_classes(names, absent),
        truth=f"pixels of the classes {matrix.sum(1).tolist()}",
    )


def segmentation_protocol(run: Run) -> str:
    settings = run.settings
    frozen = " on a frozen encoder" if settings.freeze else ""
    own = ["crops at scales {:g} to {:g}".format(*settings.scale)]
    own += [] if settings.distortion else ["colours as they are"]
    trained = training_protocol(run, own, not settings.freeze)
    return f"{HEADS[settings.head]}{frozen}: {trained}; measured {INFERENCE[settings.inference]}"

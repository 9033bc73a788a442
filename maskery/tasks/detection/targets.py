"""What detection does with objects: classes, parts of the data, targets as torchvision wants them, masks at full size.

b images, T objects of one at most, K objects of one, h x w pixels
"""

import json
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from torch import Tensor

from ...data.dataset import ImageData
from ...data.objects import NOTHING, Targets, View
from ...data.sources.coco import CocoSource
from ...data.sources.rle import mask_api
from ...evals.label_subset import Few, draw
from ..labels import LabelsConfig, apart, parts

Masks = Literal["auto", "on", "off"]
SIDE = 4  # objects along a side of a trial's images


def prepared(config: LabelsConfig, masks: Masks, data: ImageData) -> tuple[LabelsConfig, Masks, ImageData]:
    """The classes, whether masks are learned, and the images: to train on, to choose by, held out.

    Images without objects count as well: there is nothing to find in them. ValueError in one line.
    """
    source, few = data.images.source, Few.of(config.share, config.shots)
    if not isinstance(source, CocoSource):
        raise ValueError(f"{source.where}: opened without objects: --images.objects")
    mask_api()  # says what is missing before anything is trained
    train, held_out, tune = parts(data)
    nobody = np.zeros(len(source), np.int64)  # images are of no class here
    if few:
        if few.shots is not None:
            raise ValueError("--shots counts images of a class, and there are many in one: --labels 10% takes a share")
        train = draw(nobody, train, ("",), few, config.draw).indices
    if not len(tune) and config.tune and len(train) > 1:
        train, tune = apart(train, nobody[train], config.tune, config.draw)
    for what, part in (("training", train), ("held-out", held_out)):
        if not source.counts[part].sum():
            raise ValueError(f"{source.where}: there is no object in any of the {len(part)} {what} images")
    bare = source.without_shape(np.concatenate([train, held_out, tune]))
    if masks == "on" and bare:
        raise ValueError(
            f"{source.where}: {bare:,} objects have only a box, and --settings.masks on wants their shapes"
        )
    if masks == "auto":
        masks = "off" if bare else "on"
    config = replace(config, classes=json.dumps(source.object_classes, ensure_ascii=False))
    return config, masks, replace(data, train=train, held_out=held_out, validation=tune)


def nothing(size: tuple[int, int]) -> View:
    """An image without objects."""
    return View(np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros((0, *size), np.uint8), size)


def grid(images: int, like: Tensor, masks: bool) -> Targets:
    """Squares side by side, for a trial on noise: what it takes in memory depends on objects."""
    h, w = like.shape[2:]
    corners = np.stack(np.meshgrid(np.arange(SIDE), np.arange(SIDE)), -1).reshape(-1, 2)
    boxes = np.concatenate([corners, corners + 1], 1) * (np.array([w, h, w, h]) / SIDE)
    pixels = np.zeros((len(boxes), h, w), np.uint8)
    for k, (left, top, right, bottom) in enumerate(boxes.astype(int)):
        pixels[k, top:bottom, left:right] = 1
    one = View(boxes.astype(np.float32), np.zeros(len(boxes), np.int64), pixels, (h, w))
    return Targets.of([one] * images, (h, w), masks).to(like.device)


def lists(y: Targets, size: Any, masks: bool) -> list[dict[str, Tensor]]:
    """One entry an image, classes from 1."""
    found = []
    for i in range(len(y)):
        kept = y.classes[i] != NOTHING
        one = {"boxes": y.boxes[i, kept], "labels": y.classes[i, kept] + 1}
        found.append(one | ({"masks": y.masks(i, tuple(size))} if masks else {}))
    return found

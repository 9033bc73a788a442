"""Objects as targets of detection: the classes of the data, whether masks are learned, torchvision's form.

B images, T objects of one at most, h x w pixels
"""

from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor

from ...data.crops import CenterCrop
from ...data.dataset import ImageData
from ...data.decode.unreadable import Unreadable
from ...data.object_targets import NO_OBJECT, ObjectTargets, VisibleObjects, check_size, visible_objects
from ...data.sources.coco import CocoSource
from ...data.sources.rle import mask_api
from ...evals.splits import reported_split
from ..labels import split_validation, subset_of_images

SIDE = 4  # objects along a side of a trial's images


def prepare(settings: Any, data: ImageData) -> tuple[Any, ImageData]:
    """Find the classes, whether masks are learned, and the images of each split.

    Images without objects count as well: there is nothing to find in them. ValueError in one line.
    """
    source, config, masks = data.images.source, settings.labels, settings.masks
    if not isinstance(source, CocoSource):
        raise ValueError(f"{source.where}: opened without objects: --images.objects")
    mask_api()  # names the missing library before anything is trained
    data = subset_of_images(reported_split(data), config, "there are many in one")
    data = split_validation(data, config)
    for what, indices in (("training", data.train), ("held-out", data.held_out)):
        if not source.counts[indices].sum():
            raise ValueError(f"{source.where}: there is no object in any of the {len(indices)} {what} images")
    boxes_only = source.without_shape(np.concatenate([data.train, data.held_out, data.validation]))
    if masks == "on" and boxes_only:
        raise ValueError(
            f"{source.where}: {boxes_only:,} objects have only a box, and --settings.masks on wants their shapes"
        )
    if masks == "auto":
        masks = "off" if boxes_only else "on"
    return replace(settings, labels=config.named(source.object_classes), masks=masks), data


def no_objects(size: tuple[int, int]) -> VisibleObjects:
    """An image without objects."""
    return VisibleObjects(np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros((0, *size), np.uint8), size)


def centre_objects(data: ImageData, indices: np.ndarray, size: tuple[int, int], masks: bool) -> ObjectTargets:
    """Objects in the centre crop of each image; none where it cannot be read."""
    source, found = data.images.source, []
    assert isinstance(source, CocoSource)
    for i in indices.tolist():
        try:
            image = data.images.open(i)
            check_size(source, i, image)
            found.append(visible_objects(source, i, CenterCrop(size)(image.height, image.width), size, masks))
        except Unreadable:
            found.append(no_objects(size))
    return ObjectTargets.stack(found, size, masks)


def grid_of_squares(image: Tensor, masks: bool) -> ObjectTargets:
    """Objects for images [B, C, h, w] that have none, for a trial step: its memory depends on their number."""
    h, w = image.shape[2:]
    corners = np.stack(np.meshgrid(np.arange(SIDE), np.arange(SIDE)), -1).reshape(-1, 2)
    boxes = np.concatenate([corners, corners + 1], 1) * (np.array([w, h, w, h]) / SIDE)
    pixels = np.zeros((len(boxes), h, w), np.uint8)
    for k, (left, top, right, bottom) in enumerate(boxes.astype(int)):
        pixels[k, top:bottom, left:right] = 1
    view = VisibleObjects(boxes.astype(np.float32), np.zeros(len(boxes), np.int64), pixels, (h, w))
    return ObjectTargets.stack([view] * len(image), (h, w), masks).to(image.device)


def torchvision_targets(y: ObjectTargets, size: Any, masks: bool) -> list[dict[str, Tensor]]:
    """One entry an image: boxes [T, 4], labels [T] from 1, masks [T, h, w]."""
    entries = []
    for i in range(len(y)):
        real = y.classes[i] != NO_OBJECT
        entry = {"boxes": y.boxes[i, real], "labels": y.classes[i, real] + 1}
        entries.append(entry | ({"masks": y.masks(i, tuple(size))} if masks else {}))
    return entries

"""A detector's objects in whole images, and COCO's average precision of them, by faster-coco-eval.

Deterministic; extra: detect.
K objects of one image, M classes, C channels, h x w the network's input, H x W of an image
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.eval_dataset import EvalDataset
from ..data.images import Images, Skips
from ..data.object_targets import FittingImage, check_size
from ..data.sources.coco import CocoSource
from ..data.sources.rle import MISSING, encode_mask, run_lengths
from ..data.views import to_float
from .eval_pass import EvalPass, InferenceOptions

Detect = Callable[[Tensor, Tensor], list[dict[str, Tensor]]]  # images [B, C, h, w], what they fill [B, 2] -> objects
Show = Callable[[int, dict[str, Tensor]], None]  # image of the source, its detections in pixels of the image
SCORE = 0.5  # objects with a higher score are in pictures
THRESHOLDS = {"": (), "50": (0,), "75": (5,)}  # positions among COCO's ten thresholds of overlap; (): all
AREAS = {"_small": 1, "_medium": 2, "_large": 3}  # below 32 x 32 pixels, below 96 x 96, above


@dataclass(frozen=True)
class Detections:
    """Truth and detections of the images that could be read, as COCO's files have them; an image's id is its index."""

    truth: dict[str, list[dict[str, Any]]]
    boxes: list[dict[str, Any]]
    masks: list[dict[str, Any]]  # empty without masks
    indices: np.ndarray  # [n] which images of the source
    skipped: Skips = field(default_factory=list)


def fitting_images(
    images: Images, indices: np.ndarray, size: tuple[int, int], mean: Sequence[float], options: InferenceOptions
) -> EvalPass:
    """Open images whole, scaled until they just fit into the network's input; the rest is of the mean colour."""
    source = images.source
    assert isinstance(source, CocoSource)
    crop, batch = FittingImage(size, fill=tuple(mean)), options.batch(cuda=8, cpu=2)
    return EvalPass(EvalDataset(images, indices, crop, batch, target=partial(check_size, source)), options)


@torch.no_grad()
def detect_images(detect: Detect, images: EvalPass, masks: bool, show: Show | None = None) -> Detections:
    """Detect the objects in every image. ValueError when no image can be read, and for NaN."""
    source, options = images.dataset.images.source, images.options
    assert isinstance(source, CocoSource)
    boxes, shapes = [], []
    for part in images:
        with options.autocast():
            batch = detect(to_float(part["images"], options.device), part["sizes"])
        for i, (h, w), objects in zip(part["indices"].tolist(), part["sizes"].tolist(), batch, strict=True):
            height, width = source.sizes[i].tolist()
            objects = {name: value.float().cpu() for name, value in objects.items()}
            if not all(bool(value.isfinite().all()) for value in objects.values()):
                raise ValueError(f"{source.names[i]}: the detector's answer is not finite")
            objects["boxes"] = objects["boxes"] * torch.tensor([width / w, height / h] * 2)
            objects["classes"] = objects["classes"].long()
            corners = objects["boxes"].tolist()
            boxes += results(i, objects, "bbox", [[x, y, right - x, bottom - y] for x, y, right, bottom in corners])
            if masks:  # without boxes: the area of an object is then that of its mask
                pairs = zip(objects["masks"], objects["boxes"], strict=True)
                pasted = [encode_mask(paste_mask(mask, box, (height, width))) for mask, box in pairs]
                shapes += results(i, objects, "segmentation", pasted)
            if show:
                show(i, objects)
    truth = truth_of(source, images.indices.tolist(), masks)
    return Detections(truth, boxes, shapes, images.indices, images.skipped)


def truth_of(source: CocoSource, indices: Sequence[int], masks: bool) -> dict[str, list[dict[str, Any]]]:
    """The objects in these images, as COCO's file has them."""
    images, annotations = [], []
    for i in indices:
        height, width = source.sizes[i].tolist()
        images.append({"id": i, "height": height, "width": width})
        objects = source.objects(i)
        for k, (left, top, right, bottom) in enumerate(objects.boxes.tolist()):
            shape = objects.shapes[k] or [[left, top, right, top, right, bottom, left, bottom]]  # of a crowd
            annotations.append(
                {
                    "id": len(annotations) + 1,  # COCO's code takes 0 for no match
                    "image_id": i,
                    "category_id": int(objects.classes[k]) + 1,
                    "bbox": [left, top, right - left, bottom - top],
                    "area": float(objects.areas[k]),
                    "iscrowd": int(objects.crowd[k]),
                }
                | ({"segmentation": run_lengths(shape, (height, width))} if masks else {})
            )
    names = [{"id": m + 1, "name": name} for m, name in enumerate(source.object_classes)]
    return {"images": images, "annotations": annotations, "categories": names}


def results(i: int, objects: dict[str, Tensor], key: str, values: list[Any]) -> list[dict[str, Any]]:
    """Detections as COCO's results have them, with values for "bbox" or "segmentation"."""
    rows = zip(objects["classes"].tolist(), values, objects["scores"].tolist(), strict=True)
    return [{"image_id": i, "category_id": c + 1, key: value, "score": score} for c, value, score in rows]


def paste_mask(mask: Tensor, box: Tensor, size: tuple[int, int]) -> np.ndarray:
    """Probabilities [28, 28] over a box as a mask [H, W]: 1 where a pixel's centre has more than a half."""
    pasted = np.zeros(size, np.uint8)
    left, top, right, bottom = box.tolist()
    x, y = (max(0, math.floor(edge)) for edge in (left, top))
    w, h = min(size[1], math.ceil(right)) - x, min(size[0], math.ceil(bottom)) - y
    if w <= 0 or h <= 0:
        return pasted
    across = (torch.arange(x, x + w) + 0.5 - left) / max(right - left, 1e-6) * 2 - 1
    down = (torch.arange(y, y + h) + 0.5 - top) / max(bottom - top, 1e-6) * 2 - 1
    grid = torch.stack(torch.meshgrid(down, across, indexing="ij")[::-1], -1)[None]
    values = F.grid_sample(mask[None, None].float(), grid, padding_mode="zeros", align_corners=False)
    pasted[y : y + h, x : x + w] = (values[0, 0] > 0.5).numpy()
    return pasted


# ---------------------------------------------------------------------------------------------------------- precision
def average_precision(detections: Detections, masks: bool) -> tuple[dict[str, float], dict[str, list[float | None]]]:
    """AP, AP50, AP75, by size, and recall of 100 detections an image: COCO's numbers, box_... and mask_...

    Without those that are not defined: no object is so small, or so large. And the AP of each class, [M] of each kind.
    """
    numbers: dict[str, float] = {}
    by_class: dict[str, list[float | None]] = {}
    kinds = [("box", "bbox", detections.boxes), *([("mask", "segm", detections.masks)] if masks else [])]
    for kind, iou_type, detected in kinds:
        precision, recall = _coco_tables(detections.truth, detected, iou_type)
        for name, thresholds in THRESHOLDS.items():
            chosen = precision[list(thresholds)] if thresholds else precision
            numbers[f"{kind}_ap{name}"] = _mean(chosen[:, :, :, 0, -1])
        for name, area in AREAS.items():
            numbers[f"{kind}_ap{name}"] = _mean(precision[:, :, :, area, -1])
        numbers[f"{kind}_recall"] = _mean(recall[:, :, 0, -1])
        values = (_mean(precision[:, :, m, 0, -1]) for m in range(precision.shape[2]))
        by_class[kind] = [None if math.isnan(value) else value for value in values]
    return {name: value for name, value in numbers.items() if not math.isnan(value)}, by_class


def _coco_tables(truth: dict[str, Any], detected: list[dict[str, Any]], iou_type: Any) -> tuple[np.ndarray, np.ndarray]:
    """COCO's precision [10, 101, M, 4 areas, 3 limits] and recall [10, M, 4, 3]; -1 where it is not defined."""
    try:
        from faster_coco_eval import COCO, COCOeval_faster
    except ImportError:
        raise ValueError(MISSING) from None
    quiet: Any = lambda *_: None  # noqa: E731
    coco = COCO({part: [dict(row) for row in rows] for part, rows in truth.items()}, print_function=quiet)
    evaluation = COCOeval_faster(coco, coco.loadRes([dict(row) for row in detected]), iou_type, print_function=quiet)
    evaluation.evaluate()
    evaluation.accumulate()
    return np.asarray(evaluation.eval["precision"]), np.asarray(evaluation.eval["recall"])


def _mean(values: np.ndarray) -> float:
    """Mean of what is defined; NaN where nothing is."""
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else math.nan

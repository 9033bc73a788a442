"""What a detector finds in whole images, and COCO's average precision of it, by faster-coco-eval.

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

from ..data.dataset import ImageData
from ..data.eval_dataset import EvalDataset
from ..data.images import Skips
from ..data.loader import eval_batches
from ..data.object_targets import FittingImage, check_size
from ..data.sources.coco import CocoSource
from ..data.sources.rle import MISSING, encode_mask, run_lengths
from ..data.views import to_float

Detect = Callable[[Tensor, Tensor], list[dict[str, Tensor]]]  # images [B, C, h, w], what they fill [B, 2] -> objects
AT_ONCE = {"cuda": 8}  # images; 2 elsewhere
SCORE = 0.5  # objects that are surer than that are in pictures
PLACES = {"": (), "50": (0,), "75": (5,)}  # of COCO's ten thresholds of overlap
AREAS = {"_small": 1, "_medium": 2, "_large": 3}  # below 32 x 32 pixels, below 96 x 96, above


@dataclass(frozen=True)
class Seen:
    """Truth and answers of the images that could be read, as COCO's files have them; an image's id is its index."""

    truth: dict[str, list[dict[str, Any]]]
    boxes: list[dict[str, Any]]
    masks: list[dict[str, Any]]  # empty without masks
    indices: np.ndarray  # [n] which images of the source
    skipped: Skips = field(default_factory=list)


@torch.no_grad()
def detected(
    detect: Detect,
    data: ImageData,
    indices: np.ndarray,
    size: tuple[int, int],
    mean: Sequence[float],
    device: torch.device,
    *,
    masks: bool,
    precision: torch.dtype = torch.float32,
    workers: int = 0,
    progress: Callable[[int, int], None] | None = None,
    each: Callable[[int, dict[str, Tensor]], None] | None = None,
) -> Seen:
    """Ask about every image, whole and scaled until it just fits into the network's input.

    `each` sees (image of the source, its answer in pixels of the image). ValueError when none can be read, and for NaN.
    """
    source = data.images.source
    assert isinstance(source, CocoSource)
    boxes, shapes, read, skipped = [], [], [], []
    crop, batch = FittingImage(size, fill=tuple(mean)), AT_ONCE.get(device.type, 2)
    dataset = EvalDataset(data.images, indices, crop, batch, target=partial(check_size, source))
    for part in eval_batches(dataset, workers):
        skipped += part["skipped"]
        if part["images"] is None:
            continue
        with torch.autocast(device.type, precision, enabled=precision != torch.float32):
            answers = detect(to_float(part["images"], device), part["sizes"])
        for i, (h, w), answer in zip(part["indices"].tolist(), part["sizes"].tolist(), answers, strict=True):
            height, width = source.sizes[i].tolist()
            answer = {name: value.float().cpu() for name, value in answer.items()}
            if not all(bool(value.isfinite().all()) for value in answer.values()):
                raise ValueError(f"{source.names[i]}: the detector's answer is not finite")
            answer["boxes"] = answer["boxes"] * torch.tensor([width / w, height / h] * 2)
            answer["classes"] = answer["classes"].long()
            boxes += results(i, answer)
            if masks:
                shapes += mask_results(i, answer, (height, width))
            if each:
                each(i, answer)
            read.append(i)
        if progress:
            progress(len(read) + len(skipped), len(indices))
    if not read:
        raise ValueError(f"{source.where}: none of the {len(indices)} images can be read")
    return Seen(truth_of(source, read, masks), boxes, shapes, np.array(read), skipped)


def truth_of(source: CocoSource, indices: Sequence[int], masks: bool) -> dict[str, list[dict[str, Any]]]:
    """What is in these images, as COCO's file has it."""
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


def results(i: int, answer: dict[str, Tensor]) -> list[dict[str, Any]]:
    """Boxes as COCO's results have them."""
    each = zip(*(answer[name].tolist() for name in ("boxes", "classes", "scores")), strict=True)
    return [
        {"image_id": i, "category_id": c + 1, "bbox": [x, y, right - x, bottom - y], "score": score}
        for (x, y, right, bottom), c, score in each
    ]


def mask_results(i: int, answer: dict[str, Tensor], size: tuple[int, int]) -> list[dict[str, Any]]:
    """Masks likewise, without boxes: the area of what is found is then that of the mask."""
    each = zip(answer["masks"], answer["boxes"], answer["classes"].tolist(), answer["scores"].tolist(), strict=True)
    return [
        {"image_id": i, "category_id": c + 1, "segmentation": encode_mask(pasted(mask, box, size)), "score": score}
        for mask, box, c, score in each
    ]


def pasted(mask: Tensor, box: Tensor, size: tuple[int, int]) -> np.ndarray:
    """Probabilities [28, 28] over a box as a mask [H, W]: 1 where a pixel's centre has more than a half."""
    whole = np.zeros(size, np.uint8)
    left, top, right, bottom = box.tolist()
    x, y = (max(0, math.floor(edge)) for edge in (left, top))
    w, h = min(size[1], math.ceil(right)) - x, min(size[0], math.ceil(bottom)) - y
    if w <= 0 or h <= 0:
        return whole
    across = (torch.arange(x, x + w) + 0.5 - left) / max(right - left, 1e-6) * 2 - 1
    down = (torch.arange(y, y + h) + 0.5 - top) / max(bottom - top, 1e-6) * 2 - 1
    places = torch.stack(torch.meshgrid(down, across, indexing="ij")[::-1], -1)[None]
    values = F.grid_sample(mask[None, None].float(), places, padding_mode="zeros", align_corners=False)
    whole[y : y + h, x : x + w] = (values[0, 0] > 0.5).numpy()
    return whole


# ---------------------------------------------------------------------------------------------------------- precision
@dataclass(frozen=True)
class Scores:
    numbers: dict[str, float]  # without those that are not defined: no object is so small, or so large
    by_class: dict[str, list[float | None]]  # [M] of each kind


def average_precision(seen: Seen, masks: bool) -> Scores:
    """AP, AP50, AP75, by size, and recall of 100 answers an image: COCO's numbers, box_... and mask_..."""
    numbers: dict[str, float] = {}
    by_class: dict[str, list[float | None]] = {}
    for kind, how, answers in (("box", "bbox", seen.boxes), ("mask", "segm", seen.masks)):
        if kind == "box" or masks:
            precision, recall = tables(seen.truth, answers, how)
            for name, places in PLACES.items():
                rows = precision[list(places)] if places else precision
                numbers[f"{kind}_ap{name}"] = mean(rows[:, :, :, 0, -1])
            for name, area in AREAS.items():
                numbers[f"{kind}_ap{name}"] = mean(precision[:, :, :, area, -1])
            numbers[f"{kind}_recall"] = mean(recall[:, :, 0, -1])
            each = [mean(precision[:, :, m, 0, -1]) for m in range(precision.shape[2])]
            by_class[kind] = [None if math.isnan(value) else value for value in each]
    return Scores({name: value for name, value in numbers.items() if not math.isnan(value)}, by_class)


def tables(truth: dict[str, Any], answers: list[dict[str, Any]], how: Any) -> tuple[np.ndarray, np.ndarray]:
    """COCO's precision [10, 101, M, 4 areas, 3 limits] and recall [10, M, 4, 3]; -1 where it is not defined."""
    try:
        from faster_coco_eval import COCO, COCOeval_faster
    except ImportError:
        raise ValueError(MISSING) from None
    quiet: Any = lambda *_: None  # noqa: E731
    known = COCO({part: [dict(one) for one in each] for part, each in truth.items()}, print_function=quiet)
    found = known.loadRes([dict(one) for one in answers])
    judged = COCOeval_faster(known, found, how, print_function=quiet)
    judged.evaluate()
    judged.accumulate()
    return np.asarray(judged.eval["precision"]), np.asarray(judged.eval["recall"])


def mean(values: np.ndarray) -> float:
    """Of what is defined; NaN where nothing is."""
    there = values[values > -1]
    return float(there.mean()) if there.size else math.nan

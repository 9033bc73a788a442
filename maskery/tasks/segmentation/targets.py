"""Masks as targets of segmentation: the classes of the data, their weights, the loss.

B batch, M classes, H x W pixels
"""

from dataclasses import replace
from typing import Any

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from ...data.dataset import ImageData, check_unreadable
from ...data.masks import VOID, LabelMap, MaskSurvey, survey_masks
from ...data.sources.source import Source
from ...evals.splits import reported_split
from ...terminal import Terminal
from ..labels import LabelsConfig, balanced_weights, split_validation, subset_of_images

MAX_CLASSES = 1000  # more are instances, or no classes at all
MAX_WEIGHT = 10.0  # ours, of balanced classes: or the few pixels of a rare class would be all that counts


def void_values(source: Source, settings: Any) -> tuple[int, ...]:
    """The values of void in the masks of a source."""
    zero = settings.reduce_zero_label
    zero_is_void = zero == "on" or (zero == "auto" and source.zero_is_void)
    ignored = [] if settings.ignore_index is None else [settings.ignore_index]
    return tuple(dict.fromkeys([*ignored, *([0] if zero_is_void else [])]))


def prepare(settings: Any, data: ImageData) -> tuple[Any, ImageData]:
    """Find the classes, their values in masks, and the images with masks of each split.

    All masks are read, unless the classes are known. ValueError in one line for masks that cannot be learned from.
    """
    source, config = data.images.source, settings.labels
    if source.masks is None:
        raise ValueError(f"{source.where}: opened without masks: --images.masks")
    data, has_mask = reported_split(data), source.masks
    train, held_out, validation = (part[has_mask[part]] for part in (data.train, data.held_out, data.validation))
    data = replace(data, train=train, held_out=held_out, validation=validation)
    if not len(data.train) or not len(data.held_out):
        raise ValueError(
            f"{source.where}: {len(data.train)} training and {len(data.held_out)} held-out images have masks"
        )
    every = np.concatenate([data.train, data.held_out, data.validation])
    data = subset_of_images(data, config, "a mask has many")
    data = split_validation(data, config)
    if not config.classes or (config.balanced and not config.weights):
        surveys = surveyed(source, data.train, np.setdiff1d(every, data.train))
        unreadable = [entry for survey in surveys for entry in survey.unreadable]
        check_unreadable(source.where, unreadable, len(every), data.config.unreadable)
        void = void_values(source, settings)
        names, ids = classes_of(source, surveys, void)
        config = config.named(names)
        if config.balanced:
            pixels = surveys[0].pixels[list(ids)]
            config = replace(config, weights=balanced_weights(pixels, pixels / pixels.sum(), MAX_WEIGHT))
        settings = replace(settings, labels=config, ids=ids)
    return settings, data


def surveyed(source: Source, train: np.ndarray, others: np.ndarray) -> tuple[MaskSurvey, MaskSurvey]:
    """The values in the masks of the training images, and of all others."""
    total = len(train) + len(others)
    with Terminal().bar("reading masks") as tick:
        return (
            survey_masks(source, train, lambda done, _: tick(done, total)),
            survey_masks(source, others, lambda done, _: tick(len(train) + done, total)),
        )


def classes_of(
    source: Source, surveys: tuple[MaskSurvey, ...], void: tuple[int, ...]
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """(names, values in masks). ValueError naming a file and its value that is no class, and for too few or many."""
    values = [v for v in np.flatnonzero(sum(s.pixels for s in surveys)).tolist() if v not in void]
    if names := source.mask_classes:
        first = int(0 in void)
        ids = tuple(range(first, first + len(names)))
        for unknown in (v for v in values if v not in ids):
            i = next(int(s.first[unknown]) for s in surveys if s.first[unknown] >= 0)
            raise ValueError(LabelMap(ids, void).unknown_value(source.names[i], unknown))
        return names, ids
    if len(values) > MAX_CLASSES:
        raise ValueError(
            f"{source.where}: the masks have {len(values):,} different values: values are classes, at most "
            f"{MAX_CLASSES:,}; classes.txt beside them names the classes"
        )
    if len(values) < 2:
        only = f"the value {values[0]}" if values else "no value"
        raise ValueError(
            f"{source.where}: the masks have {only} beside void ({', '.join(map(str, void)) or 'none'}): there is "
            "nothing to tell apart; --settings.ignore-index names another void, or none"
        )
    return tuple(map(str, values)), tuple(values)


def loss(logits: Tensor, y: Tensor, config: LabelsConfig) -> Tensor:
    """Cross entropy of logits [B, M, h, w], enlarged to the classes y [B, H, W]; void pixels count 0.

    Divided by all pixels, as mmsegmentation does: so it is the same however a batch is cut into micro-batches.
    """
    logits = F.interpolate(logits.float(), y.shape[1:], mode="bilinear", align_corners=False)
    weight = logits.new_tensor(config.weights) if config.weights else None
    return F.cross_entropy(logits, y, weight, ignore_index=VOID, reduction="sum") / y.numel()

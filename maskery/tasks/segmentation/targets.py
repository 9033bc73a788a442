"""What segmentation does with masks: classes, void, parts of the data, the loss.

B batch, M classes, H x W pixels
"""

import json
from dataclasses import replace
from typing import Literal

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from ...data.dataset import ImageData, check_unreadable
from ...data.masks import VOID, MaskSurvey, Meaning, survey_masks
from ...data.sources.source import Source
from ...evals.label_subset import Few, draw
from ...terminal import Terminal
from ..labels import LabelsConfig, apart, parts

MOST = 1000  # classes: beyond that they are instances, or no classes at all
MOST_WEIGHT = 10.0  # of a class when they are balanced, before all are scaled


Zero = Literal["auto", "on", "off"]  # whether 0 is void; auto: in ADE20K's layout


def void(source: Source, ignore: int | None, zero: Zero) -> tuple[int, ...]:
    """The values of void in the masks of a source."""
    too = zero == "on" or (zero == "auto" and source.zero_is_void)
    return tuple(dict.fromkeys([*([] if ignore is None else [ignore]), *([0] if too else [])]))


def prepared(
    config: LabelsConfig, ids: tuple[int, ...], data: ImageData, ignore: int | None, zero: Zero
) -> tuple[LabelsConfig, tuple[int, ...], ImageData]:
    """The classes and the values they have in masks, and the images with masks: to train on, to choose by, held out.

    All masks are read, unless the classes are known. ValueError in one line for masks that cannot be learned from.
    """
    source, few = data.images.source, Few.of(config.share, config.shots)
    if source.masks is None:
        raise ValueError(f"{source.where}: opened without masks: --images.masks")
    train, held_out, tune = (part[source.masks[part]] for part in parts(data))
    if not len(train) or not len(held_out):
        raise ValueError(f"{source.where}: {len(train)} training and {len(held_out)} held-out images have masks")
    whole = np.concatenate([train, held_out, tune])
    nobody = np.zeros(len(source), np.int64)  # images are of no class here
    if few:
        if few.shots is not None:
            raise ValueError("--shots counts images of a class, and a mask has many: --labels 10% takes a share")
        train = draw(nobody, train, ("",), few, config.draw).indices
    if not len(tune) and config.tune and len(train) > 1:
        train, tune = apart(train, nobody[train], config.tune, config.draw)
    if not config.classes or (config.balanced and not config.weights):
        with Terminal().bar("reading masks") as tick:
            own = survey_masks(source, train, lambda done, _: tick(done, len(whole)))
            others = np.setdiff1d(whole, train)
            rest = survey_masks(source, others, lambda done, _: tick(len(train) + done, len(whole)))
        bad = [*own.unreadable, *rest.unreadable]
        check_unreadable(source.where, bad, len(whole), data.config.unreadable)
        names, ids = classes(source, (own, rest), void(source, ignore, zero))
        config = replace(config, classes=json.dumps(names, ensure_ascii=False))
        if config.balanced:
            config = replace(config, weights=weights(own.pixels[list(ids)]))
    return config, ids, replace(data, train=train, held_out=held_out, validation=tune)


def classes(
    source: Source, surveys: tuple[MaskSurvey, ...], nothing: tuple[int, ...]
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """(names, values in masks). ValueError naming a file and its value that is no class, and for too few or many."""
    there = [v for v in np.flatnonzero(sum(s.pixels for s in surveys)).tolist() if v not in nothing]
    names = source.mask_classes
    if names:
        first = 1 if 0 in nothing else 0
        ids = tuple(range(first, first + len(names)))
        for value in there:
            if value not in ids:
                i = next(int(s.first[value]) for s in surveys if s.first[value] >= 0)
                raise ValueError(Meaning(ids, nothing).strange(source.names[i], value))
        return names, ids
    if len(there) > MOST:
        raise ValueError(
            f"{source.where}: the masks have {len(there):,} different values: values are classes, at most {MOST:,}; "
            "classes.txt beside them names those there should be"
        )
    if len(there) < 2:
        only = f"the value {there[0]}" if there else "no value"
        raise ValueError(
            f"{source.where}: the masks have {only} beside void ({', '.join(map(str, nothing)) or 'none'}): there is "
            "nothing to tell apart; --settings.ignore-index names another void, or none"
        )
    return tuple(map(str, there)), tuple(there)


def weights(counts: np.ndarray) -> tuple[float, ...]:
    """[M] of the loss: by the inverse of how many pixels a class has, 1 in the mean over pixels.

    Ours: none is above ten times that of a class of average size, or the few pixels of a rare class would be all.
    """
    inverse = np.divide(counts.sum() / len(counts), counts, out=np.zeros(len(counts)), where=counts > 0)
    inverse = inverse.clip(max=MOST_WEIGHT)
    inverse /= (inverse * counts).sum() / counts.sum()
    return tuple(round(float(w), 6) for w in inverse)


def loss(logits: Tensor, y: Tensor, config: LabelsConfig) -> Tensor:
    """Cross entropy of logits [B, M, h, w], enlarged to the classes y [B, H, W]; void pixels count 0.

    Divided by all pixels, as mmsegmentation does: so it is the same however a batch is cut into micro-batches.
    """
    logits = F.interpolate(logits.float(), y.shape[1:], mode="bilinear", align_corners=False)
    weight = logits.new_tensor(config.weights) if config.weights else None
    return F.cross_entropy(logits, y, weight, ignore_index=VOID, reduction="sum") / y.numel()

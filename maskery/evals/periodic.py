"""What is looked at while a run goes on: held-out losses under fixed masks, features, kNN, a strip of the same images.

The same images, crops and masks every time, so that the numbers and pictures of different steps can be compared.
"""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..config import WatchConfig
from ..data.crops import CenterCrop, Crop
from ..data.dataset import ImageData, spread
from ..data.eval_dataset import EvalDataset
from ..data.loader import eval_batches
from ..data.views import to_float
from ..nn.baselines import image_facts
from ..objective import Batch, Objective
from ..outputs import write_file
from ..pictures.strip import strip
from .features import features
from .knn import knn_of_features
from .rank import effective_rank, feature_spread

MASK_SEED = 20_220_619
BASELINES = "baselines.json"  # in the run directory


@torch.no_grad()
def look(
    objective: Objective,
    data: ImageData,
    watch: WatchConfig,
    step: int,
    t: float,
    out: Path,
    precision: torch.dtype,
    workers: int,
) -> dict[str, float]:
    """Numbers of the network as it is now; writes `samples/step-XXXXXXXX.png`, and the first time `baselines.json`."""
    device = next(objective.parameters()).device
    size = objective.encoder.config.image_size
    names = objective.views(Crop())
    was_training = objective.training
    objective.eval()
    numbers: dict[str, float] = {}

    if len(data.held_out) and not objective.labelled:  # the batch is fixed too: masks are drawn for a whole batch
        torch.manual_seed(MASK_SEED)
        totals: Counter[str] = Counter()
        guessed: Counter[tuple[str, ...]] = Counter()
        count, first = 0, not (out / BASELINES).exists()
        chosen = spread(data.held_out, watch.held_out)
        for part in eval_batches(EvalDataset(data.images, chosen, CenterCrop(size), 64, device), workers):
            if part["images"] is None:
                continue
            image = whole_groups(to_float(part["images"], device), objective.micro_batch_multiple)
            with torch.autocast(device.type, precision, enabled=precision != torch.float32):
                batch = objective.sample(dict.fromkeys(names, image), t)
                losses = objective(batch, t)
            totals.update({f"held_out_{name}": float(value) * len(image) for name, value in losses.items()})
            guessed.update(scale(objective, image, batch, len(image)) if first else {})
            count += len(image)
        numbers |= {name: total / count for name, total in totals.items()}
        if first and count:
            write_file(
                out / BASELINES, json.dumps(tree(guessed, count) | {"held_out": len(data.held_out)}, indent=1).encode()
            )

    if watch.pictures:
        shown = spread(data.held_out if len(data.held_out) else data.train, watch.pictures)
        part = next(iter(eval_batches(EvalDataset(data.images, shown, CenterCrop(size), len(shown), device))))
        if part["images"] is not None:
            torch.manual_seed(MASK_SEED)
            image = whole_groups(to_float(part["images"], device), objective.micro_batch_multiple)
            beside = objective.picture_targets(data, part["indices"][: len(image)])
            batch = objective.sample(dict.fromkeys(names, image) | beside, t)
            which = "held-out images" if len(data.held_out) else "training images (nothing is held out)"
            title = f"step {step}: {which}, always the same images and draws"
            samples = out / "samples"
            samples.mkdir(exist_ok=True)
            strip(objective.picture(batch), samples / f"step-{step:08d}.png", title)

    if objective.labelled:
        numbers |= objective.validate(data, watch.held_out, precision, workers)
    else:
        numbers |= of_features(objective, data, watch, precision, workers)
    objective.train(was_training)
    return numbers


def scale(objective: Objective, image: Tensor, batch: Batch, count: int) -> dict[tuple[str, ...], float]:
    """What guesses would lose on a batch, and what its images are like, times `count`."""
    guesses, x = objective.trivial_baselines(batch), objective.encoder.normalise(image)
    found = {("guesses", loss, words): v for loss, by in guesses.items() for words, v in by.items()}
    facts = image_facts(x, objective.encoder.config.patch_size)
    return {keys: value * count for keys, value in (found | {(name,): v for name, v in facts.items()}).items()}


def tree(totals: Counter[tuple[str, ...]], count: int) -> dict[str, Any]:
    """Means over `count` images of totals by path."""
    made: dict[str, Any] = {"images": count}
    for (*path, name), total in totals.items():
        place = made
        for part in path:
            place = place.setdefault(part, {})
        place[name] = total / count
    return made


def whole_groups(image: Tensor, group: int) -> Tensor:
    """A batch [B, C, H, W] cut to a multiple of `group` images, or filled up from its start when it has too few."""
    short = group - len(image)
    if short > 0:
        return image[torch.arange(group, device=image.device) % len(image)]
    return image[: len(image) // group * group]


def of_features(
    objective: Objective, data: ImageData, watch: WatchConfig, precision: torch.dtype, workers: int
) -> dict[str, float]:
    """Rank and spread of held-out features; accuracy of 20 neighbours among training images where there are labels."""
    labels, held_out = data.labels, data.held_out
    if labels is not None:
        voters, asked = (x[labels[x] >= 0] for x in (data.train, data.held_out))
        voters, asked = (spread(x, most) for x, most in ((voters, watch.knn_bank), (asked, watch.knn_queries)))
        if len(voters) and len(asked):
            bank, queries = (
                features(objective.encoder, data.images, x, workers=workers, precision=precision)
                for x in (voters, asked)
            )
            return knn_of_features(bank, queries, labels, len(data.classes)) | of_rank(queries.mean_patch)
    if len(held_out) < 2 or watch.held_out < 2:
        return {}
    which = spread(held_out, watch.held_out)
    return of_rank(features(objective.encoder, data.images, which, workers=workers, precision=precision).mean_patch)


def of_rank(mean_patch: Tensor) -> dict[str, float]:
    return {"effective_rank": effective_rank(mean_patch), "feature_spread": feature_spread(mean_patch)}

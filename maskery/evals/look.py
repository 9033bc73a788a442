"""What is looked at while a run goes on: held-out loss under fixed masks, kNN, a strip of the same images.

The same images, crops and masks every time, so that the numbers and pictures of different steps can be compared.
"""

from pathlib import Path

import torch
from torch import Tensor

from ..config import WatchConfig
from ..data.dataset import Data, spread
from ..data.loader import centred
from ..data.views import Crop, to_float
from ..objective import Objective
from ..report.pictures import strip
from .features import features
from .knn import knn_of_features

MASK_SEED = 20_220_619


@torch.no_grad()
def look(
    objective: Objective,
    data: Data,
    watch: WatchConfig,
    step: int,
    t: float,
    samples: Path,
    precision: torch.dtype,
    workers: int,
) -> dict[str, float]:
    """Numbers of the network as it is now; writes `samples/step-XXXXXXXX.png`."""
    device = next(objective.parameters()).device
    size = objective.encoder.config.image_size
    names = objective.views(Crop())
    was_training = objective.training
    objective.eval()
    numbers: dict[str, float] = {}

    if len(data.held_out) and not objective.labelled:  # the batch is fixed too: masks are drawn for a whole batch
        torch.manual_seed(MASK_SEED)
        total, count = 0.0, 0
        for part in centred(data.images, spread(data.held_out, watch.held_out), size, 64, workers, device):
            if part["images"] is None:
                continue
            image = whole_groups(to_float(part["images"], device), objective.group)
            with torch.autocast(device.type, precision, enabled=precision != torch.float32):
                losses = objective(objective.draw(dict.fromkeys(names, image), t), t)
            total, count = total + float(losses["loss"]) * len(image), count + len(image)
        if count:
            numbers["held_out_loss"] = total / count

    if watch.pictures:
        shown = spread(data.held_out if len(data.held_out) else data.train, watch.pictures)
        part = next(iter(centred(data.images, shown, size, len(shown), device=device)))
        if part["images"] is not None:
            torch.manual_seed(MASK_SEED)
            image = whole_groups(to_float(part["images"], device), objective.group)
            beside = objective.truth(data, part["indices"][: len(image)])
            batch = objective.draw(dict.fromkeys(names, image) | beside, t)
            which = "held-out images" if len(data.held_out) else "training images (nothing is held out)"
            title = f"step {step}: {which}, always the same images and draws"
            samples.mkdir(exist_ok=True)
            strip(objective.picture(batch), samples / f"step-{step:08d}.png", title)

    if objective.labelled:
        numbers |= objective.measure(data, watch.held_out, precision, workers)
    else:
        numbers |= knn_of(objective, data, watch, precision, workers)
    objective.train(was_training)
    return numbers


def whole_groups(image: Tensor, group: int) -> Tensor:
    """A batch [B, C, H, W] cut to a multiple of `group` images, or filled up from its start when it has too few."""
    short = group - len(image)
    if short > 0:
        return image[torch.arange(group, device=image.device) % len(image)]
    return image[: len(image) // group * group]


def knn_of(
    objective: Objective, data: Data, watch: WatchConfig, precision: torch.dtype, workers: int
) -> dict[str, float]:
    """Accuracy of 20 neighbours among training images on held-out images; empty without labels."""
    if data.labels is None or not watch.knn_bank or not watch.knn_queries:
        return {}
    labelled = [x[data.labels[x] >= 0] for x in (data.train, data.held_out)]
    if not all(map(len, labelled)):
        return {}
    voting, asked = (
        features(objective.encoder, data.images, spread(x, most), workers=workers, precision=precision)
        for x, most in zip(labelled, (watch.knn_bank, watch.knn_queries), strict=True)
    )
    return knn_of_features(voting, asked, data.labels, len(data.classes))

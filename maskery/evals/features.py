"""Features of many images: deterministic, unmasked, from the centre of each image.

n images, D width
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..data.crops import CenterCrop
from ..data.eval_dataset import EvalDataset
from ..data.images import Images, Skips
from ..data.loader import eval_batches
from ..data.views import to_float
from ..nn.vit import ViT


@dataclass(frozen=True)
class Features:
    """What an encoder says about the images that could be read."""

    class_token: Tensor  # [n, D] float32, CPU
    mean_patch: Tensor  # [n, D] mean of the patch tokens
    indices: np.ndarray  # [n] which images of the source
    skipped: Skips


@torch.no_grad()
def features(
    encoder: ViT,
    images: Images,
    indices: np.ndarray,
    *,
    batch: int | None = None,
    workers: int = 0,
    precision: torch.dtype = torch.float32,
    progress: Callable[[int, int], None] | None = None,
) -> Features:
    """Class token and mean patch token after the last norm. ValueError when none of the images can be read."""
    device = encoder.mean.device
    batch = batch or (256 if device.type == "cuda" else 64)  # more falls out of a CPU's cache: 420 images/s, not 600
    was_training = encoder.training
    encoder.eval()
    classes, means, read, skipped, done = [], [], [], [], 0
    dataset = EvalDataset(images, indices, CenterCrop(encoder.config.image_size), batch, device)
    for part in eval_batches(dataset, workers):
        skipped += part["skipped"]
        done += len(part["indices"]) + len(part["skipped"])
        if part["images"] is not None:
            with torch.autocast(device.type, precision, enabled=precision != torch.float32):
                class_token, patches = encoder(to_float(part["images"], device))
            classes.append(class_token.float())
            means.append(patches.float().mean(1))
            read.append(part["indices"])
        if progress:
            progress(done, len(indices))
    encoder.train(was_training)
    if not read:
        raise ValueError(f"{images.source.where}: none of the {len(indices)} images can be read")
    return Features(torch.cat(classes).cpu(), torch.cat(means).cpu(), np.concatenate(read), skipped)

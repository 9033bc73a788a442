"""Features of many images: deterministic, unmasked, from the centre of each image; signs of their collapse.

n images, D width
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.crops import CenterCrop
from ..data.images import Images, Skips
from ..data.views import to_float
from ..nn.vit import ViT
from .eval_pass import DEFAULTS, EvalPass, InferenceOptions, eval_mode


@dataclass(frozen=True)
class Features:
    """Features of the images that could be read."""

    class_token: Tensor  # [n, D] float32, CPU
    mean_patch: Tensor  # [n, D] mean of the patch tokens
    indices: np.ndarray  # [n] which images of the source
    skipped: Skips

    def subset(self, indices: np.ndarray) -> "Features":
        """Features of those of `indices` that could be read."""
        at = np.flatnonzero(np.isin(self.indices, indices))
        rows = torch.from_numpy(at)
        return Features(self.class_token[rows], self.mean_patch[rows], self.indices[at], [])


@torch.no_grad()
def features(encoder: ViT, images: Images, indices: np.ndarray, options: InferenceOptions = DEFAULTS) -> Features:
    """Class token and mean patch token after the last norm, on the encoder's device.

    ValueError when none of the images can be read.
    """
    options = replace(options, device=encoder.mean.device)
    crops = EvalPass.of(images, indices, CenterCrop(encoder.config.image_size), options)
    classes, means = [], []
    with eval_mode(encoder):
        for part in crops:
            with options.autocast():
                class_token, patches = encoder(to_float(part["images"], options.device))
            classes.append(class_token.float())
            means.append(patches.float().mean(1))
    return Features(torch.cat(classes).cpu(), torch.cat(means).cpu(), crops.indices, crops.skipped)


def effective_rank(features: Tensor) -> float:
    """RankMe (Garrido et al. 2023): exp of the entropy of the singular values, of centred features [n, D]; 1 to D.

    Centred, because the mean of all images would otherwise be the one direction that hides the others.
    """
    s = torch.linalg.svdvals((features - features.mean(0)).double())
    p = s / s.sum().clamp_min(1e-30)
    return float(torch.special.entr(p).sum().exp())


def feature_spread(features: Tensor) -> float:
    """Std over images of features [n, D] of length 1, times sqrt(D): 0 where all are one, 1 where spread evenly."""
    x = F.normalize(features.double(), dim=1)
    return float(x.std(0, correction=0).square().mean().sqrt() * features.shape[1] ** 0.5)

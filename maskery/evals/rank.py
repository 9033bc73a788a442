"""How many directions features use, and how much they differ between images: what collapses when training goes wrong.

n images, D width
"""

import torch
import torch.nn.functional as F
from torch import Tensor


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

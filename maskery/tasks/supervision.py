"""What all objectives that learn from labels have in common.

B batch, D width, n features
"""

import abc
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data.crops import Crop
from ..data.dataset import ImageData, spread
from ..distributed import summed
from ..nn.vit import ViT, ViTConfig, drop_paths
from ..objective import Batch, Objective
from .labels import LabelsConfig

CHUNK = {"cpu": 64, "cuda": 256}  # images of 224 x 224 that a frozen encoder takes: more fall out of a CPU's cache
MOMENTUM = 0.1  # of the running mean and variance
EPS = 1e-6
ABOVE_0, BELOW_1 = math.nextafter(0.0, 1.0), math.nextafter(1.0, 0.0)  # for open ends of a range


class SupervisedObjective(Objective, abc.ABC):
    """Its settings have `labels: LabelsConfig`."""

    labelled = True
    no_weight_decay = ("encoder.cls_token", "encoder.pos_embed")  # as in MAE's code
    config: Any
    mean: Tensor  # running averages, where `normalises` was called
    var: Tensor
    step_statistics: Tensor | None = None  # of this step's features, until `after_step`: see `statistics`

    @property
    def labels(self) -> LabelsConfig:
        return self.config.labels

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def views(self, crop: Crop) -> dict[str, Crop]:
        return {"image": crop}

    def metrics(self, data: ImageData, indices: np.ndarray, precision: torch.dtype, workers: int) -> dict[str, float]:
        """What `validate` says of these images."""
        return {}

    def validate(self, data: ImageData, most: int, precision: torch.dtype, workers: int) -> dict[str, float]:
        values = {}
        for prefix, indices in (("", data.held_out), ("tune_", data.validation)):
            if len(indices):
                numbers = self.metrics(data, spread(indices, most), precision, workers)
                values |= {prefix + name: value for name, value in numbers.items()}
        return values

    def sample_encoder(self, image: Tensor, features: Callable[[Tensor], Tensor]) -> Batch:
        """What a step needs from the encoder: `features` of a frozen one, else the `paths` that are dropped."""
        if self.config.freeze:
            return {"features": in_chunks(features, image)}
        if self.config.drop_path:
            return {"paths": drop_paths(len(image), len(self.encoder.blocks), self.config.drop_path, image.device)}
        return {}

    def track_statistics(self, width: int) -> None:
        """Batch-normalise features as BatchNorm does without affine parameters; running averages move after steps."""
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("var", torch.ones(width))

    def batch_normalised(self, h: Tensor, together: bool = True) -> Tensor:
        """Features [..., n] by this step's mean and variance, over the batches of all processes `together`."""
        self.step_statistics = statistics(h.flatten(0, -2), together)
        return (h - self.step_statistics[0]) * (self.step_statistics[1] + EPS).rsqrt()

    def normalised(self, h: Tensor) -> Tensor:
        """Features [..., n] by the running averages."""
        return (h - self.mean) * (self.var + EPS).rsqrt()

    @torch.no_grad()
    def after_step(self, t: float) -> None:
        if self.step_statistics is not None:
            self.mean.lerp_(self.step_statistics[0], MOMENTUM)
            self.var.lerp_(self.step_statistics[2], MOMENTUM)
            self.step_statistics = None


def supervised_encoder(vit: ViTConfig, train: bool = True) -> ViT:
    """An encoder of which everything is trained, positions too, or nothing."""
    encoder = ViT(vit).requires_grad_(train)
    encoder.pos_embed.requires_grad_(train)
    return encoder


def check_range(config: Any, *names: str, low: float = 0.0, high: float = math.inf, note: str = "") -> None:
    """ValueError that names the first of these settings that is out of the range; None is in every range."""
    for name in names:
        value = getattr(config, name)
        if value is not None and not low <= value <= high:
            limits = f"at least {low:g}" if math.isinf(high) else f"between {round(low, 9):g} and {round(high, 9):g}"
            raise ValueError(f"--settings.{name.replace('_', '-')} is {value}: {limits}{note}")


@torch.no_grad()
def in_chunks(features: Callable[[Tensor], Tensor], image: Tensor) -> Tensor:
    """Features of a frozen encoder in float32, computed for as many pixels at a time as CHUNK images have."""
    size = max(1, CHUNK.get(image.device.type, 256) * 224 * 224 // (image.shape[2] * image.shape[3]))
    return torch.cat([features(part).float() for part in image.split(size)])


def statistics(h: Tensor, together: bool = True) -> Tensor:
    """Mean, variance and unbiased variance of each feature [3, n], over the batches of all processes `together`."""
    sums = torch.stack([h.double().sum(0), h.double().square().sum(0), torch.full_like(h[0], len(h)).double()])
    sums = summed(sums) if together else sums
    n = sums[2]
    mean = sums[0] / n
    var = (sums[1] / n - mean.square()).clamp_min(0)
    return torch.stack([mean, var, var * n / (n - 1).clamp_min(1)]).float()

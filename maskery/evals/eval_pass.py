"""How a network is run over many images when it is evaluated: options, and one pass over the images."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from ..data.crops import EvalCrop
from ..data.eval_dataset import EvalDataset
from ..data.images import Images, Skips
from ..data.loader import eval_batches
from ..data.views import CPU
from ..terminal import Tick, no_progress


@dataclass(frozen=True)
class InferenceOptions:
    device: torch.device = CPU
    precision: torch.dtype = torch.float32
    workers: int = 0  # processes that read and decode
    batch_size: int | None = None  # None: what suits the device
    progress: Tick = no_progress

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.precision, enabled=self.precision != torch.float32)

    def batch(self, cuda: int, cpu: int) -> int:
        """Images of a batch: as many as were asked for, or what suits the device."""
        return self.batch_size or (cuda if self.device.type == "cuda" else cpu)


DEFAULTS = InferenceOptions()


class EvalPass:
    """Iterates over the batches in which an image can be read, as `EvalDataset` makes them, and reports progress.

    Afterwards `indices` are the images that were read, and `skipped` the others. ValueError when none can be read.
    """

    def __init__(self, dataset: EvalDataset, options: InferenceOptions):
        self.dataset, self.options = dataset, options
        self.skipped: Skips = []
        self._read: list[int] = []

    @classmethod
    def of(cls, images: Images, indices: np.ndarray, crop: EvalCrop, options: InferenceOptions) -> "EvalPass":
        """Open views of one size, in batches that suit the device."""
        batch = options.batch(cuda=256, cpu=64)  # more falls out of a CPU's cache: 420 images/s, not 600
        return cls(EvalDataset(images, indices, crop, batch, options.device), options)

    @property
    def indices(self) -> np.ndarray:
        """[n] of the source, in order."""
        return np.array(self._read, np.int64)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        total = len(self.dataset.indices)
        for part in eval_batches(self.dataset, self.options.workers):
            self.skipped += part["skipped"]
            self._read += part["indices"].tolist()
            if part["images"] is not None:
                yield part
            self.options.progress(len(self._read) + len(self.skipped), total)
        if not self._read:
            raise ValueError(f"{self.dataset.images.source.where}: none of the {total} images can be read")


def skipped_notes(skipped: Skips) -> list[str]:
    """A warning about images that could not be read, with the first of them; none when all could."""
    text = "{} images could not be read and are left out ({}: {})"
    return [text.format(len(skipped), name, reason) for name, reason in skipped[:1]]


@contextmanager
def eval_mode(module: nn.Module) -> Iterator[None]:
    """Put a module into eval mode, and back into its own mode afterwards."""
    training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(training)

"""One pass over images that a network is evaluated on."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from torch import nn

from ..data.eval_dataset import EvalDataset
from ..data.images import Skips
from ..data.loader import eval_batches
from .inference_options import InferenceOptions


class EvalPass:
    """Iterates over the batches in which an image can be read, as `EvalDataset` makes them, and reports progress.

    Afterwards `indices` are the images that were read, and `skipped` the others. ValueError when none can be read.
    """

    def __init__(self, dataset: EvalDataset, options: InferenceOptions):
        self.dataset, self.options = dataset, options
        self.skipped: Skips = []
        self._read: list[int] = []

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
            self.options.tick(len(self._read) + len(self.skipped), total)
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

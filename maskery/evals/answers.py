"""What a network answers to every question about some images: each image is looked at once, whole.

b images, Q questions of each at a time, L tokens of each, M answers
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ..data.crops import WholeImage
from ..data.dataset import ImageData
from ..data.eval_dataset import EvalDataset
from ..data.images import Skips
from ..data.loader import eval_batches
from ..data.sources.vqa_v2 import VqaSource
from ..data.views import to_float

AT_ONCE = {"cuda": 256}  # images; 64 elsewhere


class Answering(Protocol):
    def look(self, image: Tensor) -> Tensor:
        """Images [b, C, h, w] in [0, 1] -> what is kept of them."""
        ...

    def ask(self, f: Tensor, tokens: Tensor) -> Tensor:
        """What was kept of b images, questions [b, Q, L] -> logits [b, Q, M]."""
        ...

    def tokens(self, questions: Sequence[str]) -> np.ndarray:
        """[q, L]."""
        ...


@dataclass(frozen=True)
class Answers:
    """To the questions about the images that could be read."""

    numbers: list[int]  # [q] which questions of the source
    best: list[int]  # [q] of the vocabulary
    sure: list[float]  # [q] its probability
    indices: np.ndarray  # images
    skipped: Skips = field(default_factory=list)


@torch.no_grad()
def answers(
    network: Answering,
    data: ImageData,
    indices: np.ndarray,
    size: tuple[int, int],
    device: torch.device,
    *,
    at_once: int,
    precision: torch.dtype = torch.float32,
    workers: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Answers:
    """Ask every question once, `at_once` of an image together. ValueError when no image can be read, and for NaN."""
    source = data.images.source
    assert isinstance(source, VqaSource)
    numbers: list[int] = []
    best: list[int] = []
    sure: list[float] = []
    read: list[int] = []
    skipped: Skips = []
    dataset = EvalDataset(data.images, indices, WholeImage(size), AT_ONCE.get(device.type, 64), device)
    for part in eval_batches(dataset, workers):
        skipped += part["skipped"]
        if part["images"] is None:
            continue
        with torch.autocast(device.type, precision, enabled=precision != torch.float32):
            seen = network.look(to_float(part["images"], device))
            of_image = [source.numbers(np.array([i])) for i in part["indices"].tolist()]
            for first in range(0, max(map(len, of_image)), at_once):
                rows = [i for i, each in enumerate(of_image) if len(each) > first]
                each = [of_image[i][first : first + at_once] for i in rows]
                logits = network.ask(seen[torch.tensor(rows, device=device)], together(network, source, each, at_once))
                for row, asked in zip(logits.float().cpu(), each, strict=True):
                    if not bool(row.isfinite().all()):
                        raise ValueError(f"{source.names[int(part['indices'][0])]}: the answer is not finite")
                    probability, place = row[: len(asked)].sigmoid().max(1)
                    numbers += asked
                    best += place.tolist()
                    sure += probability.tolist()
        read += part["indices"].tolist()
        if progress:
            progress(len(read) + len(skipped), len(indices))
    if not read:
        raise ValueError(f"{source.where}: none of the {len(indices)} images can be read")
    return Answers(numbers, best, sure, np.array(read), skipped)


def together(network: Answering, source: VqaSource, each: Sequence[Sequence[int]], at_once: int) -> Tensor:
    """The tokens of some questions of each image, [b, Q, L]; those of none are empty."""
    tokens = network.tokens([source.text(k) for of_image in each for k in of_image])
    found = np.zeros((len(each), at_once, tokens.shape[1]), np.int64)
    start = 0
    for row, of_image in zip(found, each, strict=True):
        row[: len(of_image)] = tokens[start : start + len(of_image)]
        start += len(of_image)
    return torch.from_numpy(found)

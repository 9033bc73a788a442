"""Images with the questions about them as batches: an image once, with all that it is asked at that time.

So an epoch is one of images, each is decoded and looked at once for all its questions, and all of them are learned
from. The sample at global position i is a function of (seed, i) alone, as in `loader.py`.
n images, q questions, b images of a batch, Q questions of each, L tokens of each, A answers of one that may be learned
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from .crops import UNIFORMS, Crop
from .decode.picture import Box
from .images import Images
from .loader import CPU, Centred, Draws, Plan, loader

NOBODY = -1  # in place of an answer, where there are fewer


@dataclass(frozen=True)
class Asked:
    """What b images are asked, padded to Q questions: micro-batches are cut along the images."""

    tokens: Tensor  # [b, Q, L] int64
    real: Tensor  # [b, Q] bool: no padding
    answers: Tensor  # [b, Q, A] int64, positions in the vocabulary, NOBODY where there are fewer
    scores: Tensor  # [b, Q, A] float32: what each is worth

    def __len__(self) -> int:
        return len(self.tokens)

    def to(self, device: torch.device, non_blocking: bool = False) -> Self:
        return type(self)(*(getattr(self, f.name).to(device, non_blocking=non_blocking) for f in fields(self)))

    @classmethod
    def joined(cls, parts: Sequence["Asked"]) -> Self:
        return cls(*(torch.cat([getattr(part, f.name) for part in parts]) for f in fields(cls)))

    def targets(self, count: int) -> Tensor:
        """What each of `count` answers is worth, [b, Q, count]."""
        there = self.answers != NOBODY
        empty = self.scores.new_zeros(*self.answers.shape[:2], count)
        return empty.scatter_add(2, self.answers.clamp(min=0), self.scores * there)


@dataclass(frozen=True)
class Table:
    """All questions of a source, ready for a network. Rows of those that are not learned from are empty."""

    first: np.ndarray  # [n + 1] int64: the questions of image i begin there
    tokens: np.ndarray  # [q, L] int32
    answers: np.ndarray  # [q, A] int32
    scores: np.ndarray  # [q, A] float32
    most: int  # Q

    def asked(self, chosen: Sequence[np.ndarray]) -> Asked:
        """The questions that are `chosen` of each of b images, by number."""
        shape = (len(chosen), self.most)
        real, rows = np.zeros(shape, bool), np.zeros(shape, np.int64)
        for i, numbers in enumerate(chosen):
            real[i, : len(numbers)], rows[i, : len(numbers)] = True, numbers
        answers = np.where(real[..., None], self.answers[rows], NOBODY)
        return Asked(
            torch.from_numpy(np.where(real[..., None], self.tokens[rows], 0).astype(np.int64)),
            torch.from_numpy(real),
            torch.from_numpy(answers.astype(np.int64)),
            torch.from_numpy(np.where(answers != NOBODY, self.scores[rows], 0).astype(np.float32)),
        )

    def turn(self, i: int, seed: int, epoch: int) -> np.ndarray:
        """The questions that image i is asked in an epoch, by number: all, or the next Q of them in a drawn order."""
        a, count = int(self.first[i]), int(self.first[i + 1] - self.first[i])
        if count <= self.most:
            return a + np.arange(count)
        order = np.random.default_rng([seed, i]).permutation(count)
        return a + order[(epoch * self.most + np.arange(self.most)) % count]


@dataclass(frozen=True)
class Whole(Crop):
    """All of an image, or a drawn part with at least `keep` of each side; never mirrored: left stays left."""

    keep: float = 1.0
    flip: float = 0.0

    def draw(self, height: int, width: int, size: tuple[int, int], u: np.ndarray) -> tuple[Box, bool]:
        share = self.keep + float(u[0]) * (1 - self.keep)
        h, w = max(1, round(share * height)), max(1, round(share * width))
        top, left = int(u[1] * (height - h + 1)), int(u[2] * (width - w + 1))
        return (left, top, left + w, top + h), False


class QuestionDraws(Draws):
    """As `Draws` of one view, with "label": `Asked`."""

    def __init__(
        self,
        images: Images,
        indices: np.ndarray,
        size: tuple[int, int],
        seed: int,
        plan: Plan,
        device: torch.device = CPU,
        *,
        table: Table,
        keep: float,
    ):
        assert UNIFORMS >= 3
        super().__init__(images, indices, [Whole(keep=keep)], size, seed, plan, device)
        self.labels = np.arange(len(images))  # which images were really read
        self.table = table

    def __getitem__(self, k: int) -> dict[str, Any]:
        item, (start, _) = super().__getitem__(k), self.span(k)
        epochs = [(start + j) // len(self.indices) for j in range(len(item["label"]))]
        each = zip(item["label"].tolist(), epochs, strict=True)
        return item | {"label": self.table.asked([self.table.turn(i, self.seed, epoch) for i, epoch in each])}


class Wholly(Centred):
    """As `Centred`, but all of each image, whatever its shape."""

    def boxes(self, height: int, width: int) -> tuple[Box, Box]:
        return (whole := (0, 0, width, height)), whole


def wholly(
    images: Images, indices: np.ndarray, size: tuple[int, int], batch: int, workers: int, device: torch.device
) -> Iterator[dict[str, Any]]:
    """All of `indices` once, in order; what cannot be read is left out and named."""
    dataset = Wholly(images, indices, size, batch, device)
    yield from loader(dataset, range(len(dataset)), workers, device)

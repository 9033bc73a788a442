"""Images with questions: an image once, with all questions about it at that time.

So an epoch is one of images: each is decoded and encoded once for all its questions, and all of them are learned from.
n images, q questions, b images of a batch, Q questions of each, L tokens of each, A answers of one that may be learned
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Self

import numpy as np
import torch
from torch import Tensor

from .crops import ViewBox
from .train_dataset import Sample, Target

NO_ANSWER = -1  # in place of an answer, where there are fewer


@dataclass(frozen=True)
class QuestionTargets:
    """The questions about b images, padded to Q: micro-batches are cut along the images."""

    tokens: Tensor  # [b, Q, L] int64
    real: Tensor  # [b, Q] bool: not padding
    answers: Tensor  # [b, Q, A] int64, positions in the vocabulary, NO_ANSWER where there are fewer
    scores: Tensor  # [b, Q, A] float32: of each answer

    def __len__(self) -> int:
        return len(self.tokens)

    def to(self, device: torch.device, non_blocking: bool = False) -> Self:
        return type(self)(*(getattr(self, f.name).to(device, non_blocking=non_blocking) for f in fields(self)))

    @classmethod
    def cat(cls, parts: Sequence["QuestionTargets"]) -> Self:
        return cls(*(torch.cat([getattr(part, f.name) for part in parts]) for f in fields(cls)))

    def dense_scores(self, count: int) -> Tensor:
        """Return the score of each of `count` answers, [b, Q, count]."""
        zeros = self.scores.new_zeros(*self.answers.shape[:2], count)
        return zeros.scatter_add(2, self.answers.clamp(min=0), self.scores * (self.answers != NO_ANSWER))


@dataclass(frozen=True)
class QuestionTable:
    """All questions of a source, tokenised. Rows of those that are not learned from are empty."""

    first: np.ndarray  # [n + 1] int64: the first question of each image
    tokens: np.ndarray  # [q, L] int32
    answers: np.ndarray  # [q, A] int32
    scores: np.ndarray  # [q, A] float32
    most: int  # Q

    def targets(self, questions: Sequence[np.ndarray]) -> QuestionTargets:
        """Collect questions about each of b images, given by number."""
        shape = (len(questions), self.most)
        real, rows = np.zeros(shape, bool), np.zeros(shape, np.int64)
        for i, numbers in enumerate(questions):
            real[i, : len(numbers)], rows[i, : len(numbers)] = True, numbers
        answers = np.where(real[..., None], self.answers[rows], NO_ANSWER)
        return QuestionTargets(
            torch.from_numpy(np.where(real[..., None], self.tokens[rows], 0).astype(np.int64)),
            torch.from_numpy(real),
            torch.from_numpy(answers.astype(np.int64)),
            torch.from_numpy(np.where(answers != NO_ANSWER, self.scores[rows], 0).astype(np.float32)),
        )

    def questions(self, i: int, seed: int, epoch: int) -> np.ndarray:
        """Return the numbers of the questions about image i in an epoch: all, or the next Q of a random order."""
        first, count = int(self.first[i]), int(self.first[i + 1] - self.first[i])
        if count <= self.most:
            return first + np.arange(count)
        order = np.random.default_rng([seed, i]).permutation(count)
        return first + order[(epoch * self.most + np.arange(self.most)) % count]


@dataclass(frozen=True)
class PartialCrop:
    """A random part with at least `min_side` of each side of the image; never flipped: left stays left."""

    min_side: float = 1.0

    def sample(self, height: int, width: int, size: tuple[int, int], u: np.ndarray) -> ViewBox:
        fraction = self.min_side + float(u[0]) * (1 - self.min_side)
        h, w = max(1, round(fraction * height)), max(1, round(fraction * width))
        top, left = int(u[1] * (height - h + 1)), int(u[2] * (width - w + 1))
        return ViewBox((left, top, left + w, top + h), size)


def question_targets(table: QuestionTable, seed: int) -> Target:
    """Target: `QuestionTargets` about the images in their epoch."""
    return partial(_stack_questions, table, seed)


def _stack_questions(table: QuestionTable, seed: int, samples: Sequence[Sample]) -> QuestionTargets:
    return table.targets([table.questions(sample.index, seed, sample.epoch) for sample in samples])

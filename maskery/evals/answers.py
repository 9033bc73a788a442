"""A network's answers to every question about some images: each image is encoded once, whole.

b images, Q questions of each at a time, L tokens of each, M answers
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ..data.crops import WholeImage
from ..data.eval_dataset import EvalDataset
from ..data.images import Images, Skips
from ..data.sources.vqa_v2 import VqaSource
from ..data.views import to_float
from .eval_pass import EvalPass
from .inference_options import InferenceOptions


class Answering(Protocol):
    def image_features(self, image: Tensor) -> Tensor:
        """Images [b, C, h, w] in [0, 1] -> their features."""
        ...

    def answer_logits(self, f: Tensor, tokens: Tensor) -> Tensor:
        """Features of b images, questions [b, Q, L] -> logits [b, Q, M]."""
        ...

    def tokens(self, questions: Sequence[str]) -> np.ndarray:
        """[q, L]."""
        ...


@dataclass
class Answers:
    """To the questions about the images that could be read."""

    numbers: list[int] = field(default_factory=list)  # [q] which questions of the source
    best: list[int] = field(default_factory=list)  # [q] of the vocabulary
    sure: list[float] = field(default_factory=list)  # [q] its probability
    indices: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))  # images
    skipped: Skips = field(default_factory=list)

    def add(self, questions: Sequence[int], logits: Tensor) -> None:
        """Add the most probable answers; `logits` [Q, M] has a row for each question, and perhaps empty ones."""
        probability, answer = logits[: len(questions)].sigmoid().max(1)
        self.numbers += questions
        self.best += answer.tolist()
        self.sure += probability.tolist()


def whole_images(images: Images, indices: np.ndarray, size: tuple[int, int], options: InferenceOptions) -> EvalPass:
    return EvalPass(EvalDataset(images, indices, WholeImage(size), options.batch(256, 64), options.device), options)


@torch.no_grad()
def answer_questions(network: Answering, images: EvalPass, at_once: int) -> Answers:
    """Answer every question once, `at_once` of an image together. ValueError when no image can be read, and for NaN."""
    source, options, answers = images.dataset.images.source, images.options, Answers()
    assert isinstance(source, VqaSource)
    for part in images:
        by_image = [source.numbers(np.array([i])) for i in part["indices"].tolist()]
        with options.autocast():
            features = network.image_features(to_float(part["images"], options.device))
            for rows, questions in _groups(by_image, at_once):
                tokens = _tokens(network, source, questions, at_once)
                logits = network.answer_logits(features[torch.tensor(rows, device=options.device)], tokens)
                for row, asked in zip(logits.float().cpu(), questions, strict=True):
                    if not bool(row.isfinite().all()):
                        raise ValueError(f"{source.names[int(part['indices'][0])]}: the answer is not finite")
                    answers.add(asked, row)
    answers.indices, answers.skipped = images.indices, images.skipped
    return answers


def _groups(by_image: Sequence[list[int]], at_once: int) -> Iterator[tuple[list[int], list[list[int]]]]:
    """Yield (images of the batch that have questions left, the next questions of each)."""
    for first in range(0, max(map(len, by_image)), at_once):
        rows = [i for i, questions in enumerate(by_image) if len(questions) > first]
        yield rows, [by_image[i][first : first + at_once] for i in rows]


def _tokens(network: Answering, source: VqaSource, questions: Sequence[Sequence[int]], at_once: int) -> Tensor:
    """Tokens of some questions of each image, [b, Q, L]; rows without a question are empty."""
    tokens = network.tokens([source.text(k) for of_image in questions for k in of_image])
    padded = np.zeros((len(questions), at_once, tokens.shape[1]), np.int64)
    start = 0
    for row, of_image in zip(padded, questions, strict=True):
        row[: len(of_image)] = tokens[start : start + len(of_image)]
        start += len(of_image)
    return torch.from_numpy(padded)

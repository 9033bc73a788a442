"""What question answering takes from the data before anything is trained: answers, words, and how many of both.

n images, M answers
"""

import json
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np

from ...data.dataset import ImageData
from ...data.questions import NOBODY, Table
from ...data.sources.vqa_v2 import VqaSource
from ...evals.label_subset import Few, draw
from ...evals.vqa import Truth, normalised, plain
from ...nn.text import Pieces, Tokens, Words, words_of
from ..labels import apart, parts

LONGEST, MOST_ASKED, MOST_WORDS = 20, 8, 20_000  # tokens of a question, questions of an image, words


def prepared(config: Any, data: ImageData) -> tuple[Any, ImageData]:
    """The vocabularies, and the images: to train on, to choose by, held out. ValueError in one line."""
    source, few, known = data.images.source, Few.of(config.labels.share, config.labels.shots), config.labels
    if not isinstance(source, VqaSource):
        raise ValueError(f"{source.where}: opened without questions: --images.questions")
    train, held_out, tune = parts(data)
    nobody = np.zeros(len(source), np.int64)  # images are of no class here
    if few:
        if few.shots is not None:
            raise ValueError("--shots counts images of a class, and these have none: --labels 10% takes a share")
        train = draw(nobody, train, ("",), few, known.draw).indices
    texts, usual = [], Counter()
    for k in source.numbers(train):
        question = source.question(k)
        texts.append(question.text)
        if answer := Truth.of(question.answers).usual:
            usual[answer] += 1
    chosen = tuple(sorted(usual, key=lambda answer: (-usual[answer], answer))[: config.vocabulary])
    forms = Forms(chosen)
    if not any(forms.worth(source.question(k).answers) for k in source.numbers(held_out)):
        raise ValueError(
            f"{source.where}: none of the {len(chosen):,} answers that are learned ({', '.join(chosen[:3])}, ...) is "
            f"right for any of the {source.count(held_out):,} held-out questions"
        )
    words = config.words if config.text else json.dumps(words_of(texts, MOST_WORDS), ensure_ascii=False)
    tokens = tokens_of(config.text, words)
    length = config.length or min(LONGEST, tokens.longest(texts))
    counts = source.first[train + 1] - source.first[train]
    questions = config.questions or min(MOST_ASKED, int(np.ceil(np.percentile(counts, 95))))
    if not len(tune) and known.tune and len(train) > 1:
        train, tune = apart(train, nobody[train], known.tune, known.draw)
        counts = source.first[train + 1] - source.first[train]
    asked = round(float(np.minimum(counts, questions).mean()), 6)
    known = replace(known, classes=json.dumps(chosen, ensure_ascii=False))
    config = replace(config, labels=known, words=words, length=length, questions=questions, asked=asked)
    return config, replace(data, train=train, held_out=held_out, validation=tune)


def tokens_of(text: str | None, words: str) -> Tokens:
    return Pieces(text) if text else Words(json.loads(words or "[]"))


class Forms:
    """Which answers of a vocabulary are right, in whatever form people wrote theirs."""

    def __init__(self, answers: tuple[str, ...]):
        self.answers = answers
        self.exact: dict[str, int] = {plain(answer): m for m, answer in enumerate(answers)}
        self.alike: dict[str, list[int]] = {}
        for m, answer in enumerate(answers):
            self.alike.setdefault(normalised(answer), []).append(m)

    def worth(self, answers: tuple[str, ...]) -> dict[int, float]:
        """Position -> soft accuracy, where it is more than 0."""
        truth, found = Truth.of(answers), {}
        for said in truth.counts:
            places = self.alike.get(said, []) if truth.differ else [self.exact[said]] if said in self.exact else []
            for m in places:
                found[m] = truth.score(self.answers[m])
        return {m: score for m, score in found.items() if score > 0}


def table(config: Any, source: VqaSource, images: np.ndarray, tokens: Tokens) -> Table:
    """The questions about these images, ready for a network."""
    forms, numbers, total = Forms(config.labels.names), source.numbers(images), int(source.first[-1])
    worth = [forms.worth(source.question(k).answers) for k in numbers]
    width = max(1, *map(len, worth)) if worth else 1
    found = Table(
        source.first.astype(np.int64),
        np.zeros((total, config.length), np.int32),
        np.full((total, width), NOBODY, np.int32),
        np.zeros((total, width), np.float32),
        config.questions,
    )
    if numbers:
        found.tokens[numbers] = tokens([source.text(k) for k in numbers], config.length)
    for k, each in zip(numbers, worth, strict=True):
        found.answers[k, : len(each)], found.scores[k, : len(each)] = list(each), list(each.values())
    return found

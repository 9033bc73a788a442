"""Answers as targets of question answering: the vocabularies of answers and words, the soft score of each answer.

M answers
"""

import json
from collections import Counter, defaultdict
from dataclasses import replace
from typing import Any

import numpy as np

from ...data.dataset import ImageData
from ...data.question_targets import NO_ANSWER, QuestionTable
from ...data.sources.vqa_v2 import VqaSource
from ...evals.splits import reported_split
from ...evals.vqa import Truth, normalise, one_line
from ...nn.text import Pieces, Words, words_of
from ..labels import split_validation, subset_of_images

MAX_LENGTH, MAX_QUESTIONS, MAX_WORDS = 20, 8, 20_000  # tokens of a question, questions of an image, words


def prepare(settings: Any, data: ImageData) -> tuple[Any, ImageData]:
    """Find the answers, the words, the sizes of both, and the images of each split. ValueError in one line."""
    source, labels = data.images.source, settings.labels
    if not isinstance(source, VqaSource):
        raise ValueError(f"{source.where}: opened without questions: --images.questions")
    data = subset_of_images(reported_split(data), labels, "these have none")
    texts = [source.text(k) for k in source.numbers(data.train)]
    counts = Counter(Truth.of(source.question(k).answers).most_common for k in source.numbers(data.train))
    frequent = sorted(counts.keys() - {""}, key=lambda answer: (-counts[answer], answer))
    chosen = tuple(frequent[: settings.vocabulary])
    forms = Forms(chosen)
    if not any(forms.worth(source.question(k).answers) for k in source.numbers(data.held_out)):
        raise ValueError(
            f"{source.where}: none of the {len(chosen):,} answers that are learned ({', '.join(chosen[:3])}, ...) is "
            f"right for any of the {source.count(data.held_out):,} held-out questions"
        )
    words = settings.words if settings.text else json.dumps(words_of(texts, MAX_WORDS), ensure_ascii=False)
    length = settings.length or min(MAX_LENGTH, tokens_of(settings.text, words).longest(texts))
    asked = np.diff(source.first)  # questions about each image
    questions = settings.questions or min(MAX_QUESTIONS, int(np.ceil(np.percentile(asked[data.train], 95))))
    data = split_validation(data, labels)
    mean = round(float(np.minimum(asked[data.train], questions).mean()), 6)
    facts = {"words": words, "length": length, "questions": questions, "asked": mean}
    return replace(settings, labels=labels.named(chosen), **facts), data


def tokens_of(text: str | None, words: str) -> Words | Pieces:
    return Pieces(text) if text else Words(json.loads(words or "[]"))


class Forms:
    """Which answers of a vocabulary are right, in whatever form people wrote theirs."""

    def __init__(self, answers: tuple[str, ...]):
        self.answers = answers
        self.exact: defaultdict[str, list[int]] = defaultdict(list)
        self.alike: defaultdict[str, list[int]] = defaultdict(list)
        for m, answer in enumerate(answers):
            self.exact[one_line(answer)].append(m)
            self.alike[normalise(answer)].append(m)

    def worth(self, answers: tuple[str, ...]) -> dict[int, float]:
        """Position -> soft accuracy, where it is more than 0."""
        truth = Truth.of(answers)
        positions = self.alike if truth.differ else self.exact
        return {m: truth.score(self.answers[m]) for text in truth.counts for m in positions.get(text, ())}


def question_table(settings: Any, source: VqaSource, images: np.ndarray, tokens: Words | Pieces) -> QuestionTable:
    """The questions about these images as tokens, and the scores of their answers."""
    forms, numbers, total = Forms(settings.labels.names), source.numbers(images), int(source.first[-1])
    worth = [forms.worth(source.question(k).answers) for k in numbers]
    width = max(1, *map(len, worth)) if worth else 1
    table = QuestionTable(
        source.first.astype(np.int64),
        np.zeros((total, settings.length), np.int32),
        np.full((total, width), NO_ANSWER, np.int32),
        np.zeros((total, width), np.float32),
        settings.questions,
    )
    if numbers:
        table.tokens[numbers] = tokens([source.text(k) for k in numbers], settings.length)
    for k, scores in zip(numbers, worth, strict=True):
        table.answers[k, : len(scores)], table.scores[k, : len(scores)] = list(scores), list(scores.values())
    return table

"""Answers to all questions about images, and VQAv2's soft accuracy, after its own evaluation (vqaEval.py).

An answer scores min(n / 3, 1) where n of nine people gave it, as the mean over the ten ways to leave one of ten out:
0, 0.3, 0.6, 0.9, 1 for 0, 1, 2, 3, 4 and more of ten. Where the ten answers differ, they and the prediction are
normalised first (punctuation, articles, number words, apostrophes); where they agree, answers are compared as they are.

Ours: fewer or more than ten answers count as ten in the same proportions, so one answer is all of them.

b images, Q questions of each at a time, L tokens of each, M answers
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ..data.images import Skips
from ..data.sources.vqa_v2 import TYPES, Question, VqaSource
from ..data.views import to_float
from .eval_pass import EvalPass

PEOPLE, AGREE = 10, 3
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
DIGITS = {word: str(n) for n, word in enumerate(NUMBERS)} | {"none": "0"}
ARTICLES = ("a", "an", "the")
PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
THOUSANDS = re.compile(r"\d,\d")
PERIOD = re.compile(r"\.(?!\d)")
PERIODS = 32  # at most: the official code passes a flag of that value in the place of the count
# A missing apostrophe is restored in these words; "somebody'd" loses its own in the official table.
APOSTROPHES = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've
he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've
o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's
someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've there're
there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've
when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't
wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""
CONTRACTIONS = {
    word[:i] + word[i + 1 :]: word for word in APOSTROPHES.split() for i, letter in enumerate(word) if letter == "'"
} | {"somebody'd": "somebodyd"}


def one_line(answer: str) -> str:
    """Replace line breaks and tabs, strip blanks."""
    return answer.replace("\n", " ").replace("\t", " ").strip()


@lru_cache(maxsize=1 << 16)
def normalise(answer: str) -> str:
    """Drop punctuation and articles, lower the case, write numbers up to ten as digits, restore apostrophes."""
    answer = text = one_line(answer)
    for mark in PUNCTUATION:
        # It is dropped at a word's edge and separates words elsewhere, except where the answer has a "1,000" in it.
        drop = f"{mark} " in answer or f" {mark}" in answer or THOUSANDS.search(answer)
        text = text.replace(mark, "" if drop else " ")
    words = [DIGITS.get(word, word) for word in PERIOD.sub("", text, PERIODS).lower().split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


@dataclass(frozen=True)
class Truth:
    """People's answers to a question."""

    counts: dict[str, int]  # each different answer, and how many gave it
    differ: bool  # not all the same: they are normalised, and so are predictions

    @classmethod
    def of(cls, answers: Sequence[str]) -> "Truth":
        lines = [one_line(answer) for answer in answers]
        differ = len(set(lines)) > 1
        return cls(dict(Counter(map(normalise, lines) if differ else lines)), differ)

    def score(self, answer: str) -> float:
        """Soft accuracy of an answer, in [0, 1]; 0 for a question without answers."""
        matches = self.counts.get(normalise(answer) if self.differ else one_line(answer), 0)
        return soft_accuracy(matches, sum(self.counts.values())) if matches else 0.0

    @property
    def most_common(self) -> str:
        """The most frequent answer, of several the first by the alphabet; "" where normalising leaves nothing."""
        return most_common(Counter({answer: n for answer, n in self.counts.items() if answer}))


def soft_accuracy(matches: int, people: int) -> float:
    """Mean over leaving each one out of min(matches among the others / 3, 1)."""
    m = PEOPLE * matches / people
    return (m * min(max(m - 1, 0) / AGREE, 1) + (PEOPLE - m) * min(m / AGREE, 1)) / PEOPLE


def most_common(counter: Counter[str]) -> str:
    return min(counter, key=lambda answer: (-counter[answer], answer), default="")


# ------------------------------------------------------------------------------------------------------ many questions
def accuracies(questions: Sequence[Question], scores: Sequence[float]) -> dict[str, float]:
    """Accuracy over all questions, and over each of VQAv2's types of answers that occurs."""
    by_type = _group((q.answer_type for q in questions), scores)
    return {"accuracy": mean(scores)} | {
        f"accuracy_{t.replace('/', '_')}": mean(by_type[t]) for t in TYPES if t in by_type
    }


def accuracy_rows(kinds: Sequence[str], scores: Sequence[float], name: str) -> list[dict[str, object]]:
    """A table: accuracy and number of questions of each kind, the most frequent first."""
    groups = sorted(_group(kinds, scores).items(), key=lambda item: (-len(item[1]), item[0]))
    return [{name: kind, "accuracy": mean(group), "questions": len(group)} for kind, group in groups]


def _group(keys: Iterable[str], scores: Iterable[float]) -> dict[str, list[float]]:
    groups: defaultdict[str, list[float]] = defaultdict(list)
    for key, score in zip(keys, scores, strict=True):
        groups[key].append(score)
    return groups


def mean(scores: Sequence[float]) -> float:
    return sum(scores) / len(scores)


@dataclass(frozen=True)
class Priors:
    """The most common answers of training: overall, to a type of question, to the same question."""

    overall: str
    by_type: dict[str, str]
    by_question: dict[str, str]

    @classmethod
    def of(cls, questions: Iterable[Question]) -> "Priors":
        pairs = [(q, Truth.of(q.answers).most_common) for q in questions]

        def by(key: Callable[[Question], str]) -> dict[str, str]:
            counters: defaultdict[str, Counter[str]] = defaultdict(Counter)
            for q, answer in pairs:
                counters[key(q)][answer] += 1
            return {name: most_common(counter) for name, counter in counters.items()}

        return cls(by(lambda q: "").get("", ""), by(lambda q: q.question_type), by(_question_key))

    def scores(self, questions: Sequence[Question]) -> dict[str, float]:
        """Soft accuracies of answering without the image: `prior`, `prior_by_type`, `prior_by_question`."""
        scores: dict[str, list[float]] = {"prior": [], "prior_by_type": [], "prior_by_question": []}
        for q in questions:
            of_type = self.by_type.get(q.question_type, self.overall)
            answers = (self.overall, of_type, self.by_question.get(_question_key(q), of_type))
            for values, answer in zip(scores.values(), answers, strict=True):
                values.append(Truth.of(q.answers).score(answer))
        return {name: mean(values) for name, values in scores.items()}


def _question_key(q: Question) -> str:
    return " ".join(q.text.lower().split())


# ------------------------------------------------------------------------------------------------------------ answering
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
    padded[np.arange(at_once) < np.array([*map(len, questions)])[:, None]] = tokens
    return torch.from_numpy(padded)

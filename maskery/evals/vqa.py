"""Soft accuracy of answers, as VQAv2's own evaluation counts it (GT-Vision-Lab/VQA, vqaEval.py), written anew.

An answer is worth min(n / 3, 1) where n of nine people gave it, as the mean over the ten ways to leave one of ten out:
0, 0.3, 0.6, 0.9, 1 for 0, 1, 2, 3, 4 and more of ten. Where the ten do not all say the same, both sides are normalised
first: punctuation, articles, number words, apostrophes; where they agree, answers are compared as they are.

Ours: fewer or more than ten answers count as ten in the same shares, so one answer is all of them.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from ..data.sources.vqa_v2 import TYPES, Question

PEOPLE, AGREE = 10, 3
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
DIGITS = {word: str(n) for n, word in enumerate(NUMBERS)} | {"none": "0"}
ARTICLES = ("a", "an", "the")
PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
THOUSANDS = re.compile(r"\d,\d")
PERIOD = re.compile(r"\.(?!\d)")
PERIODS = 32  # so many at most: the official code hands a flag of that value over in the place of the count
# Words that are given back the one apostrophe that is missing; "somebody'd" loses its own in the official table.
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


def plain(answer: str) -> str:
    """On one line, without blanks around it."""
    return answer.replace("\n", " ").replace("\t", " ").strip()


@lru_cache(maxsize=1 << 16)
def normalised(answer: str) -> str:
    """Without punctuation and articles, in lower case, numbers up to ten as digits, apostrophes where they belong."""
    answer = said = plain(answer)
    for mark in PUNCTUATION:
        # At a word's edge it goes; between words it parts them - but in "1,000 a-b" nothing is parted.
        gone = f"{mark} " in answer or f" {mark}" in answer or THOUSANDS.search(answer)
        said = said.replace(mark, "" if gone else " ")
    words = [DIGITS.get(word, word) for word in PERIOD.sub("", said, PERIODS).lower().split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


@dataclass(frozen=True)
class Truth:
    """What the people said to a question, as answers are compared with it."""

    counts: dict[str, int]  # each different answer, and how many gave it
    differ: bool  # not all the same: then both sides are normalised

    @classmethod
    def of(cls, answers: Sequence[str]) -> "Truth":
        said = [plain(answer) for answer in answers]
        differ = len(set(said)) > 1
        return cls(dict(Counter(map(normalised, said) if differ else said)), differ)

    def score(self, answer: str) -> float:
        """The soft accuracy of an answer, between 0 and 1; 0 where nobody said anything."""
        matches = self.counts.get(normalised(answer) if self.differ else plain(answer), 0)
        return credit(matches, sum(self.counts.values())) if matches else 0.0

    @property
    def usual(self) -> str:
        """What most said; of those that as many said, the first by the alphabet. "" where nothing is left of it."""
        return most(Counter({answer: n for answer, n in self.counts.items() if answer}))


def credit(matches: int, people: int) -> float:
    """The mean over leaving each one out of min(matches among the others / 3, 1)."""
    m = PEOPLE * matches / people
    return (m * min(max(m - 1, 0) / AGREE, 1) + (PEOPLE - m) * min(m / AGREE, 1)) / PEOPLE


def soft_accuracy(answer: str, answers: Sequence[str]) -> float:
    return Truth.of(answers).score(answer)


# ------------------------------------------------------------------------------------------------------ many questions
def accuracies(questions: Sequence[Question], scores: Sequence[float]) -> dict[str, float]:
    """Overall, and of VQAv2's types of answers that occur."""
    found = {"accuracy": mean(scores)}
    each = by((q.answer_type for q in questions), scores)
    return found | {f"accuracy_{t.replace('/', '_')}": mean(each[t]) for t in TYPES if t in each}


def by(keys: Iterable[str], scores: Iterable[float]) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for key, score in zip(keys, scores, strict=True):
        found.setdefault(key, []).append(score)
    return found


def rows(kinds: Sequence[str], scores: Sequence[float], name: str) -> list[dict[str, object]]:
    """A table: accuracy and number of questions of each kind, the most frequent first."""
    each = sorted(by(kinds, scores).items(), key=lambda item: (-len(item[1]), item[0]))
    return [{name: kind, "accuracy": mean(found), "questions": len(found)} for kind, found in each]


def mean(scores: Sequence[float]) -> float:
    return sum(scores) / len(scores)


@dataclass(frozen=True)
class Priors:
    """What can be answered without looking: the usual answer of training, to anything, to a type, to a question."""

    usual: str
    by_type: dict[str, str]
    by_question: dict[str, str]

    @classmethod
    def of(cls, questions: Iterable[Question]) -> "Priors":
        overall: Counter[str] = Counter()
        types: dict[str, Counter[str]] = {}
        same: dict[str, Counter[str]] = {}
        for q in questions:
            for counter in (
                overall,
                types.setdefault(q.question_type, Counter()),
                same.setdefault(asked(q), Counter()),
            ):
                counter[Truth.of(q.answers).usual] += 1
        return cls(most(overall), {k: most(c) for k, c in types.items()}, {k: most(c) for k, c in same.items()})

    def scores(self, questions: Sequence[Question]) -> dict[str, float]:
        """Soft accuracies: `prior`, `prior_by_type`, `prior_by_question`."""
        found: dict[str, list[float]] = {"prior": [], "prior_by_type": [], "prior_by_question": []}
        for q in questions:
            kind = self.by_type.get(q.question_type, self.usual)
            answers = (self.usual, kind, self.by_question.get(asked(q), kind))
            for each, answer in zip(found.values(), answers, strict=True):
                each.append(Truth.of(q.answers).score(answer))
        return {name: mean(each) for name, each in found.items()}


def asked(q: Question) -> str:
    return " ".join(q.text.lower().split())


def most(counter: Counter[str]) -> str:
    return min(counter, key=lambda answer: (-counter[answer], answer), default="")

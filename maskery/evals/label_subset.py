"""Few labels: which training images keep theirs. Stratified, seeded, nested, at least one image a class.

n labelled training images, M classes. Draws of one seed are nested: 5 shots contain the 1 shot, 10 % the 1 %.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Few:
    """How many labels: a share of every class, or so many images of every class."""

    share: float | None = None
    shots: int | None = None

    def __post_init__(self) -> None:
        if (self.share is None) == (self.shots is None):
            raise ValueError("either --labels (a share, like 1%) or --shots (images of each class), not both")
        if self.share is not None and not 0 < self.share <= 1:
            raise ValueError(f"labels is {100 * self.share:g}%: it has to be above 0% and at most 100%")
        if self.shots is not None and self.shots < 1:
            raise ValueError(f"shots is {self.shots}: at least 1 image of each class")

    @classmethod
    def of(cls, labels: str | None, shots: int | None) -> "Few | None":
        """From `--labels 1%` or `--shots 5`; None when neither is given."""
        if labels is None and shots is None:
            return None
        return cls(None if labels is None else share(labels), shots)

    def __str__(self) -> str:
        return f"{100 * self.share:g}% of the labels" if self.share is not None else f"{self.shots} labels a class"


@dataclass(frozen=True)
class Drawn:
    """The images that keep their labels in one draw."""

    indices: np.ndarray  # [k] sorted, a part of those drawn from
    seed: int
    counts: np.ndarray  # [M] of each class
    notes: tuple[str, ...]  # what the user should know: long tails, shares that are not what was asked for


def share(text: str) -> float:
    """ "1%" or "0.01" -> 0.01."""
    found = re.fullmatch(r"\s*(\d+\.?\d*|\.\d+)\s*(%?)\s*", text)
    value = float(found[1]) / (100 if found[2] else 1) if found else -1.0
    if not 0 < value <= 1:
        raise ValueError(f"labels is {text!r}: a percentage like 1%, or a share like 0.01 (--shots counts images)")
    return value


def draw(labels: np.ndarray, indices: np.ndarray, classes: Sequence[str], few: Few, seed: int) -> Drawn:
    """Which of `indices` keep their labels. `labels` are those of the whole source, -1 = none.

    ValueError when a class has too few images, naming the class and its images.
    """
    own = labels[indices]
    by_class = [indices[own == c] for c in range(len(classes))]
    sizes = np.array([len(images) for images in by_class])
    _refuse(sizes, classes, few.shots or 1)
    if few.shots is not None:
        wanted = np.full(len(classes), few.shots)
    else:
        assert few.share is not None
        wanted = np.maximum(1, np.floor(few.share * sizes + 0.5).astype(np.int64))
    chosen = [
        np.random.default_rng([seed, c]).permutation(images)[:k]
        for c, (images, k) in enumerate(zip(by_class, wanted.tolist(), strict=True))
    ]
    return Drawn(np.sort(np.concatenate(chosen)), seed, wanted, _notes(sizes, wanted, classes, few))


def draws(
    labels: np.ndarray, indices: np.ndarray, classes: Sequence[str], few: Few, seeds: Sequence[int]
) -> list[Drawn]:
    """One draw a seed; their spread is what a mean over few labels has to be read with."""
    return [draw(labels, indices, classes, few, seed) for seed in seeds]


def _refuse(sizes: np.ndarray, classes: Sequence[str], least: int) -> None:
    if not len(classes) or not sizes.sum():
        raise ValueError("the training images have no labels: there is nothing to draw from")
    short = np.flatnonzero(sizes < least)
    if len(short):
        named = ", ".join(f"{classes[c]} has {sizes[c]}" for c in short[:5])
        more = f", and {len(short) - 5} more classes have too few" if len(short) > 5 else ""
        enough = int(sizes.min())
        can = (
            f"at most {enough} {'is' if enough == 1 else 'are'} possible"
            if enough
            else "such a class cannot be learned"
        )
        raise ValueError(f"{least} labelled training images of each class are wanted, but {named}{more}; {can}")


def _notes(sizes: np.ndarray, wanted: np.ndarray, classes: Sequence[str], few: Few) -> tuple[str, ...]:
    notes, most, least = [], int(sizes.argmax()), int(sizes.argmin())
    if sizes[most] >= 10 * sizes[least]:
        balanced = ", the draw is balanced" if few.shots else ", and so does the draw"
        notes.append(
            f"classes have between {sizes[least]:,} ({classes[least]}) and {sizes[most]:,} ({classes[most]}) "
            f"training images{balanced}; balanced accuracy says more than top-1"
        )
    if few.share is not None:
        raised, real = int((few.share * sizes < 0.5).sum()), wanted.sum() / sizes.sum()
        if raised:
            notes.append(
                f"{raised} of {len(sizes)} classes have so few images that {100 * few.share:g}% of them is none; each "
                f"keeps one, so {100 * real:.2g}% of all labels are used"
            )
    return tuple(notes)

"""Few labels: which training images keep theirs. Stratified, seeded, nested, at least one image a class.

Subsets of one seed are nested: 5 shots contain the 1 shot, 10 % the 1 %. M classes
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class LabelSubset:
    """How many labels are used: a fraction of every class, or so many images of every class."""

    fraction: float | None = None
    shots: int | None = None

    def __post_init__(self) -> None:
        if (self.fraction is None) == (self.shots is None):
            raise ValueError("either --labels (a fraction, like 1%) or --shots (images of each class), not both")
        if self.fraction is not None and not 0 < self.fraction <= 1:
            raise ValueError(f"labels is {100 * self.fraction:g}%: it has to be above 0% and at most 100%")
        if self.shots is not None and self.shots < 1:
            raise ValueError(f"shots is {self.shots}: at least 1 image of each class")

    @classmethod
    def parse(cls, labels: str | None, shots: int | None) -> "LabelSubset | None":
        """Read `--labels 1%` or `--shots 5`; None when neither is given."""
        if labels is None and shots is None:
            return None
        return cls(None if labels is None else parse_fraction(labels), shots)

    def __str__(self) -> str:
        return f"{self.shots} labels a class" if self.fraction is None else f"{100 * self.fraction:g}% of the labels"

    def draw(
        self, labels: np.ndarray, indices: np.ndarray, classes: Sequence[str], seed: int
    ) -> tuple[np.ndarray, list[str]]:
        """Draw from `indices`, sorted, and warn of long tails and of more labels than the fraction asked for.

        `labels` are those of the whole source, -1 = none. ValueError naming classes that have too few images.
        """
        by_class = [indices[labels[indices] == c] for c in range(len(classes))]
        sizes = np.array([len(images) for images in by_class])
        _check_sizes(sizes, classes, self.shots or 1)
        if self.fraction is None:
            counts = np.full(len(classes), self.shots)
        else:
            counts = np.maximum(1, np.floor(self.fraction * sizes + 0.5).astype(np.int64))
        drawn = [
            np.random.default_rng([seed, c]).permutation(images)[:count]
            for c, (images, count) in enumerate(zip(by_class, counts.tolist(), strict=True))
        ]
        return np.sort(np.concatenate(drawn)), self._notes(sizes, counts, classes)

    def _notes(self, sizes: np.ndarray, counts: np.ndarray, classes: Sequence[str]) -> list[str]:
        notes, most, least = [], int(sizes.argmax()), int(sizes.argmin())
        if sizes[most] >= 10 * sizes[least]:
            notes.append(
                f"classes have between {sizes[least]:,} ({classes[least]}) and {sizes[most]:,} ({classes[most]}) "
                f"training images, {'the draw is balanced' if self.shots else 'and so does the draw'}; balanced "
                "accuracy says more than top-1"
            )
        if self.fraction is not None and (raised := int((self.fraction * sizes < 0.5).sum())):
            notes.append(
                f"{raised} of {len(sizes)} classes have so few images that {100 * self.fraction:g}% of them is none; "
                f"each keeps one, so {100 * counts.sum() / sizes.sum():.2g}% of all labels are used"
            )
        return notes


def parse_fraction(text: str) -> float:
    """ "1%" or "0.01" -> 0.01."""
    match = re.fullmatch(r"\s*(\d+\.?\d*|\.\d+)\s*(%?)\s*", text)
    value = float(match[1]) / (100 if match[2] else 1) if match else -1.0
    if not 0 < value <= 1:
        raise ValueError(f"labels is {text!r}: a percentage like 1%, or a fraction like 0.01 (--shots counts images)")
    return value


def _check_sizes(sizes: np.ndarray, classes: Sequence[str], least: int) -> None:
    if not len(classes) or not sizes.sum():
        raise ValueError("the training images have no labels: there is nothing to draw from")
    short = np.flatnonzero(sizes < least)
    if len(short):
        named = ", ".join(f"{classes[c]} has {sizes[c]}" for c in short[:5])
        more = f", and {len(short) - 5} more classes have too few" if len(short) > 5 else ""
        most = int(sizes.min())
        hint = f"at most {most} {'is' if most == 1 else 'are'} possible" if most else "such a class cannot be learned"
        raise ValueError(f"{least} labelled training images of each class are wanted, but {named}{more}; {hint}")

"""A classifier's errors under corruptions, and the numbers made of them.

Two numbers, never mixed: `mean_error` is the plain mean over corruptions and severities; `mce` (Hendrycks & Dietterich
2019) divides the error under each corruption by AlexNet's on ImageNet-C first, so 1 is "as bad as AlexNet".
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from ..data.images import Skips
from .corruptions import BENCHMARK, EXTRA, SEVERITIES

# AlexNet's error on ImageNet-C, mean over severities, with the digits that public evaluation code has: mmpretrain's
# CorruptionError, Rusak et al. 2020 (game-of-noise). On clean images 43.5 %, as the paper rounds it.
ALEXNET = {
    "gaussian_noise": 0.886428,
    "shot_noise": 0.894468,
    "impulse_noise": 0.922640,
    "defocus_blur": 0.819880,
    "glass_blur": 0.826268,
    "motion_blur": 0.785948,
    "zoom_blur": 0.798360,
    "snow": 0.866816,
    "frost": 0.826572,
    "fog": 0.819324,
    "brightness": 0.564592,
    "contrast": 0.853204,
    "elastic_transform": 0.646056,
    "pixelate": 0.717840,
    "jpeg_compression": 0.606500,
}
ALEXNET_CLEAN = 0.435


@dataclass(frozen=True)
class Errors:
    """Shares of images that were taken for another class."""

    clean: float | None  # None: nobody looked
    by: Mapping[str, Mapping[int, float]]  # corruption -> severity -> error
    images: int
    skipped: Skips = field(default_factory=list)

    def mean(self, names: Sequence[str]) -> float | None:
        """The plain mean over these corruptions and all severities; None when one is missing."""
        return fmean(fmean(self.by[n].values()) for n in names) if self.whole(names) else None

    @property
    def mce(self) -> float | None:
        """Mean over the 15 corruptions of error / AlexNet's error; None when one is missing."""
        if not self.whole(BENCHMARK):
            return None
        return fmean(fmean(self.by[n].values()) / ALEXNET[n] for n in BENCHMARK)

    @property
    def relative_mce(self) -> float | None:
        """Likewise of what corruption adds to the clean error: 1 is "loses as much as AlexNet does"."""
        if self.clean is None or not self.whole(BENCHMARK):
            return None
        lost = ((fmean(self.by[n].values()) - self.clean) / (ALEXNET[n] - ALEXNET_CLEAN) for n in BENCHMARK)
        return fmean(lost)

    def whole(self, names: Sequence[str]) -> bool:
        return all(set(self.by.get(n, ())) == set(SEVERITIES) for n in names)

    def numbers(self) -> dict[str, float]:
        """What is defined, by name. Of each number less is better."""
        found = {
            "clean_error": self.clean,
            "mean_error": self.mean(BENCHMARK),
            "mean_error_extra": self.mean(EXTRA),
            "mce": self.mce,
            "relative_mce": self.relative_mce,
        }
        each = {f"error_{name}": fmean(self.by[name].values()) for name in self.by if self.whole([name])}
        return {name: value for name, value in found.items() if value is not None} | each


def lines(errors: Errors) -> list[str]:
    """A table for the console, and what each number is."""
    width = max(map(len, (*errors.by, "mean of the 15"))) + 2
    said = [] if errors.clean is None else [f"{'clean':{width}}{errors.clean:>7.1%}"]
    said.append(" " * width + "".join(f"{s:>8}" for s in SEVERITIES) + "    mean")
    for name, found in errors.by.items():
        cells = "".join(f"{found[s]:>8.1%}" if s in found else f"{'-':>8}" for s in SEVERITIES)
        extra = "  (extra)" if name in EXTRA else ""
        said.append(f"{name:{width}}{cells}{fmean(found.values()):>8.1%}{extra}")
    sentences = {
        "mean_error": "mean error over the 15 corruptions and 5 severities, as it is",
        "mean_error_extra": "mean error over the 4 extra corruptions, which are in no other number",
        "mce": "mCE: the same, each corruption relative to AlexNet's error on ImageNet-C",
        "relative_mce": "relative mCE: what corruption adds to the clean error, relative to AlexNet's",
    }
    numbers = errors.numbers()
    return [*said, *(f"{numbers[key]:7.1%}  {words}" for key, words in sentences.items() if key in numbers)]

"""Before and after: evaluations of several weights side by side, and whether pretraining paid off.

Differences are paired: between results of the same seed. Their 95 % interval says whether they are more than noise.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..report.standings import exceeds, paired, points
from .results import END, RANDOM, START, Result

LESS_IS_BETTER = ("clean_error", "mean_error", "mean_error_extra", "mce", "relative_mce", "calibration_error")
CONTEXT = ("largest_class", "classes_with_images")  # of the data, not of the weights
Sides = dict[str, dict[int, Mapping[str, float]]]  # which weights -> seed -> numbers


@dataclass(frozen=True)
class SideBySide:
    rows: tuple[
        dict[str, Any], ...
    ]  # label, then {"mean", "std", "seeds"} by number, and "above": other -> number -> same
    reading: tuple[str, ...]  # sentences; the first says whether pretraining paid off
    measure: str  # the number they are about

    def lines(self) -> list[str]:
        """The table for a console: numbers in percent, +- their standard deviation over seeds, then differences."""
        names = [name for name in self.rows[0] if name not in ("label", "above")]
        width, cell = max(len(row["label"]) for row in self.rows) + 2, max(16, *(len(name) + 2 for name in names))
        said = [" " * width + "".join(f"{name.replace('_', ' '):>{cell}}" for name in names)]
        for row in self.rows:
            said.append(f"{row['label']:{width}}" + "".join(f"{_percent(row.get(n)):>{cell}}" for n in names))
        for other in (RANDOM, START):
            some = [row for row in self.rows if other in row["above"]]
            if some:
                said += ["", f"points above {other}, seed by seed"]
            for row in some:
                cells = (points(row["above"][other].get(name)) for name in names)
                said.append(f"{row['label']:{width}}" + "".join(f"{c:>{cell}}" for c in cells))
        return [*said, "", *self.reading]


def side_by_side(results: Sequence[Result], measure: str | None = None) -> SideBySide:
    """One row a set of weights, RANDOM and START first, in the order given otherwise.

    `measure` is the number that decides; None: the first. ValueError for results that cannot be compared: of another
    evaluation, protocol or data, or the same weights and seed twice.
    """
    sides = _gathered(results)
    names = [n for n in results[0].numbers if n not in CONTEXT]
    measure = measure or names[0]
    if measure not in names:
        raise ValueError(f"there is no number {measure!r} in these results; there are: {', '.join(names)}")
    rows = []
    for label, runs in sides.items():
        row: dict[str, Any] = {"label": label}
        for name in names:
            spread = paired(runs, {seed: {name: 0.0} for seed in runs}, name)
            if spread:
                row[name] = spread
        others = [other for other in (RANDOM, START) if other in sides and other != label and label != RANDOM]
        row["above"] = {o: {n: d for n in names if (d := paired(runs, sides[o], n))} for o in others}
        rows.append(row)
    return SideBySide(tuple(rows), tuple(_reading(sides, measure)), measure)


def _gathered(results: Sequence[Result]) -> Sides:
    if not results:
        raise ValueError("there are no results to compare")
    first = results[0]
    sides: Sides = {}
    for result in results:
        for what in ("evaluation", "protocol", "fingerprint"):
            own, other = getattr(first, what), getattr(result, what)
            if own != other:
                named = "images or labels" if what == "fingerprint" else what
                raise ValueError(
                    f"results cannot be compared, their {named} differ: {own!r} ({first.of}, {first.weights}) and "
                    f"{other!r} ({result.of}, {result.weights})"
                )
        runs = sides.setdefault(result.of, {})
        for seed, numbers in result.seeds().items():
            if seed in runs:
                raise ValueError(f"two results of {result.of} with seed {seed}: {result.weights}")
            runs[seed] = numbers
    order = [label for label in (RANDOM, START) if label in sides]
    return {label: sides[label] for label in dict.fromkeys([*order, *sides])}


def _reading(sides: Sides, measure: str) -> list[str]:
    """The run's end against what it started from (or random weights), then against everything else."""
    if END not in sides or len(sides) == 1:
        return []
    before = START if START in sides else RANDOM if RANDOM in sides else None
    said = []
    if before:
        difference = _better_by(sides[END], sides[before], measure)
        good, words = _judged(difference)
        verdict = {
            True: "Pretraining paid off",
            False: "Pretraining did not pay off",
            None: "Whether pretraining paid off cannot be told",
        }[good]
        said.append(f"{verdict}: by {measure.replace('_', ' ')}, {END} is {words} {before}.")
    for other in sides:
        if other in (END, before):
            continue
        good, words = _judged(_better_by(sides[END], sides[other], measure))
        said.append(
            f"{END[0].upper()}{END[1:]} is {words} {other}"
            + ("." if good else ", so it is no better." if good is False else ".")
        )
    return said


def _better_by(runs: Mapping[int, Mapping[str, float]], others: Mapping[int, Mapping[str, float]], name: str) -> Any:
    """The paired difference, turned so that more is better."""
    found = paired(runs, others, name)
    less = name in LESS_IS_BETTER or name.startswith("error_")
    return found | {"mean": -found["mean"]} if found and less else found


def _judged(difference: Mapping[str, Any]) -> tuple[bool | None, str]:
    """(better; None: cannot be told, words that go between "the run's end is" and the other side)."""
    if not difference:
        return None, "not to be compared (no seed that both have) with"
    n, told = difference["seeds"], exceeds(difference)
    seeds = f"{n} seed" + ("s" if n > 1 else "")
    size = points({**difference, "mean": abs(difference["mean"])}).removeprefix("+")
    side = "better" if difference["mean"] > 0 else "worse"
    if difference["mean"] == 0:
        return (None if told is None else False), f"exactly as good ({seeds}) as"
    if told is None:
        return None, f"{size} points {side} ({seeds}: too few to tell) than"
    if told:
        return side == "better", f"{size} points {side} (more than the spread over {seeds} explains) than"
    return False, f"{size} points {side} (within the spread over {seeds}: not told apart) than"


def _percent(spread: Mapping[str, Any] | None) -> str:
    if not spread:
        return "-"
    return (
        f"{100 * spread['mean']:.1f} %"
        if spread["std"] is None
        else f"{100 * spread['mean']:.1f} ± {100 * spread['std']:.1f}"
    )

"""Before and after: evaluations of several weights side by side, and whether pretraining paid off.

Differences are paired: between results of the same seed. Their 95 % interval says whether they are more than noise.
A number that nothing was drawn for, like kNN accuracy of fixed weights, stands beside every seed of the others: the
spread of such differences is that of the others. Between two such numbers there is no spread. A run has one end, random
initialisations are drawn: their spread explains a difference that one more of them could have.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .paired import exceeds, paired, points
from .results import END, RANDOM, START, Result

LESS_IS_BETTER = ("clean_error", "mean_error", "mean_error_extra", "mce", "relative_mce", "calibration_error")
# Of the data, not of the weights.
CONTEXT = ("largest_class", "classes_with_images", "reachable", "prior", "prior_by_type", "prior_by_question")
EVERY = None  # in place of a seed: a number that nothing was drawn for
VERDICTS = {
    "better": "Pretraining paid off",
    "no better": "Pretraining did not pay off",
    "not shown": "That pretraining paid off is not shown",
    "cannot be told": "Whether pretraining paid off cannot be told",
}
Sides = dict[str, dict[Any, Mapping[str, float]]]  # which weights -> seed, or EVERY -> numbers


@dataclass(frozen=True)
class SideBySide:
    rows: tuple[dict[str, Any], ...]  # label; {"mean", "std", "seeds"} by number; "above": other -> number -> the same
    reading: tuple[str, ...]  # sentences; the first says whether pretraining paid off
    measure: str  # the number they are about

    def lines(self) -> list[str]:
        """The table for a console: numbers in percent, +- their standard deviation over seeds, then differences."""
        names = [name for name in self.rows[0] if name not in ("label", "above")]
        width = max(map(len, names)) + 2
        cells = [max(16, len(row["label"]) + 2) for row in self.rows]

        def line(first: str, words: Iterable[str]) -> str:
            return (f"{first:{width}}" + "".join(f"{w:>{c}}" for w, c in zip(words, cells, strict=True))).rstrip()

        said = [line("", (row["label"] for row in self.rows))]
        said += [line(n.replace("_", " "), (_percent(row.get(n)) for row in self.rows)) for n in names]
        for other in dict.fromkeys(other for row in self.rows for other in row["above"]):
            said += ["", f"points above {other}"]
            for name in names:
                found = (row["above"].get(other, {}).get(name) for row in self.rows)
                said.append(line(name.replace("_", " "), (points(d) if d else "" for d in found)))
        return [*said, "", *self.reading]


def side_by_side(results: Sequence[Result], measure: str | None = None) -> SideBySide:
    """One row a set of weights, RANDOM and START first, in the order given otherwise.

    Differences are those to RANDOM and START; where there is neither, to the first. `measure` is the number that
    decides; None: the first. ValueError for results that cannot be compared: of another evaluation, protocol or data,
    or the same weights and seed twice.
    """
    sides = _gathered(results)
    names = [n for n in results[0].numbers if n not in CONTEXT]
    measure = measure or names[0]
    if measure not in names:
        raise ValueError(f"there is no number {measure!r} in these results; there are: {', '.join(names)}")
    rows, before = [], [other for other in (RANDOM, START) if other in sides] or [next(iter(sides))]
    for label, runs in sides.items():
        row: dict[str, Any] = {"label": label}
        for name in names:
            spread = paired(runs, {seed: {name: 0.0} for seed in runs}, name)
            if spread:
                row[name] = spread
        others = [other for other in before if other != label and label != RANDOM]
        row["above"] = {o: {n: d for n in names if (d := _paired(runs, sides[o], n))} for o in others}
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
        found = result.seeds() if result.drawn else {EVERY: result.numbers}
        if runs and (EVERY in runs) == result.drawn:
            raise ValueError(f"results of {result.of} both with seeds and of none: {result.weights}")
        for seed, numbers in found.items():
            if seed in runs:
                which = "" if seed is EVERY else f" with seed {seed}"
                raise ValueError(f"two results of {result.of}{which}: {result.weights}")
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
        found, words = _judged(sides, before, measure)
        said.append(f"{VERDICTS[found]}: by {measure.replace('_', ' ')}, {END} is {words} {before}.")
    for other in sides:
        if other in (END, before):
            continue
        found, words = _judged(sides, other, measure)
        said.append(
            f"{END[0].upper()}{END[1:]} is {words} {other}" + (", so it is no better." if found == "no better" else ".")
        )
    return said


def _paired(runs: Mapping[Any, Mapping[str, float]], others: Mapping[Any, Mapping[str, float]], name: str) -> Any:
    """Of the same seed; a number that nothing was drawn for stands beside every seed of the others."""
    seeds = [seed for seed in (*runs, *others) if seed is not EVERY] or [EVERY]
    runs, others = (dict.fromkeys(seeds, side[EVERY]) if EVERY in side else side for side in (runs, others))
    return paired(runs, others, name)


def _better_by(runs: Mapping[Any, Mapping[str, float]], others: Mapping[Any, Mapping[str, float]], name: str) -> Any:
    """The paired difference, turned so that more is better."""
    found = _paired(runs, others, name)
    less = name in LESS_IS_BETTER or name.startswith("error_")
    return found | {"mean": -found["mean"]} if found and less else found


def _judged(sides: Sides, other: str, name: str) -> tuple[str, str]:
    """(one of VERDICTS, words that go between "the run's end is" and the other side)."""
    difference = _better_by(sides[END], sides[other], name)
    if not difference:
        return "cannot be told", "not to be compared (no seed that both have) with"
    n, drawn = difference["seeds"], [label for label in (END, other) if EVERY not in sides[label]]
    over = f"{n} seed{'s' if n > 1 else ''}" if drawn else "one number each, nothing was drawn"
    over += f" of {drawn[0]}" if len(drawn) == 1 else ""
    told = exceeds(difference)
    if told and (len(drawn) == 1 or other == RANDOM):  # one end beside n draws: it has to exceed one more of them,
        told = exceeds({**difference, "std": difference["std"] * math.sqrt(n + 1)})  # not only their mean
    size = points({**difference, "mean": abs(difference["mean"])}).removeprefix("+")
    side = "better" if difference["mean"] > 0 else "worse"
    if difference["mean"] == 0:
        return "cannot be told" if told is None else "no better", f"exactly as good ({over}) as"
    if told is None:
        return "cannot be told", f"{size} points {side} ({over}: too few to tell) than"
    if told:
        words = f"{size} points {side} (more than the spread over {over} explains) than"
        return "better" if side == "better" else "no better", words
    words = f"{size} points {side} (within the spread over {over}: not told apart) than"
    return "not shown" if side == "better" else "no better", words


def _percent(spread: Mapping[str, Any] | None) -> str:
    if not spread:
        return "-"
    return (
        f"{100 * spread['mean']:.1f} %"
        if spread["std"] is None
        else f"{100 * spread['mean']:.1f} ± {100 * spread['std']:.1f}"
    )

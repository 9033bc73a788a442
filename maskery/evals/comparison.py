"""Results of several candidates compared, and whether pretraining paid off.

Differences are paired by seed; their 95 % interval says whether they are more than noise. Numbers of fixed weights that
depend on no seed (like kNN accuracy) are paired with every seed of the others. Between two such numbers there is no
spread. A run has one end, while random initialisations are drawn: their spread has to explain one more of them.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from .results import END, RANDOM, START, Result
from .seed_statistics import BySeed, Spread, is_significant, paired_difference, percent, points, spread_of

LOWER_IS_BETTER = ("clean_error", "mean_error", "mean_error_extra", "mce", "relative_mce", "calibration_error")
# Properties of the images and labels, whatever the weights.
OF_THE_DATA = ("largest_class", "classes_with_images", "reachable", "prior", "prior_by_type", "prior_by_question")
VERDICTS = {
    "better": "Pretraining paid off",
    "no better": "Pretraining did not pay off",
    "not shown": "That pretraining paid off is not shown",
    "cannot be told": "Whether pretraining paid off cannot be told",
}


@dataclass(frozen=True)
class Row:
    label: str
    numbers: Mapping[str, Spread]
    above: Mapping[str, Mapping[str, Spread]]  # baseline -> number -> paired difference


@dataclass(frozen=True)
class Comparison:
    rows: tuple[Row, ...]
    reading: tuple[str, ...]  # sentences; the first says whether pretraining paid off

    @property
    def names(self) -> list[str]:
        """Names of the numbers."""
        return list(self.rows[0].numbers)

    @property
    def baselines(self) -> list[str]:
        """Labels of the candidates that others are compared with."""
        return list(dict.fromkeys(baseline for row in self.rows for baseline in row.above))

    def lines(self) -> list[str]:
        """Format for a console: numbers in percent, ± their standard deviation over seeds, then differences."""
        width = max(map(len, self.names)) + 2
        widths = [max(16, len(row.label) + 2) for row in self.rows]

        def line(first: str, cells: Iterable[str]) -> str:
            cells = (f"{cell:>{w}}" for cell, w in zip(cells, widths, strict=True))
            return (f"{first.replace('_', ' '):{width}}" + "".join(cells)).rstrip()

        text = [f"{'':{width}}" + "".join(f"{row.label:>{w}}" for row, w in zip(self.rows, widths, strict=True))]
        text += [line(name, (percent(row.numbers.get(name)) for row in self.rows)) for name in self.names]
        for baseline in self.baselines:
            text += ["", f"points above {baseline}"]
            for name in self.names:
                differences = (row.above.get(baseline, {}).get(name) for row in self.rows)
                text.append(line(name, (points(d) if d else "" for d in differences)))
        return [*text, "", *self.reading]


def compare_results(results: Sequence[Result], measure: str | None = None) -> Comparison:
    """Compare results of one evaluation: one row a candidate, RANDOM and START first, else in the order given.

    Baselines are RANDOM and START; where there is neither, the first candidate. `measure` is the number that decides;
    None: the first. ValueError for results that cannot be compared: of another evaluation, protocol or data, or the
    same weights and seed twice.
    """
    candidates = _by_candidate(results)
    names = [name for name in results[0].numbers if name not in OF_THE_DATA]
    measure = measure or names[0]
    if measure not in names:
        raise ValueError(f"there is no number {measure!r} in these results; there are: {', '.join(names)}")
    baselines = [label for label in (RANDOM, START) if label in candidates] or [next(iter(candidates))]
    rows = []
    for label, runs in candidates.items():
        above = {
            baseline: {n: d for n in names if (d := paired_difference(runs, candidates[baseline], n))}
            for baseline in baselines
            if baseline != label and label != RANDOM
        }
        rows.append(Row(label, {name: value for name in names if (value := spread_of(runs, name))}, above))
    return Comparison(tuple(rows), tuple(_conclusions(candidates, measure)))


def _by_candidate(results: Sequence[Result]) -> dict[str, BySeed]:
    """Group results by label and seed. ValueError for what does not belong together."""
    if not results:
        raise ValueError("there are no results to compare")
    grouped: dict[str, dict[int | None, Mapping[str, float]]] = {}
    for result in results:
        _check_comparable(results[0], result)
        runs = grouped.setdefault(result.of, {})
        if runs and (None in runs) == result.drawn:
            raise ValueError(f"results of {result.of} both with seeds and without: {result.weights}")
        for seed, numbers in result.seeds().items() if result.drawn else [(None, result.numbers)]:
            if seed in runs:
                which = "" if seed is None else f" with seed {seed}"
                raise ValueError(f"two results of {result.of}{which}: {result.weights}")
            runs[seed] = numbers
    first = [label for label in (RANDOM, START) if label in grouped]
    return {label: grouped[label] for label in dict.fromkeys([*first, *grouped])}


def _check_comparable(first: Result, other: Result) -> None:
    for name in ("evaluation", "protocol", "fingerprint"):
        expected, actual = getattr(first, name), getattr(other, name)
        if expected != actual:
            word = "images or labels" if name == "fingerprint" else name
            raise ValueError(
                f"results cannot be compared, their {word} differ: {expected!r} ({first.of}, {first.weights}) and "
                f"{actual!r} ({other.of}, {other.weights})"
            )


def _conclusions(candidates: Mapping[str, BySeed], measure: str) -> list[str]:
    """Compare the run's end with what it started from (or random weights), then with all others."""
    if END not in candidates or len(candidates) == 1:
        return []
    start = START if START in candidates else RANDOM if RANDOM in candidates else None
    text = []
    if start:
        verdict, words = _judge(candidates, start, measure)
        text.append(f"{VERDICTS[verdict]}: by {measure.replace('_', ' ')}, {END} is {words} {start}.")
    for baseline in candidates:
        if baseline not in (END, start):
            verdict, words = _judge(candidates, baseline, measure)
            no_better = ", so it is no better" if verdict == "no better" else ""
            text.append(f"{END[0].upper()}{END[1:]} is {words} {baseline}{no_better}.")
    return text


def _judge(candidates: Mapping[str, BySeed], baseline: str, measure: str) -> tuple[str, str]:
    """Return (a key of VERDICTS, words that go between "the run's end is" and the baseline's label)."""
    difference = paired_difference(candidates[END], candidates[baseline], measure)
    if not difference:
        return "cannot be told", "not comparable (no seed in common) with"
    less_is_better = measure in LOWER_IS_BETTER or measure.startswith("error_")
    gain = -difference["mean"] if less_is_better else difference["mean"]
    seeded = [label for label in (END, baseline) if None not in candidates[label]]
    basis = _basis(difference["seeds"], seeded)
    significant = is_significant(difference, one_more=len(seeded) == 1 or baseline == RANDOM)
    if gain == 0:
        return "cannot be told" if significant is None else "no better", f"exactly as good ({basis}) as"
    direction = "better" if gain > 0 else "worse"
    size = points({**difference, "mean": abs(gain)}).removeprefix("+")
    if significant is None:
        return "cannot be told", f"{size} points {direction} ({basis}: too few to tell) than"
    if significant:
        words = f"{size} points {direction} (more than the spread over {basis} explains) than"
        return "better" if gain > 0 else "no better", words
    words = f"{size} points {direction} (within the spread over {basis}: not told apart) than"
    return "not shown" if gain > 0 else "no better", words


def _basis(n: int, seeded: Sequence[str]) -> str:
    """Say what a difference is a mean over."""
    if not seeded:
        return "one number each, nothing was drawn"
    return f"{n} seed{'s' if n > 1 else ''}" + (f" of {seeded[0]}" if len(seeded) == 1 else "")

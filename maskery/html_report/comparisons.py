"""Tables of the evaluations of a run: whether pretraining helped."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..evals.comparison import compare_results
from ..evals.results import Result
from ..evals.seed_statistics import percent, points

TITLES = {
    "knn": "Nearest neighbours",
    "quick_probe": "Quick linear probe",
    "probe": "Linear probe",
    "finetune": "Fine-tuning",
    "segment": "Segmentation",
    "detect": "Detection",
    "robustness": "Robustness",
}


@dataclass(frozen=True)
class Table:
    title: str
    note: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    reading: tuple[str, ...] = ()


def tables(results: Sequence[Result]) -> list[Table]:
    """Make one table for every evaluation, protocol and data; of the same weights and seed the newest result counts."""
    groups: dict[tuple[str, str, str], dict[tuple[str, str], Result]] = {}
    for result in results:
        key = (result.evaluation, result.protocol, result.fingerprint)
        groups.setdefault(key, {})[result.of, str(sorted(result.seeds()))] = result
    made = [_table([*group.values()]) for group in groups.values()]
    return sorted(made, key=lambda table: not table.reading)  # those that say whether it helped come first


def before_and_after_table(facts: Mapping[str, Any]) -> Table | None:
    """Compare the run's first and last periodic evaluation."""
    rows = [
        (_words(name), f"{v['before']:.4g}", f"{v['after']:.4g}")
        for name, v in facts.items()
        if isinstance(v, Mapping) and {"before", "after"} <= v.keys()
    ]
    note = f"Measured by the run itself, before the first step and after step {facts.get('step', '?')}."
    return Table("First and last evaluation", note, ("", "before", "after"), tuple(sorted(rows))) if rows else None


def compare_table(facts: Mapping[str, Any]) -> Table | None:
    """Show what `maskery compare` measured of this run."""
    names = [name for name in facts if name.startswith(("knn_", "linear_")) and isinstance(facts[name], float)]
    rows = tuple((_words(name), f"{100 * facts[name]:.1f} %") for name in names)
    return Table("As measured by maskery compare", "", ("", "the run's end"), rows) if rows else None


def _table(results: list[Result]) -> Table:
    first = results[0]
    title = TITLES.get(first.evaluation, first.evaluation)
    try:
        comparison = compare_results(results)
    except ValueError as e:
        rows = tuple((result.of, *(f"{value:.4g}" for value in result.numbers.values())) for result in results)
        return Table(title, f"{first.protocol}. {e}", ("", *map(_words, first.numbers)), rows)
    rows, baselines = comparison.rows, comparison.baselines
    heads = ("", *(row.label for row in rows), *(f"above {baseline}" for baseline in baselines))
    cells = []
    for name in comparison.names:
        above = [next((points(row.above[b].get(name)) for row in rows[::-1] if b in row.above), "-") for b in baselines]
        cells.append((_words(name), *(percent(row.numbers.get(name)) for row in rows), *above))
    return Table(title, f"{first.protocol}.", heads, tuple(cells), comparison.reading)


def _words(name: str) -> str:
    return name.replace("_", " ")

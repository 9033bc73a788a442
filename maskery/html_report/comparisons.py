"""Did it help? Evaluations of a run side by side with what it is compared with."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..evals.comparison import compare_results
from ..evals.paired import percent, points
from ..evals.results import Result

NAMES = {
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
    reading: tuple[str, ...]


def tables(results: Sequence[Result]) -> list[Table]:
    """One table for every evaluation, protocol and data; of the same weights and seed the newest counts."""
    groups: dict[tuple[str, str, str], dict[tuple[str, str], Result]] = {}
    for result in results:
        key = (result.evaluation, result.protocol, result.fingerprint)
        groups.setdefault(key, {})[result.of, str(sorted(result.seeds()))] = result
    made = [_table([*group.values()]) for group in groups.values()]
    return sorted(made, key=lambda table: not table.reading)  # those that say whether it helped come first


def before_after(facts: Mapping[str, Any]) -> Table | None:
    """The run's own first and last look."""
    rows = [
        (name.replace("_", " "), f"{v['before']:.4g}", f"{v['after']:.4g}")
        for name, v in facts.items()
        if isinstance(v, Mapping) and {"before", "after"} <= v.keys()
    ]
    note = f"Looked at by the run itself, before the first step and after step {facts.get('step', '?')}."
    return Table("First and last look", note, ("", "before", "after"), tuple(sorted(rows)), ()) if rows else None


def compared(facts: Mapping[str, Any]) -> Table | None:
    """What `maskery compare` measured of this run."""
    names = [n for n in facts if n.startswith(("knn_", "linear_")) and isinstance(facts[n], float)]
    rows = tuple((n.replace("_", " "), f"{100 * facts[n]:.1f} %") for n in names)
    return Table("As maskery compare measured it", "", ("", "the run's end"), rows, ()) if rows else None


def _table(results: list[Result]) -> Table:
    first = results[0]
    title = NAMES.get(first.evaluation, first.evaluation)
    try:
        comparison = compare_results(results)
    except ValueError as e:
        rows = tuple((r.of, *(f"{v:.4g}" for v in r.numbers.values())) for r in results)
        return Table(title, f"{first.protocol}. {e}", ("", *(n.replace("_", " ") for n in first.numbers)), rows, ())
    rows, baselines = comparison.rows, comparison.baselines
    heads = ("", *(row.label for row in rows), *(f"above {baseline}" for baseline in baselines))
    cells = []
    for name in comparison.names:
        above = [next((points(row.above[b].get(name)) for row in rows[::-1] if b in row.above), "-") for b in baselines]
        cells.append((name.replace("_", " "), *(percent(row.numbers.get(name)) for row in rows), *above))
    return Table(title, f"{first.protocol}.", heads, tuple(cells), comparison.conclusions)

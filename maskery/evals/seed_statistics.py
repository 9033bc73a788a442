"""Statistics over seeds. Differences are paired: runs of one seed share images, order, crops and initial weights."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

FEWEST_SEEDS = 3  # from which a spread says something

BySeed = Mapping[Any, Mapping[str, Any]]  # seed -> numbers of a run; under None: numbers that depend on no seed


class Spread(TypedDict):
    mean: float
    std: float | None  # of a sample; None with one seed
    seeds: int


def spread(values: Sequence[float]) -> Spread:
    std = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.fmean(values), "std": std, "seeds": len(values)}


def spread_of(runs: BySeed, name: str) -> Spread | None:
    """Summarise the number `name` over seeds; None when no run has it."""
    values = [run[name] for run in runs.values() if name in run]
    return spread(values) if values else None


def paired_difference(runs: BySeed, baseline: BySeed, name: str) -> Spread | None:
    """Summarise `runs` - `baseline` over the seeds that both have; None when there is no such seed.

    A result that depends on no seed is paired with every seed of the other model.
    """
    seeds = [seed for seed in (*runs, *baseline) if seed is not None] or [None]
    runs, baseline = (dict.fromkeys(seeds, of[None]) if None in of else of for of in (runs, baseline))
    both = [seed for seed in runs if seed in baseline and name in runs[seed] and name in baseline[seed]]
    return spread([runs[seed][name] - baseline[seed][name] for seed in both]) if both else None


def is_significant(difference: Spread, one_more: bool = False) -> bool | None:
    """Whether the 95 % interval of the mean difference excludes 0 (Student's t); None with too few seeds to tell.

    `one_more`: it has to exceed one more draw too, not only the error of the mean of n.
    """
    from scipy.special import stdtrit

    n, std = difference["seeds"], difference["std"]
    if n < FEWEST_SEEDS or std is None:
        return None
    std *= math.sqrt(n + 1) if one_more else 1
    return bool(abs(difference["mean"]) > stdtrit(n - 1, 0.975) * std / math.sqrt(n))


def percent(value: Spread | None) -> str:
    """Format as "70.0 ± 10.0", or "70.0 %" for one seed; "-" for None."""
    if not value:
        return "-"
    mean, std = 100 * value["mean"], value["std"]
    return f"{mean:.1f} %" if std is None else f"{mean:.1f} ± {100 * std:.1f}"


def points(difference: Spread | None) -> str:
    """Format a difference of fractions as signed percentage points; "-" for None."""
    if not difference:
        return "-"
    std = "" if difference["std"] is None else f" ± {100 * difference['std']:.1f}"
    mean = round(100 * difference["mean"], 1) + 0.0  # no -0.0
    return f"{mean:+.1f}{std}"

"""Judge a run's health: verdicts (good, watch or act) with a sentence and advice, from the files of a run.

A pure function of the metrics, the configuration and the losses of trivial baselines on the same images. The comment
at each threshold gives its reason; docs/health.md says which runs they were tuned on.
"""

from collections.abc import Callable

from .collapse import features, images, teacher
from .learning import loss, neighbours, trend
from .optimiser import gradients, learning_rate
from .throughput import data_wait, device, speed, time_left
from .verdict import RunRecord, Verdict

CHECKS: tuple[Callable[[RunRecord], Verdict | None], ...] = (
    loss,
    trend,
    neighbours,
    features,
    teacher,
    images,
    gradients,
    learning_rate,
    data_wait,
    device,
    speed,
    time_left,
)


def verdicts(record: RunRecord) -> tuple[Verdict, ...]:
    """One verdict for each check that the run has numbers for."""
    return tuple(verdict for check in CHECKS if (verdict := check(record)) is not None)

"""Is this run healthy? Sentences with a verdict (good, watch, act) and what to do, from what a run has written.

A pure function of the metrics, the configuration and what guesses would lose on these images. Every threshold has its
reason beside it, in the file of its check; what they were tuned on is in docs/health.md.
"""

from collections.abc import Callable

from .collapse import features, images, teacher
from .learning import loss, neighbours, trend
from .optimiser import gradients, learning_rate
from .throughput import data_wait, device, speed, time_left
from .verdict import Facts, Verdict

CHECKS: tuple[Callable[[Facts], Verdict | None], ...] = (
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


def verdicts(f: Facts) -> tuple[Verdict, ...]:
    """What can be said so far, one verdict a question; what there are no numbers for is left out."""
    return tuple(found for check in CHECKS if (found := check(f)) is not None)

"""The objective of a task, from the checkpoint of its run."""

from typing import Any

from ..runs.directory import RunDirectory
from . import TASKS


def load_objective(directory: RunDirectory) -> Any:
    """Load the named checkpoint, else the best, else the newest: in eval mode, on the CPU."""
    run = directory.run
    objective = TASKS[run.method](run.settings, run.vit())
    objective.load_state_dict(directory.tensors(best=True))
    return objective.eval()

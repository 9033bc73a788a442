"""The objective of a task, from the checkpoint of its run."""

from pathlib import Path
from typing import Any

from ..runs.directory import RunDirectory, open_run
from . import TASKS


def load_objective(where: Path | RunDirectory) -> Any:
    """Load a task's run, its best checkpoint where one was kept, or a named checkpoint: in eval mode, on the CPU."""
    directory = where if isinstance(where, RunDirectory) else open_run(where)
    run = directory.run
    objective = TASKS[run.method](run.settings, run.vit())
    objective.load_state_dict(directory.tensors(best=True))
    return objective.eval()

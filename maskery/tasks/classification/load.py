"""A classifier that a task has trained, as others use it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from ...config import ImagesConfig, Run
from ...runs.best import best_of
from ...runs.directory import is_run, objective_state, run_of
from .. import TASKS
from .objective import Classifier

CHOSEN = "chosen.json"  # in a run's evals/: which of several heads is the classifier, and how good it is


@dataclass(frozen=True)
class Trained:
    run: Run
    task: Classifier  # in eval mode
    head: int  # of several that were trained side by side

    @property
    def classes(self) -> tuple[str, ...]:
        return self.task.labels.names

    @property
    def several(self) -> bool:
        """Whether an image may have several of the classes."""
        return self.task.labels.several

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of its input in pixels."""
        return self.run.size

    @property
    def share(self) -> float:
        """Of the resized image, what the evaluation's centre crop keeps."""
        return self.task.config.eval_share

    @property
    def images(self) -> ImagesConfig:
        return self.run.images

    def to(self, device: torch.device | str) -> Self:
        self.task.to(device)
        return self

    def classify(self, image: Tensor) -> Tensor:
        """Images [B, C, h, w] in [0, 1] -> logits [B, M]."""
        with torch.no_grad():
            return self.task.classify(image)[:, self.head]


def load_classifier(where: Path) -> Trained:
    """The classifier of a run of `eval probe` or `eval finetune`: where it was best, else its end. On the CPU.

    Of a checkpoint of such a run, as it was then. ValueError in one line when there is none.
    """
    if not is_run(where):
        below = [f"{place}" for place in sorted(where.glob("*-seed*")) if is_run(place)]
        raise ValueError(
            f"{where}: no classifier: a run of `maskery eval finetune` or `eval probe` is wanted, the directory with "
            "checkpoints/ in it" + (f"; there are: {', '.join(below[:5])}" if below else "")
        )
    run = run_of(where)
    if run.method not in TASKS or not issubclass(TASKS[run.method], Classifier):
        raise ValueError(f"{where}: a run of {run.method}, which classifies nothing; `maskery eval finetune` makes one")
    task = load_task(where, run)
    file = run_directory(where) / "evals" / CHOSEN
    head = json.loads(file.read_text())["head"] if file.exists() else 0
    return Trained(run, task, head)


def refuse_unfinished(where: Path) -> None:
    """ValueError when the run at WHERE has not been measured, so that it is at its middle, or no head was chosen."""
    if not (where / "evals" / CHOSEN).exists():
        method = run_of(where, lambda note: None).method
        raise ValueError(
            f"{where}: not finished: the command of `maskery eval {method}` that began it goes on, and measures it "
            "at the end"
        )


def run_directory(where: Path) -> Path:
    """That of a run, or of one of its checkpoints."""
    return where if (where / "checkpoints").is_dir() else where.parent.parent


def load_task(where: Path, run: Run | None = None) -> Any:
    """What a run of a task has trained, where it was best, else its end. In eval mode, on the CPU."""
    run = run or run_of(where)
    task = TASKS[run.method](run.settings, run.vit())
    task.load_state_dict(objective_state(best_of(where) or where))
    return task.eval()

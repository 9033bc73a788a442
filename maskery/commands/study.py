"""A study trains and measures every model with every seed, and goes on where an earlier call stopped.

A cell of it, one model with one seed, is an ordinary run directory; its result is a file in its evals/, written once.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

from ..config import Run
from ..data.dataset import SurveyedSource
from ..distributed import World
from ..runs.directory import open_run
from ..train import train


@dataclass(frozen=True)
class Cell:
    label: str  # of the model
    run: Run  # with the cell's seed
    directory: Path
    note: str  # printed before the run is trained

    def file(self, name: str) -> Path:
        """Where results of the cell are written."""
        return self.directory / "evals" / name

    def train(self, world: World, surveyed: SurveyedSource | None = None) -> None:
        """Train the run, or resume it, on images that are open already. KeyboardInterrupt when a signal stopped it."""
        torch.compiler.reset()  # it gives up on code that was compiled for many networks
        if world.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(world.device)
        notes = [self.note]
        resume = (self.directory / "config.yaml").exists()
        run = open_run(self.directory, notes.append).run if resume else self.run
        if train(run, self.directory, world, notes, resume=resume, surveyed=surveyed).signalled:
            raise KeyboardInterrupt


def complete(
    cells: Iterable[Cell], train_and_measure: Callable[[Cell], None], raise_if_signalled: Callable[[], None]
) -> bool:
    """Train and measure the cells that have no result yet, in order. False when a signal stopped it.

    `cells` may work between two cells: measure a baseline, time a model.
    """
    try:
        for cell in cells:
            raise_if_signalled()
            train_and_measure(cell)
    except KeyboardInterrupt:
        return False
    return True

"""The driver of studies: cells in order, interrupted between and within them, resumed."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from maskery.commands.compare_options import parse_plan
from maskery.commands.study import Cell, complete
from maskery.config import Run
from maskery.distributed import ALONE
from maskery.methods.mae import MAEConfig
from maskery.options import options
from tests.test_train import TINY, metrics


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def cells(done: list[str]) -> Iterator[Cell]:
    for label in ("a", "b"):
        done.append(f"before {label}")
        yield Cell(label, Run(MAEConfig()), Path(label), "")


def test_cells_are_completed_in_order() -> None:
    done: list[str] = []
    assert complete(cells(done), lambda cell: done.append(cell.label), lambda: None)
    assert done == ["before a", "a", "before b", "b"]


@pytest.mark.parametrize(("train", "check"), [(interrupted, lambda: None), (lambda cell: None, interrupted)])
def test_a_signal_ends_the_study(train: Callable[[Cell], None], check: Callable[[], None]) -> None:
    done: list[str] = []
    assert not complete(cells(done), train, check)
    assert done == ["before a"]


def test_a_cell_with_a_run_is_resumed(scene_folder: Path, tmp_path: Path) -> None:
    args = options(TINY | {"data": str(scene_folder), "out": "o", "methods": "mae", "seeds": 1, "steps": 2})
    runs, *_ = parse_plan(args).runs(ALONE.device)
    cell = Cell("mae", runs["mae", 0], tmp_path / "run", "the first")
    cell.train(ALONE)
    before = metrics(cell.directory)
    replace(cell, run=replace(cell.run, steps=9)).train(ALONE)  # the directory says how long
    assert metrics(cell.directory) == before

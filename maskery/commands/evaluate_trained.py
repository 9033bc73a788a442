"""`maskery eval probe`, `finetune`, `segment`, `detect`, `vqa`: train candidates on labels, measure, compare.

OUT/<candidate>-seed<seed>/ is an ordinary run directory; its result is in its evals/, written once. Called again,
finished runs are taken as they are and interrupted ones are resumed.
"""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from .. import config
from ..data.dataset import SurveyedSource
from ..data.sources.source import Source, split_indices
from ..data.survey import survey
from ..distributed import World, world
from ..evals.candidates import candidates_of
from ..evals.comparison import Comparison, compare_results
from ..evals.label_subset import LabelSubset
from ..evals.results import END, Result, read_result, write_result, write_results
from ..evals.splits import overlap_notes, test_and_validation
from ..options import options
from ..outputs import write_file
from ..signals import interruptible
from ..tasks.measure import RESULT, measure
from ..terminal import Quiet, Terminal
from .evaluate_trained_options import LabelledImages, Task, TaskCommand, build_run, with_seed
from .study import Cell, complete

PLANNED = "asked.yaml"  # in every run directory: the run before the data and the machine complete it


@dataclass(frozen=True)
class TaskStudyResult:
    out: Path
    stopped: bool  # by a signal; the same call goes on
    results: tuple[Result, ...] = ()  # one a candidate
    table: Comparison | None = None


def probe(args: Sequence[str] = (), **leaves: Any) -> TaskStudyResult:
    """`maskery eval probe`: options as a list, in Python `probe(where=..., data=..., seeds=3, beside=["random"])`."""
    return evaluate("probe", args, **leaves)


def finetune(args: Sequence[str] = (), **leaves: Any) -> TaskStudyResult:
    """`maskery eval finetune`, likewise."""
    return evaluate("finetune", args, **leaves)


def segment(args: Sequence[str] = (), **leaves: Any) -> TaskStudyResult:
    """`maskery eval segment`, likewise."""
    return evaluate("segment", args, **leaves)


def detect(args: Sequence[str] = (), **leaves: Any) -> TaskStudyResult:
    """`maskery eval detect`, likewise."""
    return evaluate("detect", args, **leaves)


def vqa(args: Sequence[str] = (), **leaves: Any) -> TaskStudyResult:
    """`maskery eval vqa`, likewise."""
    return evaluate("vqa", args, **leaves)


def evaluate(task: Task, args: Sequence[str] = (), **leaves: Any) -> TaskStudyResult:
    """Train and measure every candidate with every seed, print the table. Finished runs are taken as they are."""
    command = TaskCommand.parse(task, [*args, *options(leaves)])
    with world() as here, interruptible() as raise_if_signalled:
        terminal = Terminal() if here.main else Quiet()
        cells, source = plan_cells(command, terminal.say)
        prepare_directories(command, cells, here)
        unfinished = [cell for cell in cells if not cell.file(RESULT).exists()]
        with terminal.bar("looking at images") as tick:
            sample = survey(source, pages=cells[0].run.images.pages, progress=tick) if unfinished else None
        surveyed = SurveyedSource(source, sample) if sample else None
        finished = complete(unfinished, partial(train_and_measure, world=here, surveyed=surveyed), raise_if_signalled)
        if not finished:
            terminal.say(f"stopped by a signal; the same command goes on with {command.out}")
        if not finished or not here.main:
            return TaskStudyResult(command.out, not finished)
        warnings = overlap_warnings(source, cells[0].run.images.holdout) if command.options.overlap else ()
    results = average_over_seeds(cells, warnings)
    table = compare_results(results)
    for result in results:
        write_result(result, Path(command.options.where))
    if command.options.json:
        write_results(results, command.options.json)
    for note in dict.fromkeys(note for result in results for note in result.notes):
        terminal.say(note)
    print("\n".join(["", *table.lines(), "", results[0].protocol, f"runs     {command.out}"]))
    return TaskStudyResult(command.out, False, results, table)


def plan_cells(command: TaskCommand, say: Callable[[str], None]) -> tuple[list[Cell], Source]:
    """Check everything and build the runs, all candidates of a seed before the next one."""
    candidates = candidates_of(Path(command.options.where), command.options.beside)
    if command.options.run.images.masks:
        say("reading all masks once: which classes there are, and whether masks fit their images")
    labelled, runs = LabelledImages.open(command), {}
    for candidate in candidates:
        runs[candidate], reasons = build_run(command, candidate, labelled)
        for reason in reasons if candidate.label == END or len(candidates) == 1 else ():
            say(reason)
    subset = LabelSubset.parse(command.options.labels, command.options.shots)
    cells = [
        Cell(
            candidate.label,
            with_seed(run, seed, subset),
            command.out / f"{candidate.folder}-seed{seed}",
            f"{command.task} of {candidate.label}, seed {seed}",
        )
        for seed in command.seeds
        for candidate, run in runs.items()
    ]
    return cells, labelled.source


def prepare_directories(command: TaskCommand, cells: Sequence[Cell], here: World) -> None:
    """Remove what is to be overwritten. ValueError when a directory holds something else."""
    if command.options.overwrite and here.main and command.out.exists():
        others = [path.name for path in command.out.iterdir() if not (path / PLANNED).exists()]
        if others:
            raise ValueError(f"{command.out}: holds something else than evaluations ({others[0]}) and is not replaced")
        shutil.rmtree(command.out)
    here.wait()
    for cell in cells:
        planned = cell.directory / PLANNED
        if cell.directory.exists() and (not planned.exists() or planned.read_text() != config.dump(cell.run)):
            raise ValueError(
                f"{cell.directory}: holds another evaluation; --overwrite replaces it, --out takes another directory"
            )
    here.wait()


def train_and_measure(cell: Cell, world: World, surveyed: SurveyedSource | None) -> None:
    """Train a run or resume it, write its evals/result.json."""
    if world.main:
        write_file(cell.directory / PLANNED, config.dump(cell.run).encode())
    cell.train(world, surveyed)
    if world.main:
        measure(cell.directory, world.device, cell.label, cell.run.init or "random", surveyed)
    world.wait()


def overlap_warnings(source: Source, holdout: float) -> list[str]:
    """Warn of held-out images that are training images too."""
    train, held_out = split_indices(source, holdout)
    with Terminal().bar("comparing files") as tick:
        return overlap_notes(source, train, test_and_validation(source, held_out)[0], tick)


def average_over_seeds(cells: Sequence[Cell], warnings: Sequence[str]) -> tuple[Result, ...]:
    """Read the results of all runs and make one of each candidate."""
    averages = []
    for label in dict.fromkeys(cell.label for cell in cells):
        results = [read_result(cell.file(RESULT)) for cell in cells if cell.label == label]
        notes = dict.fromkeys([*(note for result in results for note in result.notes), *warnings])
        facts = vars(results[0]) | {"notes": tuple(notes), "made": ""}
        facts = {name: value for name, value in facts.items() if name not in ("numbers", "seed", "by_seed")}
        averages.append(Result.repeated({result.seed: result.numbers for result in results}, **facts))
    return tuple(averages)

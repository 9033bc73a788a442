"""`maskery eval probe`, `finetune`, `segment`, `detect`, `vqa`: train candidates on labels, measure, compare.

OUT/<candidate>-seed<seed>/ is an ordinary run directory; its result is in its evals/, written once. Called again,
finished runs are taken as they are and interrupted ones are resumed.
"""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import numpy as np
import torch
import tyro

from .. import config
from ..config import ImagesConfig, Run
from ..data.dataset import ImageData, SurveyedSource
from ..data.images import Images
from ..data.sources.open import open_source
from ..data.sources.source import Source, split_indices
from ..data.survey import survey
from ..distributed import World, world
from ..evals.candidates import Candidate, candidates_of
from ..evals.comparison import Comparison, compare_results
from ..evals.label_subset import LabelSubset
from ..evals.results import END, Result, read_result, write_result, write_results
from ..evals.splits import overlap_notes, test_and_validation
from ..nn.vit import SIZES, Size, ViTConfig
from ..options import UsageError, options, parse, value_of
from ..outputs import write_file
from ..runs.directory import is_run
from ..signals import interruptible
from ..tasks import TASK_RECIPES, TASKS
from ..tasks.labels import LabelsConfig
from ..tasks.measure import RESULT, measure
from ..tasks.small_data import LabelledData
from ..terminal import Quiet, Terminal
from ..weights.load import image_config, load_encoder
from .pretrain import with_length
from .study import Cell, complete

PLANNED = "asked.yaml"  # in every run directory: the run before the data and the machine complete it
Task = Literal["probe", "finetune", "segment", "detect", "vqa"]
LABELLED = "images with labels: class folders, a list (.csv) or a table"
DATA = {
    "segment": "images with masks: images/ beside masks/ or annotations/, or a table with a column of masks",
    "detect": "images with objects: a folder with annotations/instances_train*.json or train.json, COCO's",
    "vqa": "images with questions: a folder with VQAv2's files, *_train*_questions.json and its annotations",
}


@dataclass(frozen=True)
class TaskOptions:
    """Train on the labels of the training images, measure on the held-out ones. Unless you say otherwise, as MAE does,
    with changes for small data that are printed."""

    run: Annotated[Run, tyro.conf.arg(name="")]
    where: str = ""  # a run, a checkpoint, or weights from elsewhere: a directory, a file, timm:NAME (docs/weights.md)
    out: str | None = None  # directory of the runs; None: in the evals/ of the run at WHERE
    beside: tuple[str, ...] = ()  # what to compare it with: random, start (what it started from), other weights
    seeds: int = 1  # number of runs: with --seed, the seed after it ...
    labels: str | None = None  # learn from this fraction of the labels only, like 1%; another draw for every seed
    shots: int | None = None  # learn from so many labelled images of each class only
    json: Path | None = None  # write the result there as well; with --beside a list
    overlap: bool = True  # look for held-out images that are training images too
    overwrite: bool = False  # remove what is in `out`


HIDDEN = {Run: ("method", "model", "patch_size", "init")}  # which the weights decide


@dataclass(frozen=True)
class TaskCommand:
    task: Task
    args: tuple[str, ...]
    options: TaskOptions
    out: Path  # directory of the runs

    @classmethod
    def parse(cls, task: Task, args: Sequence[str]) -> "TaskCommand":
        """Parse the options without reading data or weights. UsageError names the one that is wrong."""
        images = ImagesConfig(masks=task == "segment", objects=task == "detect", questions=task == "vqa")
        default = TaskOptions(Run(settings=TASKS[task].Config(), images=images))
        options = parse(TaskOptions, args, f"maskery eval {task}", default, HIDDEN)
        if not options.where:
            raise UsageError(f"maskery eval {task} WHERE: a run or weights are missing")
        if not options.run.data:
            raise UsageError(f"--data is missing: {DATA.get(task, LABELLED)}")
        if options.seeds < 1:
            raise UsageError(f"--seeds is {options.seeds}: it has to be at least 1")
        return cls(task, tuple(args), options, Path(options.out) if options.out else _directory(task, options))

    @property
    def seeds(self) -> range:
        return range(self.options.run.seed, self.options.run.seed + self.options.seeds)

    def apply_to(self, recipe: Run) -> Run:
        """Replace what options say in the run of a recipe."""
        default = replace(self.options, run=recipe)
        return with_length(parse(TaskOptions, self.args, "maskery eval", default, HIDDEN).run, self.args)


def _directory(task: Task, options: TaskOptions) -> Path:
    """Name the directory of the runs inside the run that is evaluated."""
    where = Path(options.where)
    if not is_run(where) or not (where / "checkpoints").is_dir():
        raise UsageError(f"--out is missing: {where} is no run that could take the results")
    percent = f"-{options.labels.replace('%', 'percent')}" if options.labels else ""
    return where / "evals" / f"{task}{percent or (f'-{options.shots}-shots' if options.shots else '')}"


def open_labelled(command: TaskCommand) -> tuple[Source, Any, LabelledData]:
    """Open the images undecoded and complete the task's settings by them. ValueError when the labels teach nothing."""
    options, run = command.options, command.options.run
    source = open_source(run.data, run.images)
    images = Images(source, channels=3, bits=8, pages=run.images.pages, min_side=1)
    opened = ImageData(images, *split_indices(source, run.images.holdout), run.images, ())
    settings = replace(run.settings, labels=LabelsConfig(options.labels, options.shots, run.seed))
    settings, data = TASKS[command.task].prepare(settings, opened)
    n = len(data.train)
    divisible = n > 1 if data.labels is None else n > len(np.unique(data.labels[data.train]))
    return source, settings, LabelledData(n, multilabel=settings.labels.several, divisible=divisible)


def build_run(
    command: TaskCommand, candidate: Candidate, settings: Any, data: LabelledData
) -> tuple[Run, Sequence[str]]:
    """Build the `Run` for one candidate and explain each setting chosen. Its seed is set later."""
    options = command.options
    vit = load_encoder(candidate.where or Path(options.where), lambda note: None).config
    images = replace(options.run.images, channels=vit.channels, mean=vit.mean, std=vit.std, labels=True)
    if trained := image_config(Path(options.where)):
        images = replace(images, bits=images.bits or trained.bits, pages=trained.pages)
    sized = value_of(command.args, "--image-size") is not None
    start = Run(
        settings=settings,
        data=options.run.data,
        model=_model_name(candidate.label, vit),
        patch_size=vit.patch_size,
        image_size=options.run.image_size if sized else vit.image_size,
        init=str(candidate.where) if candidate.where is not None else None,
        images=images,
        save=options.run.save,
    )
    data = replace(data, channels=vit.channels, bits=images.bits or 8)
    recipe = TASK_RECIPES[command.task](start, data)
    run = command.apply_to(recipe.run)
    run = replace(run, images=replace(run.images, channels=vit.channels, mean=vit.mean, std=vit.std))
    with torch.device("meta"):  # checks layers, sizes and rates without memory
        TASKS[command.task](run.settings, run.vit())
    return run, recipe.reasons


def _model_name(label: str, vit: ViTConfig) -> str:
    """Find the name of a network's size. ValueError when it has none."""
    name = next((name for name, size in SIZES.items() if size == Size(vit.dim, vit.depth, vit.heads)), None)
    if name is None:
        raise ValueError(
            f"{label}: a network {vit.dim} wide with {vit.depth} blocks and {vit.heads} heads; those of "
            "`maskery list models` can be trained"
        )
    return name


def with_seed(run: Run, seed: int, subset: LabelSubset | None) -> Run:
    """Set the seed of the head, the order, the augmentation, and of which labels are learned from."""
    labels = replace(run.settings.labels, draw=seed)
    if subset:
        fraction = None if subset.fraction is None else f"{100 * subset.fraction:g}%"
        labels = replace(labels, share=fraction, shots=subset.shots)
    return replace(run, seed=seed, settings=replace(run.settings, labels=labels))


@dataclass(frozen=True)
class TaskStudyResult:
    out: Path
    stopped: bool  # by a signal; the same call goes on
    results: tuple[Result, ...] = ()  # one a candidate
    table: Comparison | None = None


def _verb(task: Task) -> Callable[..., TaskStudyResult]:
    def evaluate_task(args: Sequence[str] = (), **leaves: Any) -> TaskStudyResult:
        return evaluate(task, args, **leaves)

    evaluate_task.__name__ = evaluate_task.__qualname__ = task
    evaluate_task.__doc__ = f"`maskery eval {task}`: options as a list, or in Python `{task}(where=..., data=...)`."
    return evaluate_task


probe, finetune, segment, detect, vqa = map(_verb, get_args(Task))


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
    (source, settings, data), runs = open_labelled(command), {}
    for candidate in candidates:
        runs[candidate], reasons = build_run(command, candidate, settings, data)
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
    return cells, source


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
        facts = {n: value for n, value in vars(results[0]).items() if n not in ("numbers", "seed", "by_seed")}
        facts |= {"notes": tuple(notes), "made": ""}
        averages.append(Result.repeated({result.seed: result.numbers for result in results}, **facts))
    return tuple(averages)

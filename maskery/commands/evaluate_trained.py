"""`maskery eval probe`, `finetune`, `segment`, `detect`, `vqa`: train candidates on labels, measure, compare.

OUT/<candidate>-seed<seed>/ is an ordinary run directory; its result is in its evals/, written once. Called again,
finished runs are taken as they are and interrupted ones are resumed.
"""

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import tyro

from .. import config
from ..config import ImagesConfig, Run
from ..data.dataset import ImageData
from ..data.images import Images
from ..data.sources.open import open_source
from ..data.sources.source import Source, split_indices
from ..distributed import World, world
from ..evals.candidates import Candidate, candidates_of
from ..evals.comparison import Comparison, compare_results
from ..evals.label_subset import Few
from ..evals.results import END, Result, read, write_all
from ..evals.results import write as write_result
from ..evals.splits import overlap, reported
from ..nn.vit import SIZES, Size, ViTConfig
from ..options import UsageError, options, parse, value_of
from ..outputs import write_file
from ..runs.directory import is_run
from ..signals import interruptible
from ..tasks import TASKS
from ..tasks.labels import LabelsConfig
from ..tasks.measure import RESULT, measure
from ..tasks.recipes import TASK_RECIPES
from ..tasks.small_data import LabelledData
from ..terminal import Quiet, Terminal
from ..weights.load import image_config, load_encoder
from .study import Cell, complete

Task = Literal["probe", "finetune", "segment", "detect", "vqa"]
CLASS_LABELS = "images with labels: class folders, a list (.csv) or a table"
DATA = {
    "probe": CLASS_LABELS,
    "finetune": CLASS_LABELS,
    "segment": "images with masks: images/ beside masks/ or annotations/, or a table with a column of masks",
    "detect": "images with objects: a folder with annotations/instances_train*.json or train.json, COCO's",
    "vqa": "images with questions: a folder with VQAv2's files, *_train*_questions.json and its annotations",
}
PLANNED = "asked.yaml"  # in every run directory: the run before the data and the machine complete it


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

    @property
    def subset(self) -> Few | None:
        """Which labels are learned from; None: all."""
        return Few.of(self.labels, self.shots)


HIDDEN = {Run: ("method", "model", "patch_size", "init")}  # are those of the weights


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
    command = Command.parse(task, [*args, *options(leaves)])
    with world() as here, interruptible() as raise_if_signalled:
        say = Terminal().say if here.main else Quiet().say
        study = TaskStudy.prepare(command, here, say)
        finished = complete(study.unfinished(), study.train_and_measure, raise_if_signalled)
        if not finished:
            say(f"stopped by a signal; the same command goes on with {command.out}")
        if not finished or not here.main:
            return TaskStudyResult(command.out, not finished)
        warnings = study.overlap_warnings() if command.options.overlap else ()
    results = study.results(warnings)
    return TaskStudyResult(command.out, False, results, publish(results, command))


def publish(results: Sequence[Result], command: "Command") -> Comparison:
    """Write the results, print their table and what they warn of."""
    table = compare_results(results)
    for result in results:
        write_result(result, Path(command.options.where))
    if command.options.json:
        if len(results) > 1:
            write_all(results, command.options.json)
        else:
            write_result(results[0], None, command.options.json)
    for note in dict.fromkeys(note for result in results for note in result.notes):
        Terminal().say(note)
    print("\n".join(["", *table.lines(), "", results[0].protocol, f"runs     {command.out}"]))
    return table


@dataclass(frozen=True)
class Command:
    """One call: a task and its options."""

    task: Task
    args: tuple[str, ...]
    options: TaskOptions
    out: Path  # directory of the runs

    @classmethod
    def parse(cls, task: Task, args: Sequence[str]) -> "Command":
        """Parse the options without reading data or weights. UsageError names the one that is wrong."""
        images = ImagesConfig(masks=task == "segment", objects=task == "detect", questions=task == "vqa")
        default = TaskOptions(Run(settings=TASKS[task].Config(), images=images))
        parsed = parse(TaskOptions, args, f"maskery eval {task}", default, HIDDEN)
        if not parsed.where:
            raise UsageError(f"maskery eval {task} WHERE: a run or weights are missing")
        if not parsed.run.data:
            raise UsageError(f"--data is missing: {DATA[task]}")
        if parsed.seeds < 1:
            raise UsageError(f"--seeds is {parsed.seeds}: it has to be at least 1")
        return cls(task, tuple(args), parsed, _out(task, parsed))

    def apply_to(self, recipe: Run) -> Run:
        """Replace what options say in the run of a recipe."""
        default = replace(self.options, run=recipe)
        run = parse(TaskOptions, self.args, f"maskery eval {self.task}", default, HIDDEN).run
        if value_of(self.args, "--epochs") is not None and value_of(self.args, "--steps") is None:
            run = replace(run, steps=None)
        if (run.epochs or 0 if run.steps is None else run.steps) <= 0:
            raise UsageError(f"--epochs {run.epochs} and --steps {run.steps}: one of them has to be above 0")
        return run


def _out(task: Task, options: TaskOptions) -> Path:
    if options.out:
        return Path(options.out)
    where = Path(options.where)
    if not is_run(where) or not (where / "checkpoints").is_dir():
        raise UsageError(f"--out is missing: {where} is no run that could take the results")
    percent = f"-{options.labels.replace('%', 'percent')}" if options.labels else ""
    shots = f"-{options.shots}-shots" if options.shots else ""
    return where / "evals" / f"{task}{percent or shots}"


@dataclass(frozen=True)
class Labelled:
    """The labelled images of the data, opened without decoding any."""

    source: Source
    settings: Any  # of the task, with what the data decide
    summary: LabelledData

    @classmethod
    def open(cls, command: Command) -> "Labelled":
        """ValueError when nothing can be learned from the labels."""
        run, labels = command.options.run, LabelsConfig(command.options.labels, command.options.shots)
        source = open_source(run.data, run.images)
        images = Images(source, channels=3, bits=8, pages=run.images.pages, min_side=1)
        opened = ImageData(images, *split_indices(source, run.images.holdout), run.images, ())
        settings = replace(run.settings, labels=replace(labels, draw=run.seed))
        settings, data = TASKS[command.task].prepare(settings, opened)
        n = len(data.train)
        divisible = n > 1 if data.labels is None else n > len(np.unique(data.labels[data.train]))
        return cls(source, settings, LabelledData(n, multilabel=settings.labels.several, divisible=divisible))


@dataclass(frozen=True)
class TaskStudy:
    """The runs of one evaluation: every candidate with every seed."""

    command: Command
    runs: dict[Candidate, Run]  # with any seed
    source: Source
    world: World

    @classmethod
    def prepare(cls, command: Command, here: World, say: Callable[[str], None]) -> "TaskStudy":
        """Check everything, then remove what is to be overwritten."""
        candidates = candidates_of(Path(command.options.where), command.options.beside)
        own = network(Path(command.options.where))
        if command.options.run.images.masks:
            say("reading all masks once: which classes there are, and whether masks fit their images")
        labelled, runs = Labelled.open(command), {}
        for candidate in candidates:
            vit = own if candidate.where is None else network(candidate.where)
            runs[candidate], reasons = build_run(command, candidate, vit, labelled)
            for reason in reasons if candidate.label == END or len(candidates) == 1 else ():
                say(reason)
        if command.options.overwrite and here.main:
            remove_runs(command.out)
        here.wait()
        study = cls(command, runs, labelled.source, here)
        for cell in study.cells():
            check_directory(cell)
        here.wait()
        return study

    @property
    def seeds(self) -> range:
        first = self.command.options.run.seed
        return range(first, first + self.command.options.seeds)

    def cell(self, candidate: Candidate, seed: int) -> Cell:
        note = f"{self.command.task} of {candidate.label}, seed {seed}"
        run = with_seed(self.runs[candidate], seed, self.command.options.subset)
        return Cell(candidate.label, run, self.command.out / f"{candidate.folder}-seed{seed}", note)

    def cells(self) -> Iterator[Cell]:
        """Iterate over all candidates of a seed before the next one."""
        return (self.cell(candidate, seed) for seed in self.seeds for candidate in self.runs)

    def unfinished(self) -> Iterator[Cell]:
        return (cell for cell in self.cells() if not (cell.directory / "evals" / RESULT).exists())

    def train_and_measure(self, cell: Cell) -> None:
        """Train a run or resume it, write its evals/result.json."""
        if self.world.main:
            cell.directory.mkdir(parents=True, exist_ok=True)
            write_file(cell.directory / PLANNED, config.dump(cell.run).encode())
        cell.train(self.world)
        if self.world.main:
            measure(cell.directory, self.world.device, cell.label, cell.run.init or "random")
        self.world.wait()

    def results(self, warnings: Sequence[str]) -> tuple[Result, ...]:
        """Read the results and average those of each candidate over seeds."""
        averaged = []
        for candidate in self.runs:
            cells = (self.cell(candidate, seed) for seed in self.seeds)
            by_seed = {cell.run.seed: read(cell.directory / "evals" / RESULT) for cell in cells}
            facts = vars(next(iter(by_seed.values())))
            facts = {name: facts[name] for name in facts if name not in ("numbers", "seed", "by_seed")}
            notes = dict.fromkeys([*(note for result in by_seed.values() for note in result.notes), *warnings])
            numbers = {seed: result.numbers for seed, result in by_seed.items()}
            averaged.append(Result.repeated(numbers, **facts | {"notes": tuple(notes), "made": ""}))
        return tuple(averaged)

    def overlap_warnings(self) -> tuple[str, ...]:
        """Warn of held-out images that are training images too."""
        images = next(iter(self.runs.values())).images
        train, held_out = split_indices(self.source, images.holdout)
        with Terminal().bar("comparing files") as tick:
            found = overlap(self.source, train, self.source, reported(self.source, held_out)[0], tick)
        sentence = found.sentence()
        return (sentence,) if sentence else ()


def network(where: Path) -> ViTConfig:
    """Read which network the weights are of."""
    return load_encoder(where, lambda note: None).config


def build_run(command: Command, candidate: Candidate, vit: ViTConfig, labelled: Labelled) -> tuple[Run, Sequence[str]]:
    """Build the `Run` for one candidate and explain each setting chosen. Its seed is set later."""
    asked = command.options.run
    trained = image_config(Path(command.options.where))
    images = replace(asked.images, channels=vit.channels, mean=vit.mean, std=vit.std, labels=True)
    if trained:
        images = replace(images, bits=images.bits or trained.bits, pages=trained.pages)
    sized = value_of(command.args, "--image-size") is not None
    start = Run(
        settings=labelled.settings,
        data=asked.data,
        model=model_name(candidate.label, vit),
        patch_size=vit.patch_size,
        image_size=asked.image_size if sized else vit.image_size,
        init=str(candidate.where) if candidate.where is not None else None,
        images=images,
        save=asked.save,
    )
    data = replace(labelled.summary, channels=vit.channels, bits=images.bits or 8)
    recipe = TASK_RECIPES[command.task](start, data)
    run = command.apply_to(recipe.run)
    run = replace(run, images=replace(run.images, channels=vit.channels, mean=vit.mean, std=vit.std))
    with torch.device("meta"):  # checks layers, sizes and rates without memory
        TASKS[command.task](run.settings, run.vit())
    return run, recipe.reasons


def model_name(label: str, vit: ViTConfig) -> str:
    """Find the name of a network's size. ValueError when it has none."""
    name = next((name for name, size in SIZES.items() if size == Size(vit.dim, vit.depth, vit.heads)), None)
    if name is None:
        raise ValueError(
            f"{label}: a network {vit.dim} wide with {vit.depth} blocks and {vit.heads} heads; those of "
            "`maskery list models` can be trained"
        )
    return name


def with_seed(run: Run, seed: int, subset: Few | None) -> Run:
    """Set the seed of the head, the order, the augmentation, and of which labels are learned from."""
    labels = replace(run.settings.labels, draw=seed)
    if subset:
        share = None if subset.share is None else f"{100 * subset.share:g}%"
        labels = replace(labels, share=share, shots=subset.shots)
    return replace(run, seed=seed, settings=replace(run.settings, labels=labels))


def check_directory(cell: Cell) -> None:
    """ValueError when the cell's directory holds another evaluation."""
    planned = cell.directory / PLANNED
    if cell.directory.exists() and (not planned.exists() or planned.read_text() != config.dump(cell.run)):
        raise ValueError(
            f"{cell.directory}: holds another evaluation; --overwrite replaces it, --out takes another directory"
        )


def remove_runs(out: Path) -> None:
    """Remove the runs in `out`. ValueError when something else is in there, and nothing is removed."""
    if not out.exists():
        return
    others = [path.name for path in out.iterdir() if not (path / PLANNED).exists()]
    if others:
        raise ValueError(f"{out}: holds something else than evaluations ({others[0]}) and is not replaced")
    shutil.rmtree(out)

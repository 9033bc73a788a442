"""Options of `maskery eval probe`, `finetune`, `segment`, `detect`, `vqa`, and the run they make of a recipe."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import tyro

from ..config import ImagesConfig, Run
from ..data.dataset import ImageData
from ..data.images import Images
from ..data.sources.open import open_source
from ..data.sources.source import Source, split_indices
from ..evals.candidates import Candidate
from ..evals.label_subset import LabelSubset
from ..nn.vit import SIZES, Size, ViTConfig
from ..options import UsageError, parse, value_of
from ..runs.directory import is_run
from ..tasks import TASK_RECIPES, TASKS
from ..tasks.labels import LabelsConfig
from ..tasks.small_data import LabelledData
from ..weights.load import image_config, load_encoder

Task = Literal["probe", "finetune", "segment", "detect", "vqa"]
CLASS_LABELS = "images with labels: class folders, a list (.csv) or a table"
DATA = {
    "probe": CLASS_LABELS,
    "finetune": CLASS_LABELS,
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
            raise UsageError(f"--data is missing: {DATA[task]}")
        if options.seeds < 1:
            raise UsageError(f"--seeds is {options.seeds}: it has to be at least 1")
        return cls(task, tuple(args), options, Path(options.out) if options.out else _directory(task, options))

    @property
    def seeds(self) -> range:
        return range(self.options.run.seed, self.options.run.seed + self.options.seeds)

    def apply_to(self, recipe: Run) -> Run:
        """Replace what options say in the run of a recipe."""
        default = replace(self.options, run=recipe)
        run = parse(TaskOptions, self.args, f"maskery eval {self.task}", default, HIDDEN).run
        if value_of(self.args, "--epochs") is not None and value_of(self.args, "--steps") is None:
            run = replace(run, steps=None)
        if (run.epochs or 0 if run.steps is None else run.steps) <= 0:
            raise UsageError(f"--epochs {run.epochs} and --steps {run.steps}: one of them has to be above 0")
        return run


def _directory(task: Task, options: TaskOptions) -> Path:
    """Name the directory of the runs inside the run that is evaluated."""
    where = Path(options.where)
    if not is_run(where) or not (where / "checkpoints").is_dir():
        raise UsageError(f"--out is missing: {where} is no run that could take the results")
    percent = f"-{options.labels.replace('%', 'percent')}" if options.labels else ""
    return where / "evals" / f"{task}{percent or (f'-{options.shots}-shots' if options.shots else '')}"


@dataclass(frozen=True)
class LabelledImages:
    """The labelled images of the data, opened without decoding any."""

    source: Source
    settings: Any  # of the task, with what the data decide
    summary: LabelledData

    @classmethod
    def open(cls, command: TaskCommand) -> "LabelledImages":
        """ValueError when nothing can be learned from the labels."""
        options, run = command.options, command.options.run
        source = open_source(run.data, run.images)
        images = Images(source, channels=3, bits=8, pages=run.images.pages, min_side=1)
        opened = ImageData(images, *split_indices(source, run.images.holdout), run.images, ())
        settings = replace(run.settings, labels=LabelsConfig(options.labels, options.shots, run.seed))
        settings, data = TASKS[command.task].prepare(settings, opened)
        n = len(data.train)
        divisible = n > 1 if data.labels is None else n > len(np.unique(data.labels[data.train]))
        return cls(source, settings, LabelledData(n, multilabel=settings.labels.several, divisible=divisible))


def build_run(command: TaskCommand, candidate: Candidate, labelled: LabelledImages) -> tuple[Run, Sequence[str]]:
    """Build the `Run` for one candidate and explain each setting chosen. Its seed is set later."""
    options = command.options
    vit = load_encoder(candidate.where or Path(options.where), lambda note: None).config
    images = replace(options.run.images, channels=vit.channels, mean=vit.mean, std=vit.std, labels=True)
    trained = image_config(Path(options.where))
    if trained:
        images = replace(images, bits=images.bits or trained.bits, pages=trained.pages)
    sized = value_of(command.args, "--image-size") is not None
    start = Run(
        settings=labelled.settings,
        data=options.run.data,
        model=_model_name(candidate.label, vit),
        patch_size=vit.patch_size,
        image_size=options.run.image_size if sized else vit.image_size,
        init=str(candidate.where) if candidate.where is not None else None,
        images=images,
        save=options.run.save,
    )
    summary = replace(labelled.summary, channels=vit.channels, bits=images.bits or 8)
    recipe = TASK_RECIPES[command.task](start, summary)
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

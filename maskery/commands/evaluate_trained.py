"""`maskery eval probe`, `finetune`, `segment`, `detect`, `vqa`: train on labels, measure, compare.

Seed by seed, all candidates of a seed before the next one. OUT/<candidate>-seed<seed>/ is an ordinary run directory;
its result is in its evals/, written once. Called again, finished runs are taken as they are and interrupted ones go on.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
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
from ..data.sources.source import split_indices
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
from ..runs.directory import is_run, run_of
from ..signals import interruptible
from ..tasks import TASKS
from ..tasks.labels import LabelsConfig
from ..tasks.measure import RESULT, measure
from ..tasks.recipes import TASK_RECIPES
from ..tasks.small_data import LabelledData
from ..terminal import Quiet, Terminal
from ..train import train
from ..weights.load import images_of, load_encoder
from .compare import forget

Kind = Literal["probe", "finetune", "segment", "detect", "vqa"]
WANTED = {  # what --data has to be
    "probe": "images with labels: class folders, a list (.csv) or a table",
    "finetune": "images with labels: class folders, a list (.csv) or a table",
    "segment": "images with masks: images/ beside masks/ or annotations/, or a table with a column of masks",
    "detect": "images with objects: a folder with annotations/instances_train*.json or train.json, COCO's",
    "vqa": "images with questions: a folder with VQAv2's files, *_train*_questions.json and its annotations",
}
ASKED = "asked.yaml"


@dataclass(frozen=True)
class Supervise(Run):
    """Train on the labels of the training images, measure on the held-out ones. Unless you say otherwise, as MAE does,
    with changes for small data that are printed."""

    where: str = ""  # a run, a checkpoint, or weights from elsewhere: a directory, a file, timm:NAME (docs/weights.md)
    out: str | None = None  # directory of the runs; None: in the evals/ of the run at WHERE
    beside: tuple[str, ...] = ()  # what to set beside it: random, start (what it started from), other weights
    seeds: int = 1  # so many times: with --seed, the seed after it ...
    labels: str | None = None  # learn from this share of the labels only, like 1%; another draw for every seed
    shots: int | None = None  # learn from so many labelled images of each class only
    json: Path | None = None  # write the result there as well; with --beside a list
    overlap: bool = True  # look for held-out images that are training images too
    overwrite: bool = False  # remove what is in `out`
    method: Annotated[str, tyro.conf.Suppress] = ""
    model: Annotated[str, tyro.conf.Suppress] = ""
    patch_size: Annotated[int, tyro.conf.Suppress] = 16
    init: Annotated[str | None, tyro.conf.Suppress] = None


@dataclass(frozen=True)
class Supervised:
    out: Path
    stopped: bool  # by a signal; the same call goes on
    results: tuple[Result, ...] = ()  # one a candidate
    table: Comparison | None = None


def probe(args: Sequence[str] = (), **leaves: Any) -> Supervised:
    """`maskery eval probe`: options as a list, in Python `probe(where=..., data=..., seeds=3, beside=["random"])`."""
    return supervise("probe", args, **leaves)


def finetune(args: Sequence[str] = (), **leaves: Any) -> Supervised:
    """`maskery eval finetune`, likewise."""
    return supervise("finetune", args, **leaves)


def segment(args: Sequence[str] = (), **leaves: Any) -> Supervised:
    """`maskery eval segment`, likewise."""
    return supervise("segment", args, **leaves)


def detect(args: Sequence[str] = (), **leaves: Any) -> Supervised:
    """`maskery eval detect`, likewise."""
    return supervise("detect", args, **leaves)


def vqa(args: Sequence[str] = (), **leaves: Any) -> Supervised:
    """`maskery eval vqa`, likewise."""
    return supervise("vqa", args, **leaves)


def supervise(kind: Kind, args: Sequence[str] = (), **leaves: Any) -> Supervised:
    """Train and measure every candidate with every seed, print the table. Finished runs are taken as they are."""
    args = [*args, *options(leaves)]
    images = ImagesConfig(masks=kind == "segment", objects=kind == "detect", questions=kind == "vqa")
    asked = understood(kind, args, Supervise(settings=TASKS[kind].Config(), images=images))
    out, few = place_of(kind, asked), Few.of(asked.labels, asked.shots)
    say, results = Terminal().say, {}
    with world() as here, interruptible() as raise_if_signalled:
        if not here.main:
            say = Quiet().say
        # ------------------------------------------------------------------------ check everything, then touch OUT
        found = candidates_of(Path(asked.where), asked.beside)
        like = network(Path(asked.where))
        runs: dict[Candidate, Run] = {}
        if asked.images.masks:
            say("reading all masks once: which classes there are, and whether masks fit their images")
        known = labelled_images(kind, asked)
        for candidate in found:
            runs[candidate], reasons = run_of_candidate(kind, args, asked, candidate, like, known)
            for reason in reasons if candidate.label == END or len(found) == 1 else ():
                say(reason)
        if asked.overwrite and here.main:
            remove(out)
        here.wait()

        # ------------------------------------------------------------------------ seed by seed, all candidates
        notes: list[str] = []
        try:
            for seed in range(asked.seed, asked.seed + asked.seeds):
                for candidate in found:
                    run = seeded(runs[candidate], seed, few)
                    member = out / f"{candidate.folder}-seed{seed}"
                    forget(here)
                    raise_if_signalled()
                    found_now = one(run, candidate, member, here, f"{kind} of {candidate.label}, seed {seed}")
                    if found_now:
                        results[candidate, seed] = found_now
        except KeyboardInterrupt:
            say("stopped by a signal; the same command goes on")
            return Supervised(out, True)
        if not here.main:
            return Supervised(out, False)
        if asked.overlap:
            notes += on_both_sides(runs[found[0]])

    # ---------------------------------------------------------------------------- what it says
    each = []
    for candidate in found:
        by_seed = {r.seed: r for (c, _), r in results.items() if c == candidate}
        first = next(iter(by_seed.values()))
        facts = {f.name: getattr(first, f.name) for f in fields(Result) if f.name not in ("numbers", "seed", "by_seed")}
        noted = tuple(dict.fromkeys([*(n for r in by_seed.values() for n in r.notes), *notes]))
        facts |= {"notes": noted, "made": ""}
        each.append(Result.repeated({s: r.numbers for s, r in by_seed.items()}, **facts))
    table = compare_results(each)
    for result in each:
        write_result(result, Path(asked.where))
    if asked.json:
        write_all(each, asked.json) if len(each) > 1 else write_result(each[0], None, asked.json)
    for note in dict.fromkeys(note for result in each for note in result.notes):
        say(note)
    print("\n".join(["", *table.lines(), "", each[0].protocol, f"runs     {out}"]))
    return Supervised(out, False, tuple(each), table)


def understood(kind: Kind, args: Sequence[str], default: Supervise) -> Supervise:
    """The options as far as they can be understood without the data. UsageError names the one that is wrong."""
    asked = parse(Supervise, args, f"maskery eval {kind}", default)
    if not asked.where:
        raise UsageError(f"maskery eval {kind} WHERE: a run or weights are missing")
    if not asked.data:
        raise UsageError(f"--data is missing: {WANTED[kind]}")
    if asked.seeds < 1:
        raise UsageError(f"--seeds is {asked.seeds}: it has to be at least 1")
    return asked


def place_of(kind: Kind, asked: Supervise) -> Path:
    """The directory of the runs."""
    if asked.out:
        return Path(asked.out)
    where = Path(asked.where)
    if not is_run(where) or not (where / "checkpoints").is_dir():
        raise UsageError(f"--out is missing: {where} is no run that could take the results")
    few = f"-{asked.labels.replace('%', 'percent')}" if asked.labels else f"-{asked.shots}-shots" if asked.shots else ""
    return where / "evals" / f"{kind}{few}"


def network(where: Path) -> ViTConfig:
    """What kind of network the weights are."""
    return load_encoder(where, lambda note: None).config


def run_of_candidate(
    kind: Kind, args: Sequence[str], asked: Supervise, candidate: Candidate, like: ViTConfig, known: "Known"
) -> tuple[Run, Sequence[str]]:
    """The run of one candidate, with any seed, and why it is as it is. ValueError, UsageError: it cannot be."""
    vit = network(candidate.where) if candidate.where is not None else like
    size = Size(vit.dim, vit.depth, vit.heads)
    model = next((name for name, known in SIZES.items() if known == size), None)
    if model is None:
        raise ValueError(
            f"{candidate.label}: a network {vit.dim} wide with {vit.depth} blocks and {vit.heads} heads; those of "
            "`maskery list models` can be trained"
        )
    trained = images_of(Path(asked.where))
    images = replace(asked.images, channels=vit.channels, mean=vit.mean, std=vit.std, labels=True)
    if trained:
        images = replace(images, bits=images.bits or trained.bits, pages=trained.pages)
    given = value_of(args, "--image-size") is not None
    start = Run(
        settings=known.settings,
        data=asked.data,
        model=model,
        patch_size=vit.patch_size,
        image_size=asked.image_size if given else vit.image_size,
        init=str(candidate.where) if candidate.where is not None else None,
        images=images,
        save=asked.save,
    )
    data = LabelledData(known.images, vit.channels, images.bits or 8, known.several, known.spare)
    recipe = TASK_RECIPES[kind](start, data)
    base = {f.name: getattr(recipe.run, f.name) for f in fields(Run)}
    filled = parse(Supervise, args, f"maskery eval {kind}", replace(asked, **base))
    kept: dict[str, Any] = {f.name: getattr(filled, f.name) for f in fields(Run)}
    if value_of(args, "--epochs") is not None and value_of(args, "--steps") is None:
        kept["steps"] = None
    if (kept["epochs"] or 0 if kept["steps"] is None else kept["steps"]) <= 0:
        raise UsageError(f"--epochs {kept['epochs']} and --steps {kept['steps']}: one of them has to be above 0")
    kept["images"] = replace(filled.images, channels=vit.channels, mean=vit.mean, std=vit.std)
    run = Run(**kept)
    with torch.device("meta"):  # built without memory: layers, sizes, rates
        TASKS[kind](run.settings, run.vit())
    return run, recipe.reasons


@dataclass(frozen=True)
class Known:
    """What the data say before there is a recipe."""

    images: int  # labelled ones, to train on
    several: bool  # they may have several labels each
    spare: bool  # some class has more than one of them
    settings: Any  # of the task, as asked for, with what the data decide


def labelled_images(kind: Kind, asked: Supervise) -> Known:
    """The labels there are. ValueError when nothing can be learned from them."""
    source = open_source(asked.data, asked.images)
    images = Images(source, channels=3, bits=8, pages=asked.images.pages, min_side=1)  # of which none is decoded
    opened = ImageData(images, *split_indices(source, asked.images.holdout), asked.images, ())
    settings = replace(asked.settings, labels=LabelsConfig(asked.labels, asked.shots, asked.seed))
    settings, data = TASKS[kind].prepare(settings, opened)
    n = len(data.train)
    spare = n > 1 if data.labels is None else n > len(np.unique(data.labels[data.train]))
    return Known(n, settings.labels.several, spare, settings)


def seeded(run: Run, seed: int, few: Few | None) -> Run:
    """The run with this seed: of the head, the order, the augmentation, and which labels there are."""
    labels = replace(run.settings.labels, draw=seed)
    if few:
        labels = replace(labels, share=None if few.share is None else f"{100 * few.share:g}%", shots=few.shots)
    return replace(run, seed=seed, settings=replace(run.settings, labels=labels))


def one(run: Run, candidate: Candidate, member: Path, here: World, note: str) -> Result | None:
    """Train and measure one run, go on with it, or take its result; None beside the main process.

    KeyboardInterrupt when a signal stopped it. ValueError when the directory holds another evaluation.
    """
    wanted, written = config.dump(run), member / ASKED
    if member.exists() and (not written.exists() or written.read_text() != wanted):
        raise ValueError(f"{member}: holds another evaluation; --overwrite replaces it, --out takes another directory")
    done = member / "evals" / RESULT
    if done.exists():
        return read(done) if here.main else None
    here.wait()
    if here.main:
        member.mkdir(parents=True, exist_ok=True)
        write_file(written, wanted.encode())
    notes = [note]
    if (member / "config.yaml").exists():
        result = train(run_of(member, notes.append), member, here, notes, resume=True)
    else:
        result = train(run, member, here, notes)
    if result.signalled:
        raise KeyboardInterrupt
    found = measure(member, here.device, candidate.label, str(candidate.where or "random")) if here.main else None
    here.wait()
    return found


def remove(out: Path) -> None:
    """Remove the runs in `out`, and nothing else. ValueError when something else is in there."""
    if not out.exists():
        return
    strange = [p.name for p in out.iterdir() if not (p / ASKED).exists()]
    if strange:
        raise ValueError(f"{out}: holds something else than evaluations ({strange[0]}) and is not replaced")
    shutil.rmtree(out)


def on_both_sides(run: Run) -> list[str]:
    """A warning when held-out images are training images too, or nothing."""
    source = open_source(run.data, run.images)
    train, held_out = split_indices(source, run.images.holdout)
    with Terminal().bar("comparing files") as tick:
        said = overlap(source, train, source, reported(source, held_out)[0], tick).sentence()
    return [said] if said else []

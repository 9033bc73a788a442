"""`maskery eval robustness`: how the errors of trained classifiers grow under corruption and on other test sets."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from ..config import ImagesConfig
from ..data.dataset import ImageData, open_data, spread
from ..evals.candidates import reopen
from ..evals.comparison import compare_results
from ..evals.corruptions import BENCHMARK, EXTRA, SEVERITIES, check
from ..evals.errors import Errors, lines
from ..evals.imagenet_sets import imagenet_c as folders_of
from ..evals.imagenet_sets import recognised, wordnet_ids
from ..evals.results import Result, fingerprint, write, write_all
from ..evals.robustness import folder_error, imagenet_c_errors
from ..evals.robustness import robustness as errors_of
from ..evals.splits import labelled, match_classes, reported
from ..inference.classifier import Classifier, load_classifier
from ..options import unknown
from ..terminal import Terminal
from .evaluate_frozen import READ

ALL = (*BENCHMARK, *EXTRA)


@dataclass(frozen=True)
class Trials:
    """What a classifier is tried on."""

    opened: ImageData
    asking: np.ndarray  # held-out images with labels
    of: int  # so many of these there are
    corruptions: tuple[str, ...]
    published: Mapping[str, Path]  # name -> folder of class folders
    imagenet_c: Path | None
    seed: int
    workers: int
    device: torch.device


def robustness(
    where: Path,
    data: str,
    json: Path | None = None,
    corruptions: tuple[str, ...] = ALL,
    imagenet_c: Path | None = None,
    imagenet_a: Path | None = None,
    imagenet_r: Path | None = None,
    imagenet_sketch: Path | None = None,
    most: int | None = None,
    seed: int = 0,
    beside: tuple[Path, ...] = (),
    workers: int | None = None,
    images: ImagesConfig = READ,
) -> dict[str, float]:
    """Errors of a classifier on held-out images under common corruptions at five severities, and on published sets.

    Args:
        where: directory of a probe or a fine-tuning
        data: images with labels; a "test" or "val" split is held out, else a share by a hash of the name
        json: write the numbers there as well (a run keeps its own in evals/); with several results a list
        corruptions: which; all 19 take 95 versions of every image
        imagenet_c: folder of ImageNet-C: corruption/severity/class
        imagenet_a: folder of ImageNet-A, of class folders
        imagenet_r: folder of ImageNet-R
        imagenet_sketch: folder of ImageNet-Sketch
        most: images at most, evenly spread over the held-out ones
        seed: of the corruptions
        beside: directories of other classifiers
        workers: processes that make the corruptions; None: chosen from the machine
        images: how the data is read; channels and bits are the classifier's
    """
    places = (where, *beside)
    if len(set(places)) < len(places):
        raise ValueError(f"--beside names the same twice: {', '.join(map(str, places))}")
    device, terminal = torch.device("cuda" if torch.cuda.is_available() else "cpu"), Terminal()
    every = {str(place): load_classifier(place).to(device) for place in places}
    first = every[str(where)]
    sets = {"imagenet_a": imagenet_a, "imagenet_r": imagenet_r, "imagenet_sketch": imagenet_sketch}
    published = {name: folder for name, folder in sets.items() if folder}
    refuse(every, corruptions, published, imagenet_c)
    opened = open_data(data, first.image_config(images), first.size, terminal)
    held_out, _ = reported(opened.images.source, opened.held_out)
    held_out = labelled(opened.labels, held_out, opened.classes, f"{data}: held-out images", several=False)
    asking = held_out if most is None else spread(held_out, most)
    workers = opened.workers() if workers is None else workers
    trials = Trials(opened, asking, len(held_out), corruptions, published, imagenet_c, seed, workers, device)
    return tried(every, data, trials, terminal, where, json)


def refuse(
    every: Mapping[str, Classifier], corruptions: Sequence[str], published: Mapping[str, Path], imagenet_c: Path | None
) -> None:
    """ValueError for what would only be found after hours."""
    for name in corruptions:
        if name not in ALL:
            raise unknown("corruption", name, ALL)
    for classifier in every.values():
        channels, bits = classifier.images.channels, classifier.images.bits
        check(*classifier.size, channels or 3, bits or 8)
        if published or imagenet_c:
            wordnet_ids(classifier.classes)
    for folder in published.values():
        if not folder.is_dir():
            raise ValueError(f"{folder}: no such folder")
    if imagenet_c:
        there = list(folders_of(imagenet_c))
        if not any(all((name, s) in there for s in SEVERITIES) for name in ALL):
            raise ValueError(f"{imagenet_c}: no corruption is there at all five severities")


def tried(
    every: Mapping[str, Classifier], data: str, trials: Trials, terminal: Terminal, where: Path, json: Path | None
) -> dict[str, float]:
    """Try all classifiers, write and print their errors; returns the numbers of the first."""
    if not len(trials.asking):
        raise ValueError(f"{data}: no image is left to classify")
    for classifier in every.values():
        match_classes(classifier.classes, trials.opened.classes)
    found: list[Result] = []
    for label, classifier in every.items():
        for errors, result in _tried(label, classifier, data, trials, terminal):
            write(result, where)
            found.append(result)
            print("\n".join(([f"{label}:"] if len(every) > 1 else []) + _table(errors, result)))
            print()
    if json:
        write_all(found, json) if len(found) > 1 else write(found[0], None, json)
    for note in dict.fromkeys(note for result in found for note in result.notes):
        terminal.say(note)
    for kind in dict.fromkeys(result.evaluation for result in found) if len(every) > 1 else ():
        print(*compare_results([r for r in found if r.evaluation == kind]).lines(), sep="\n")
    return dict(found[0].numbers)


def _tried(
    label: str, classifier: Classifier, data: str, trials: Trials, terminal: Terminal
) -> list[tuple[Errors, Result]]:
    """One result of the user's images and the published sets of one folder each, and one of ImageNet-C."""
    device, wanted = trials.device, classifier.image_config(trials.opened.config)
    opened = reopen(trials.opened, wanted, classifier.size)
    known = match_classes(classifier.classes, opened.classes)
    order = np.concatenate([known, np.setdiff1d(np.arange(len(classifier.classes)), known)])  # the data's come first
    with terminal.bar(f"{label}: corruptions") as tick:
        errors = errors_of(
            lambda x: classifier.classify(x)[:, order],
            opened.images,
            trials.asking,
            classifier.size,
            device,
            names=trials.corruptions,
            share=classifier.crop_fraction,
            seed=trials.seed,
            workers=trials.workers,
            progress=tick,
        )
    numbers, notes = errors.numbers(), []
    if errors.skipped:
        name, reason = errors.skipped[0]
        notes.append(f"{len(errors.skipped)} images could not be read and are left out ({name}: {reason})")
    channels = classifier.channels
    counts = {"queries": errors.images, "classes": len(opened.classes)}
    for name, folder in trials.published.items():
        with terminal.bar(f"{label}: {folder}") as tick:
            numbers[f"error_{name}"], counts[name], note = folder_error(
                classifier.classify,
                folder,
                classifier.classes,
                classifier.size,
                device,
                channels=channels,
                share=classifier.crop_fraction,
                workers=trials.workers,
                progress=tick,
            )
        notes.append(f"{folder}: {note}")
    which = f"{len(trials.corruptions)} common corruptions"
    if set(trials.corruptions) != set(ALL):
        which += f" ({', '.join(trials.corruptions)})"
    some = "all" if len(trials.asking) == trials.of else f"{len(trials.asking):,} evenly spread"
    plain = Result(
        "robustness",
        numbers,
        f"{which} at 5 severities, made on the fly after the cut to the network's input; {some} of {trials.of:,} "
        "held-out images",
        data,
        fingerprint(opened.images.source, np.empty(0, np.int64), trials.asking),
        label,
        of=label,
        seed=trials.seed,
        counts=counts,
        shown=f"{channels} x {classifier.size[0]} x {classifier.size[1]}",
        notes=notes,
        tables={"errors": {name: {str(s): e for s, e in found.items()} for name, found in errors.by.items()}},
        device=str(device),
    )
    if not trials.imagenet_c:
        return [(errors, plain)]
    whole = some == "all" and recognised(opened.classes) == "ImageNet"  # then the clean error is ImageNet's
    with terminal.bar(f"{label}: ImageNet-C") as tick:
        official, note = imagenet_c_errors(
            classifier.classify,
            trials.imagenet_c,
            classifier.classes,
            classifier.size,
            device,
            clean=errors.clean if whole else None,
            channels=channels,
            workers=trials.workers,
            progress=tick,
        )
    published = replace(
        plain,
        evaluation="imagenet_c",
        numbers=official.numbers(),
        protocol="ImageNet-C's own files",
        data=str(trials.imagenet_c),
        fingerprint=note,
        counts={"queries": official.images},
        notes=[f"{trials.imagenet_c}: {note}"],
        tables={"errors": {name: {str(s): e for s, e in found.items()} for name, found in official.by.items()}},
    )
    return [(errors, plain), (official, published)]


def _table(errors: Errors, result: Result) -> list[str]:
    said = [] if result.evaluation == "robustness" else ["ImageNet-C:"]
    sets = [name for name in result.counts if f"error_{name}" in result.numbers]
    return [*said, *lines(errors), *(f"{result.numbers[f'error_{name}']:7.1%}  {name}" for name in sets)]

"""`maskery eval robustness`: how the errors of trained classifiers grow under corruption and on other test sets."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..config import ImagesConfig
from ..data.dataset import ImageData, open_data, spread
from ..evals.candidates import reopen
from ..evals.comparison import compare_results
from ..evals.corruptions import BENCHMARK, EXTRA, SEVERITIES, check_corruptible
from ..evals.eval_pass import InferenceOptions, skipped_notes
from ..evals.results import Result, fingerprint, write_result, write_results
from ..evals.robustness import (
    Errors,
    ImageClassifier,
    corruption_errors,
    folder_error,
    imagenet_c_errors,
    imagenet_c_folders,
    recognised,
    wordnet_ids,
)
from ..evals.splits import labelled, match_classes, test_and_validation
from ..inference.classifier import Classifier, load_classifier
from ..options import options, parse, unknown
from ..terminal import Terminal

CORRUPTIONS = (*BENCHMARK, *EXTRA)


@dataclass(frozen=True)
class RobustnessOptions:
    """Errors of a classifier on held-out images under common corruptions at five severities, and on published sets."""

    where: Path  # directory of a probe or a fine-tuning
    data: str  # images with labels; a "test" or "val" split is held out, else a fraction by a hash of the name
    # write the numbers there as well (a run keeps its own in evals/); with several results a list
    json: Path | None = None
    corruptions: tuple[str, ...] = CORRUPTIONS  # which; all 19 take 95 versions of every image
    imagenet_c: Path | None = None  # folder of ImageNet-C: corruption/severity/class
    imagenet_a: Path | None = None  # folder of ImageNet-A, of class folders
    imagenet_r: Path | None = None  # folder of ImageNet-R
    imagenet_sketch: Path | None = None  # folder of ImageNet-Sketch
    most: int | None = None  # images at most, evenly spread over the held-out ones
    seed: int = 0  # of the corruptions
    beside: tuple[Path, ...] = ()  # directories of other classifiers
    workers: int | None = None  # processes that make the corruptions; None: chosen from the machine
    # how the data is read; channels and bits are the classifier's
    images: ImagesConfig = field(default_factory=ImagesConfig)

    @property
    def test_sets(self) -> dict[str, Path]:
        """Name -> folder of class folders."""
        sets = {name: getattr(self, name) for name in ("imagenet_a", "imagenet_r", "imagenet_sketch")}
        return {name: folder for name, folder in sets.items() if folder}


def robustness(args: Sequence[str] = (), **leaves: Any) -> dict[str, float]:
    """`maskery eval robustness`: options as a list, in Python `robustness(where=..., data=..., corruptions=["fog"])`.

    Returns the numbers of the classifier at WHERE.
    """
    settings = parse(RobustnessOptions, [*args, *options(leaves)], "maskery eval robustness")
    places = (settings.where, *settings.beside)
    if len(set(places)) < len(places):
        raise ValueError(f"--beside names the same twice: {', '.join(map(str, places))}")
    device, terminal = torch.device("cuda" if torch.cuda.is_available() else "cpu"), Terminal()
    classifiers = {str(place): load_classifier(place).to(device) for place in places}
    check_options(settings, classifiers.values())
    first = classifiers[str(settings.where)]
    data = open_data(settings.data, first.image_config(settings.images), first.size, terminal)
    held_out, _ = test_and_validation(data.images.source, data.held_out)
    held_out = labelled(data.labels, held_out, data.classes, f"{settings.data}: held-out images", one_class=True)
    return RobustnessEvaluation(settings, data, held_out, device, terminal).run(classifiers)


def check_options(settings: RobustnessOptions, classifiers: Collection[Classifier]) -> None:
    """ValueError for what would only fail after hours."""
    for name in settings.corruptions:
        if name not in CORRUPTIONS:
            raise unknown("corruption", name, CORRUPTIONS)
    for classifier in classifiers:
        check_corruptible(*classifier.size, classifier.channels, classifier.images.bits or 8)
        if settings.test_sets or settings.imagenet_c:
            wordnet_ids(classifier.classes)
    for folder in settings.test_sets.values():
        if not folder.is_dir():
            raise ValueError(f"{folder}: no such folder")
    if settings.imagenet_c:
        folders = imagenet_c_folders(settings.imagenet_c)
        if not any(all((name, severity) in folders for severity in SEVERITIES) for name in CORRUPTIONS):
            raise ValueError(f"{settings.imagenet_c}: no corruption is there at all five severities")


@dataclass(frozen=True)
class RobustnessEvaluation:
    options: RobustnessOptions
    data: ImageData
    held_out: np.ndarray  # images with labels
    device: torch.device
    terminal: Terminal

    @property
    def indices(self) -> np.ndarray:
        """The held-out images that are used."""
        return self.held_out if self.options.most is None else spread(self.held_out, self.options.most)

    def run(self, classifiers: Mapping[str, Classifier]) -> dict[str, float]:
        """Evaluate all classifiers, write and print their errors; return the numbers of the first."""
        if not len(self.indices):
            raise ValueError(f"{self.options.data}: no image is left to classify")
        for classifier in classifiers.values():
            match_classes(classifier.classes, self.data.classes)
        results: list[Result] = []
        for label, classifier in classifiers.items():
            for errors, result in self._evaluate(label, classifier):
                write_result(result, self.options.where)
                results.append(result)
                print("\n".join(([f"{label}:"] if len(classifiers) > 1 else []) + _lines(errors, result)), end="\n\n")
        if self.options.json:
            write_results(results, self.options.json)
        for note in dict.fromkeys(note for result in results for note in result.notes):
            self.terminal.say(note)
        for kind in dict.fromkeys(result.evaluation for result in results) if len(classifiers) > 1 else ():
            print(*compare_results([r for r in results if r.evaluation == kind]).lines(), sep="\n")
        return dict(results[0].numbers)

    def _evaluate(self, label: str, classifier: Classifier) -> Iterator[tuple[Errors, Result]]:
        """Yield the result of the user's images and the test sets of one folder each, then that of ImageNet-C."""
        data = reopen(self.data, classifier.image_config(self.data.config), classifier.size)
        evaluated = ImageClassifier(
            classifier.classify, classifier.classes, classifier.size, classifier.crop_fraction, classifier.channels
        )
        errors = self._errors(label, evaluated, data)
        numbers, notes = errors.numbers(), [*skipped_notes(errors.skipped)]
        counts = {"queries": errors.images, "classes": len(data.classes)}
        for name, folder in self.options.test_sets.items():
            with self.terminal.bar(f"{label}: {folder}") as tick:
                numbers[f"error_{name}"], counts[name], note = folder_error(evaluated, folder, self._inference(tick))
            notes.append(f"{folder}: {note}")
        result = Result(
            "robustness",
            numbers,
            self._protocol(),
            self.options.data,
            fingerprint(data.images.source, np.empty(0, np.int64), self.indices),
            label,
            of=label,
            seed=self.options.seed,
            counts=counts,
            shown=f"{classifier.channels} x {classifier.size[0]} x {classifier.size[1]}",
            notes=notes,
            tables={"errors": errors.table()},
            device=str(self.device),
        )
        yield errors, result
        if self.options.imagenet_c:
            whole = len(self.indices) == len(self.held_out) and recognised(data.classes) == "ImageNet"
            yield self._imagenet_c(self.options.imagenet_c, result, evaluated, errors.clean if whole else None)

    def _errors(self, label: str, classifier: ImageClassifier, data: ImageData) -> Errors:
        """Errors on the held-out images, whole and corrupted."""
        known = match_classes(classifier.classes, data.classes)
        order = np.concatenate([known, np.setdiff1d(np.arange(len(classifier.classes)), known)])  # the data's first
        ordered = replace(classifier, classify=lambda x: classifier.classify(x)[:, order])
        corruptions, seed = self.options.corruptions, self.options.seed
        with self.terminal.bar(f"{label}: corruptions") as tick:
            return corruption_errors(ordered, data.images, self.indices, corruptions, seed, self._inference(tick))

    def _imagenet_c(
        self, root: Path, result: Result, classifier: ImageClassifier, clean: float | None
    ) -> tuple[Errors, Result]:
        """Evaluate on ImageNet-C's own files; `clean` is the error on ImageNet."""
        with self.terminal.bar(f"{result.of}: ImageNet-C") as tick:
            errors, note = imagenet_c_errors(classifier, root, clean, self._inference(tick))
        official = replace(
            result,
            evaluation="imagenet_c",
            numbers=errors.numbers(),
            protocol="ImageNet-C's own files",
            data=str(root),
            fingerprint=note,
            counts={"queries": errors.images},
            notes=[f"{root}: {note}"],
            tables={"errors": errors.table()},
        )
        return errors, official

    def _protocol(self) -> str:
        corruptions, used, total = self.options.corruptions, len(self.indices), len(self.held_out)
        which = f"{len(corruptions)} common corruptions"
        if set(corruptions) != set(CORRUPTIONS):
            which += f" ({', '.join(corruptions)})"
        some = "all" if used == total else f"{used:,} evenly spread"
        return (
            f"{which} at 5 severities, made on the fly after the cut to the network's input; {some} of {total:,} "
            "held-out images"
        )

    def _inference(self, tick: Any) -> InferenceOptions:
        workers = self.data.workers() if self.options.workers is None else self.options.workers
        return InferenceOptions(self.device, workers=workers, progress=tick)


def _lines(errors: Errors, result: Result) -> list[str]:
    head = [] if result.evaluation == "robustness" else ["ImageNet-C:"]
    sets = [name for name in result.counts if f"error_{name}" in result.numbers]
    return [*head, *errors.lines(), *(f"{result.numbers[f'error_{name}']:7.1%}  {name}" for name in sets)]

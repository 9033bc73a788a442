"""Evaluate frozen features of several encoders on the same images; write one result each.

What a seed draws depends on that seed alone: the labelled images of --labels and --shots, and random weights. Fixed
weights are evaluated once when nothing else is drawn.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import stdev
from typing import Any, Literal

import numpy as np
import torch

from ..config import ImagesConfig
from ..data.dataset import ImageData
from ..nn.vit import ViT
from ..terminal import Terminal
from ..weights.load import load_encoder
from ..weights.locate import parse_where
from .candidates import Candidate, candidates_of, open_images_for, reopen_for
from .comparison import OF_THE_DATA, compare_results
from .eval_pass import InferenceOptions, skipped_notes
from .features import Features, features
from .knn import TOKENS
from .label_subset import LabelSubset
from .metrics import check_finite
from .results import Result, fingerprint, write_result, write_results
from .splits import labelled_images, overlap_notes


@dataclass(frozen=True)
class FrozenOptions:
    """Options of evaluations that train no encoder."""

    where: Path  # a run, a checkpoint, or weights from elsewhere: a directory, a file, timm:NAME (docs/weights.md)
    data: str  # images with labels; a "test" or "val" split is held out, else a fraction by a hash of the name
    json: Path | None = None  # write the numbers there as well (a run keeps its own in evals/); with --beside a list
    # features: mean of the patch tokens, class token, both concatenated, or each of these
    tokens: Literal["mean_patch", "class_token", "both", "all"] = "all"
    labels: str | None = None  # use this fraction of the labels of each class only, like 1%
    shots: int | None = None  # use so many labelled images of each class only
    draws: int = 5  # how often the images of --labels or --shots are drawn
    seed: int = 0  # of the first draw; the others count up from it
    overlap: bool = True  # look for held-out images that are training images too
    beside: tuple[str, ...] = ()  # what to compare with: random, start (what the run started from), other weights
    # random initialisations of --beside random; with --labels or --shots each draw has its own anyway
    seeds: int = 1
    images: ImagesConfig = field(default_factory=ImagesConfig)  # how the data is read

    @property
    def token_names(self) -> tuple[str, ...]:
        return TOKENS if self.tokens == "all" else (self.tokens,)


@dataclass(frozen=True)
class Scores:
    numbers: dict[str, float]
    tables: dict[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()


Score = Callable[[Features, Features], Scores]  # of training and held-out images


@dataclass(frozen=True)
class FrozenEvaluation:
    """Opened weights and images, and which of the images are used under each seed."""

    options: FrozenOptions
    candidates: tuple[Candidate, ...]
    own: Candidate  # the one at WHERE
    encoders: Mapping[Candidate, ViT]  # of fixed weights
    data: ImageData  # images with labels, decoded as the encoder of WHERE was trained
    training: Mapping[int, np.ndarray]  # seed -> training images whose labels are used
    subset: str  # which labels are drawn, in words; "": all are used
    notes: tuple[str, ...]
    device: torch.device
    terminal: Terminal

    def run(self, evaluation: str, protocol: str, score: Score) -> dict[str, float]:
        """Score every candidate, write and print the numbers; return those of WHERE."""
        protocol += f", {self.subset}" if self.subset else ""
        results = []
        for candidate in self.candidates:
            results.append(self._result(candidate, evaluation, protocol, score))
            # at once: the next candidate may take long, or fail
            write_result(results[-1], parse_where(self.options.where).path)
        if self.options.json:
            write_results(results, self.options.json)
        for note in dict.fromkeys(note for result in results for note in result.notes):
            self.terminal.say(note)
        print(*(compare_results(results).lines() if len(results) > 1 else _lines(results[0])), sep="\n")
        return dict(results[self.candidates.index(self.own)].numbers)

    def _result(self, candidate: Candidate, evaluation: str, protocol: str, score: Score) -> Result:
        fixed, notes = self.encoders.get(candidate), list(self.notes)
        data, shown = self._images(candidate, notes)
        by_seed, tables, queries = {}, {}, 0
        for seed, bank, held_out in self._features(candidate, data, notes):
            scores = score(bank, held_out)
            by_seed[seed], queries = scores.numbers, len(held_out.indices)
            notes += scores.notes
            for name, table in scores.tables.items():
                tables.setdefault(name, {})[str(seed)] = table
        return Result.repeated(
            by_seed,
            evaluation=evaluation,
            protocol=protocol,
            data=self.options.data,
            fingerprint=fingerprint(data.images.source, self.data.train, self.data.held_out),
            weights=str(candidate.where or f"random, like {self.options.where}"),
            of=candidate.label,
            drawn=bool(self.subset) or not fixed,
            counts={"bank": min(map(len, self.training.values())), "queries": queries, "classes": len(data.classes)},
            shown=shown,
            notes=list(dict.fromkeys(notes)),
            tables=tables,
            device=str(self.device),
        )

    def _images(self, candidate: Candidate, notes: list[str]) -> tuple[ImageData, str]:
        """Images as the candidate was trained on them, and their shape; a shape unlike WHERE's is noted."""
        usual, encoder = self.encoders[self.own].config, self.encoders.get(candidate)
        data, config = self.data, encoder.config if encoder else usual
        if encoder and candidate.where and candidate != self.own:
            data = reopen_for(encoder, candidate.where, data)
        shown, usually = (f"{c.channels} x {c.image_size[0]} x {c.image_size[1]}" for c in (config, usual))
        if shown != usually:
            notes.append(f"{candidate.label} is shown {shown} (channels x height x width), {self.own.label} {usually}")
        return data, shown

    def _features(
        self, candidate: Candidate, data: ImageData, notes: list[str]
    ) -> Iterator[tuple[int, Features, Features]]:
        """Yield (seed, training features, held-out features); those of fixed weights are made once."""
        fixed = self.encoders.get(candidate)
        if fixed:
            seeds = list(self.training) if self.subset else list(self.training)[:1]
            needed = np.unique(np.concatenate([self.training[seed] for seed in seeds]))
            bank, held_out = self._both(fixed, candidate.label, data, needed, notes)
            for seed in seeds:
                yield seed, bank.subset(self.training[seed]), held_out
        else:
            for seed, indices in self.training.items():
                encoder = candidate.load(self.encoders[self.own].config, seed)
                bank, held_out = self._both(encoder, candidate.label, data, indices, notes)
                yield seed, bank, held_out

    def _both(
        self, encoder: ViT, label: str, data: ImageData, train: np.ndarray, notes: list[str]
    ) -> Iterator[Features]:
        """Yield features of training and of held-out images."""
        for words, indices in (("training images", train), ("held-out images", self.data.held_out)):
            with self.terminal.bar(f"{label}: {words}") as tick:
                options = InferenceOptions(workers=data.workers(), progress=tick)
                part = features(encoder.to(self.device), data.images, indices, options)
            names = [str(data.images.source.names[int(i)]) for i in part.indices]
            for values in (part.mean_patch, part.class_token):
                check_finite(values, f"{self.options.data}: features", names.__getitem__)
            notes += skipped_notes(part.skipped)
            yield part


def open_evaluation(options: FrozenOptions) -> FrozenEvaluation:
    """Open all weights and the images. ValueError for what cannot be evaluated."""
    subset, terminal = LabelSubset.parse(options.labels, options.shots), Terminal()
    candidates = candidates_of(options.where, options.beside)
    random = any(candidate.where is None for candidate in candidates)
    for name, value in (("draws", options.draws), ("seeds", options.seeds)):
        if value < 1:
            raise ValueError(f"{name} is {value}: at least 1")
    if options.seeds > 1 and not random:
        raise ValueError(
            f"seeds is {options.seeds}: so many random initialisations, but none is compared (--beside random)"
        )
    seeds = range(options.seed, options.seed + (max(options.draws, options.seeds) if subset else options.seeds))
    encoders = {candidate: load_encoder(candidate.where) for candidate in candidates if candidate.where is not None}
    own = next(candidate for candidate in candidates if candidate.where == options.where)
    data = open_images_for(encoders[own], options.where, options.data, options.images, terminal)
    data = labelled_images(data, subset is not None)
    training, notes = dict.fromkeys(seeds, data.train), []
    if subset:
        assert data.labels is not None
        drawn = {seed: subset.draw(data.labels, data.train, data.classes, seed) for seed in seeds}
        training, notes = {seed: indices for seed, (indices, _) in drawn.items()}, drawn[seeds[0]][1]
    if options.overlap:
        with terminal.bar("comparing files") as tick:
            notes += overlap_notes(data.images.source, data.train, data.held_out, tick)
    if random and len(seeds) < 3:
        notes.append("from --seeds 3 on it can be told what the spread of random initialisations explains")
    words = f"{subset}, {len(seeds)} draws" if subset else ""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return FrozenEvaluation(options, candidates, own, encoders, data, training, words, tuple(notes), device, terminal)


def _lines(result: Result) -> list[str]:
    """The numbers of one candidate for a console."""
    text = []
    for name, value in result.numbers.items():
        values = [numbers[name] for numbers in result.by_seed.values()]
        spread = f" ± {stdev(values):.2%}" if len(values) > 1 and name not in OF_THE_DATA else ""
        text.append(f"{name.replace('_', ' '):25} {value:6.2%}{spread}")
    return [*text, f"{result.counts['bank']:,} training and {result.counts['queries']:,} held-out images"]

"""What an evaluation asks, of which weights and about which images, and how the answers are written.

The same images are asked about for every candidate, and the same ones vote or are learned from. What is drawn under a
seed is drawn from that seed: the labelled images of --labels and --shots, and random weights. Fixed weights are asked
once when nothing else is drawn.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import stdev
from typing import Any

import numpy as np
import torch

from ..config import ImagesConfig
from ..data.dataset import ImageData
from ..data.sources.labels import annotated
from ..nn.vit import ViT
from ..terminal import Terminal
from ..weights.load import load_encoder
from ..weights.locate import parse_where
from .candidates import Candidate, candidates_of, open_images_for, reopen_for
from .comparison import OF_THE_DATA, compare_results
from .features import Features, features
from .label_subset import Few
from .label_subset import draws as few_draws
from .metrics import refuse_nan
from .results import Result, fingerprint, write, write_all
from .splits import labelled, refuse_unseen, reported
from .splits import overlap as find_overlap

Measured = tuple[dict[str, float], dict[str, Any], Sequence[str]]  # numbers, tables, notes
Measure = Callable[[Features, Features], Measured]  # of training and held-out images


@dataclass(frozen=True)
class Asked:
    where: Path
    data: str
    every: tuple[Candidate, ...]
    encoders: Mapping[Candidate, ViT]  # of the fixed sides
    opened: ImageData  # as the encoder of WHERE wants it
    train: np.ndarray  # training images with labels
    held_out: np.ndarray  # likewise
    training: Mapping[int, np.ndarray]  # seed -> training images whose labels are used
    few: str  # which labels are drawn, in words; "": all are used, so none is
    notes: tuple[str, ...]
    device: torch.device

    @property
    def own(self) -> Candidate:
        return next(candidate for candidate in self.every if candidate.where == self.where)


def ask(
    where: Path,
    data: str,
    few: Few | None,
    draws: int,
    seed: int,
    overlap: bool,
    beside: Sequence[str],
    seeds: int,
    images: ImagesConfig,
) -> Asked:
    """Open all weights and the data. ValueError in one line for what cannot be asked."""
    every, terminal = candidates_of(where, beside), Terminal()
    random = any(candidate.where is None for candidate in every)
    for name, value in (("draws", draws), ("seeds", seeds)):
        if value < 1:
            raise ValueError(f"{name} is {value}: at least 1")
    if seeds > 1 and not random:
        raise ValueError(f"seeds is {seeds}: so many random initialisations, but none is compared (--beside random)")
    repeats = range(seed, seed + (max(draws, seeds) if few else seeds))
    encoders = {candidate: load_encoder(candidate.where) for candidate in every if candidate.where is not None}
    own = next(encoder for candidate, encoder in encoders.items() if candidate.where == where)
    opened = open_images_for(own, where, data, images, terminal)
    source, train = opened.images.source, opened.train
    held_out, _ = reported(source, opened.held_out)
    if opened.labels is None and opened.multi_hot is None:
        raise ValueError(f"{data}: it has no labels: class folders, or a label column")
    if not len(held_out):
        raise ValueError(f"{data}: nothing is held out, so there is nothing to classify; set --images.holdout")
    if opened.multi_hot is not None:
        if few:
            raise ValueError(f"{data}: --labels and --shots are for one label an image, these have several")
        train, held_out = (which[annotated(opened.multi_hot[which])] for which in (train, held_out))
        if not len(train) or not len(held_out):
            raise ValueError(f"{data}: {len(train)} training and {len(held_out)} held-out images have labels")
    else:
        train = labelled(opened.labels, train, opened.classes, f"{data}: training images")
        held_out = labelled(opened.labels, held_out, opened.classes, f"{data}: held-out images", several=False)
        assert opened.labels is not None
        refuse_unseen(opened.labels, train, held_out, opened.classes, data)
    training, notes = dict.fromkeys(repeats, train), []
    if few:
        assert opened.labels is not None
        drawn = few_draws(opened.labels, train, opened.classes, few, repeats)
        training, notes = {d.seed: d.indices for d in drawn}, [*drawn[0].notes]
    if overlap:
        with terminal.bar("comparing files") as tick:
            same = find_overlap(source, train, source, held_out, tick).sentence()
        notes += [same] if same else []
    if random and len(repeats) < 3:
        notes.append("from --seeds 3 on it can be told what the spread of random initialisations explains")
    words = f"{few}, {len(repeats)} draws" if few else ""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return Asked(where, data, every, encoders, opened, train, held_out, training, words, tuple(notes), device)


def answered(asked: Asked, measure: Measure, evaluation: str, protocol: str, json: Path | None) -> dict[str, float]:
    """Measure every candidate, write and print the numbers; returns those of WHERE."""
    protocol += f", {asked.few}" if asked.few else ""
    place, terminal, results = parse_where(asked.where).path, Terminal(), {}
    for candidate in asked.every:
        results[candidate] = _result(asked, candidate, measure, evaluation, protocol, terminal)
        write(results[candidate], place)  # at once: the next candidate may take long, or fail
    found = list(results.values())
    if json:
        write_all(found, json) if len(found) > 1 else write(found[0], None, json)
    for note in dict.fromkeys(note for result in found for note in result.notes):
        terminal.say(note)
    for line in compare_results(found).lines() if len(found) > 1 else _lines(found[0]):
        print(line)
    return dict(results[asked.own].numbers)


def _result(
    asked: Asked, candidate: Candidate, measure: Measure, evaluation: str, protocol: str, terminal: Terminal
) -> Result:
    like, opened, notes = asked.encoders[asked.own].config, asked.opened, list(asked.notes)
    fixed = asked.encoders.get(candidate)
    config = fixed.config if fixed else like
    if fixed and candidate.where and candidate != asked.own:
        opened = reopen_for(fixed, candidate.where, opened)
    shown, usual = (f"{c.channels} x {c.image_size[0]} x {c.image_size[1]}" for c in (config, like))
    notes += [f"{candidate.label} is shown {shown} (channels x height x width), {asked.own.label} {usual}"] * (
        shown != usual
    )
    seeds = list(asked.training)[: None if asked.few or not fixed else 1]
    by_seed, tables, bank, held_out = {}, {}, None, None
    for seed in seeds:
        who = asked.training[seed]
        if bank is None or held_out is None or not fixed:
            encoder = (fixed or candidate.load(like, seed)).to(asked.device)
            needed = np.unique(np.concatenate([asked.training[s] for s in seeds])) if fixed else who
            bank, held_out = (
                _features(encoder, opened, which, f"{candidate.label}: {what}", asked.data, terminal, notes)
                for what, which in (("training images", needed), ("held-out images", asked.held_out))
            )
        by_seed[seed], found, said = measure(_part(bank, who), held_out)
        notes += said
        for name, table in found.items():
            tables.setdefault(name, {})[str(seed)] = table
    assert held_out is not None
    return Result.repeated(
        by_seed,
        evaluation=evaluation,
        protocol=protocol,
        data=asked.data,
        fingerprint=fingerprint(opened.images.source, asked.train, asked.held_out),
        weights=str(candidate.where or f"random, like {asked.where}"),
        of=candidate.label,
        drawn=bool(asked.few) or not fixed,
        counts={
            "bank": min(map(len, asked.training.values())),
            "queries": len(held_out.indices),
            "classes": len(opened.classes),
        },
        shown=shown,
        notes=list(dict.fromkeys(notes)),
        tables=tables,
        device=str(asked.device),
    )


def _features(
    encoder: ViT, opened: ImageData, which: np.ndarray, what: str, data: str, terminal: Terminal, notes: list[str]
) -> Features:
    with terminal.bar(what) as tick:
        found = features(encoder, opened.images, which, workers=opened.workers(), progress=tick)
    for values in (found.mean_patch, found.class_token):
        refuse_nan(values, f"{data}: features", lambda i: str(opened.images.source.names[int(found.indices[i])]))
    if found.skipped:
        name, reason = found.skipped[0]
        notes.append(f"{len(found.skipped)} images could not be read and are left out ({name}: {reason})")
    return found


def _part(found: Features, who: np.ndarray) -> Features:
    """Those of the features that are of `who`."""
    at = np.flatnonzero(np.isin(found.indices, who))
    rows = torch.from_numpy(at)
    return Features(found.class_token[rows], found.mean_patch[rows], found.indices[at], [])


def _lines(result: Result) -> list[str]:
    """The numbers of one candidate for a console."""
    said = []
    for name, value in result.numbers.items():
        each = [found[name] for found in result.by_seed.values()]
        spread = f" ± {stdev(each):.2%}" if len(each) > 1 and name not in OF_THE_DATA else ""
        said.append(f"{name.replace('_', ' '):25} {value:6.2%}{spread}")
    return [*said, f"{result.counts['bank']:,} training and {result.counts['queries']:,} held-out images"]

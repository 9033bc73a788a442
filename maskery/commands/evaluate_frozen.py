"""`maskery eval`: evaluations that train no encoder, of one set of weights or of several side by side."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ..config import ImagesConfig
from ..evals.features import Features
from ..evals.frozen import Measured, answered, ask
from ..evals.knn import SUFFIX, TOKENS, knn_repeated, token
from ..evals.label_subset import Few
from ..evals.metrics import confusion, multilabel, per_class, scores
from ..evals.quick import quick, solvers

READ = ImagesConfig()  # how data is read when nothing else is said
SUFFIXES = SUFFIX | {"map": "_map"}
Tokens = Literal["mean_patch", "class_token", "both", "all"]


def knn(
    where: Path,
    data: str,
    json: Path | None = None,
    k: int = 20,
    temperature: float = 0.07,
    tokens: Tokens = "all",
    labels: str | None = None,
    shots: int | None = None,
    draws: int = 5,
    seed: int = 0,
    overlap: bool = True,
    beside: tuple[str, ...] = (),
    seeds: int = 1,
    images: ImagesConfig = READ,
) -> dict[str, float]:
    """Weighted nearest-neighbour accuracy (DINO's protocol): training images vote on held-out ones.

    Args:
        where: a run, a checkpoint, or weights from elsewhere: a directory, a file, timm:NAME (docs/weights.md)
        data: images with labels; a "test" or "val" split is held out, else a share by a hash of the name
        json: write the numbers there as well (a run keeps its own in evals/); with --beside a list
        k: neighbours that vote
        temperature: of the votes' weights, exp(cosine / temperature)
        tokens: features that are compared: mean of the patch tokens, class token, both side by side, or each of these
        labels: only this share of each class votes, like 1%
        shots: only so many images of each class vote
        draws: how often the voting images of --labels or --shots are drawn
        seed: of the first draw; the others count up from it
        overlap: look for held-out images that are training images too
        beside: what is compared with it: random, start (what the run started from), other weights
        seeds: random initialisations of --beside random; with --labels or --shots each draw has its own anyway
        images: how the data is read
    """
    asked = ask(where, data, Few.of(labels, shots), draws, seed, overlap, beside, seeds, images)
    if asked.opened.multi_hot is not None:
        raise ValueError(f"{data}: images have several labels each, and neighbours vote for one; a probe can ask them")
    y, classes = asked.opened.labels, len(asked.opened.classes)
    least = min(map(len, asked.training.values()))
    few = [f"only {least} images vote: fewer than k = {k}, so all of them do"] if least < k else []

    def measured(bank: Features, asking: Features) -> Measured:
        assert y is not None
        voting = {0: bank.indices}
        found = knn_repeated(bank, asking, y, classes, voting, k, temperature, _names(tokens), device=asked.device)
        largest = float(np.bincount(y[asking.indices]).max() / len(asking.indices))
        return found[0] | {"largest_class": largest}, {}, few

    return answered(asked, measured, "knn", f"weighted {k}-NN, cosine, temperature {temperature:g}, centre crop", json)


def quick_probe(
    where: Path,
    data: str,
    json: Path | None = None,
    tokens: Tokens = "all",
    labels: str | None = None,
    shots: int | None = None,
    draws: int = 5,
    seed: int = 0,
    overlap: bool = True,
    beside: tuple[str, ...] = (),
    seeds: int = 1,
    images: ImagesConfig = READ,
) -> dict[str, float]:
    """A linear probe in seconds: logistic regression on features made once; mAP where images have several labels.

    Args:
        where: a run, a checkpoint, or weights from elsewhere: a directory, a file, timm:NAME (docs/weights.md)
        data: images with labels; a "test" or "val" split is held out, else a share by a hash of the name
        json: write the numbers there as well (a run keeps its own in evals/); with --beside a list
        tokens: features that are learned on: mean of the patch tokens, class token, both side by side, or each of these
        labels: only this share of each class is learned from, like 1%
        shots: only so many images of each class are learned from
        draws: how often the images of --labels or --shots are drawn
        seed: of the first draw; the others count up from it
        overlap: look for held-out images that are training images too
        beside: what is compared with it: random, start (what the run started from), other weights
        seeds: random initialisations of --beside random; with --labels or --shots each draw has its own anyway
        images: how the data is read
    """
    solvers()  # before anything takes long
    asked = ask(where, data, Few.of(labels, shots), draws, seed, overlap, beside, seeds, images)
    y = asked.opened.labels if asked.opened.multi_hot is None else asked.opened.multi_hot.astype(np.int64)
    assert y is not None

    def measured(bank: Features, asking: Features) -> Measured:
        truth, numbers, tables, notes = torch.from_numpy(y[asking.indices]), {}, {"C": {}, "per_class": {}}, []
        context: dict[str, float] = {}
        for name in _names(tokens):
            x, own = token(bank, name), torch.from_numpy(y[bank.indices])
            found = quick(x, own, token(asking, name), len(asked.opened.classes))
            of, rows = _scores(found.logits, truth, asked.opened.classes)
            numbers |= {f"probe_{name}{SUFFIXES[key]}": of[key] for key in of if key in SUFFIXES}
            context |= {key: of[key] for key in ("largest_class", "classes_with_images") if key in of}
            tables["C"][name], tables["per_class"][name] = found.C, rows
            notes += [f"{name.replace('_', ' ')}: {note}" for note in found.notes]
        return numbers | context, tables, notes

    protocol = "quick probe: logistic regression on standardised features, C chosen on a tenth of the training images"
    return answered(asked, measured, "quick_probe", f"{protocol}, centre crop", json)


def _names(tokens: Tokens) -> tuple[str, ...]:
    return TOKENS if tokens == "all" else (tokens,)


def _scores(logits: Tensor, truth: Tensor, classes: Sequence[str]) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Numbers, and one row a class."""
    if truth.ndim == 2:
        numbers, each = multilabel(logits, truth)
        found = zip(classes, (None if math.isnan(ap) else ap for ap in each), truth.sum(0).tolist(), strict=True)
        return numbers, [{"class": c, "average_precision": ap, "support": n} for c, ap, n in found]
    matrix = confusion(logits.argmax(1), truth, len(classes))
    return scores(logits, truth), per_class(matrix).rows(classes)

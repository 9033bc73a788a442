"""`maskery eval knn` and `maskery eval probe --quick`: evaluations that train no encoder."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from torch import Tensor

from ..evals.features import Features
from ..evals.frozen import FrozenOptions, Scores, open_evaluation
from ..evals.knn import Voting, knn_scores, labelled_token, token
from ..evals.linear_probe import probe
from ..evals.metrics import class_rows, confusion, multilabel, per_class, scores
from ..options import options, parse

SUFFIX = {"top1": "", "top5": "_top5", "balanced_accuracy": "_balanced", "map": "_map"}
CONTEXT = ("largest_class", "classes_with_images")  # numbers of the data, the same for all tokens


@dataclass(frozen=True)
class KnnOptions:
    """Weighted nearest-neighbour accuracy (DINO's protocol): training images vote on held-out ones."""

    frozen: Annotated[FrozenOptions, tyro.conf.arg(name="")]
    voting: Annotated[Voting, tyro.conf.arg(name="")] = field(default_factory=Voting)


@dataclass(frozen=True)
class ProbeOptions:
    """A linear probe in seconds: logistic regression on features made once; mAP where images have several labels."""

    frozen: Annotated[FrozenOptions, tyro.conf.arg(name="")]


def knn(args: Sequence[str] = (), **leaves: Any) -> dict[str, float]:
    """`maskery eval knn`: options as a list, in Python `knn(where=..., data=..., k=20, beside=["random"])`."""
    settings = parse(KnnOptions, [*args, *options(leaves)], "maskery eval knn")
    evaluation, voting = open_evaluation(settings.frozen), settings.voting
    data, device = evaluation.data, evaluation.device
    if data.multi_hot is not None:
        raise ValueError(
            f"{settings.frozen.data}: images have several labels each, and neighbours vote for one; a probe can do it"
        )
    assert data.labels is not None
    y, classes = data.labels, len(data.classes)
    fewest = min(map(len, evaluation.training.values()))
    notes = [f"only {fewest} images vote: fewer than k = {voting.k}, so all of them do"] if fewest < voting.k else []

    def score(bank: Features, queries: Features) -> Scores:
        numbers = {}
        for name in settings.frozen.token_names:
            votes = labelled_token(bank, name, y), labelled_token(queries, name, y)
            by_metric = knn_scores(*votes, classes, voting, device)
            numbers |= {f"knn_{name}{SUFFIX[metric]}": value for metric, value in by_metric.items()}
        largest = float(np.bincount(y[queries.indices]).max() / len(queries.indices))
        return Scores(numbers | {"largest_class": largest}, notes=notes)

    protocol = f"weighted {voting.k}-NN, cosine, temperature {voting.temperature:g}, centre crop"
    return evaluation.run("knn", protocol, score)


def quick_probe(args: Sequence[str] = (), **leaves: Any) -> dict[str, float]:
    """`maskery eval probe --quick`: options as a list, in Python `quick_probe(where=..., data=..., shots=5)`."""
    settings = parse(ProbeOptions, [*args, *options(leaves)], "maskery eval probe --quick").frozen
    evaluation = open_evaluation(settings)
    data = evaluation.data
    y = data.labels if data.multi_hot is None else data.multi_hot.astype(np.int64)
    assert y is not None

    def score(bank: Features, queries: Features) -> Scores:
        labels, truth = torch.from_numpy(y[bank.indices]), torch.from_numpy(y[queries.indices])
        numbers, context, notes = {}, {}, []
        tables: dict[str, dict[str, Any]] = {"C": {}, "per_class": {}}
        for name in settings.token_names:
            result = probe(token(bank, name), labels, token(queries, name), len(data.classes))
            by_metric, tables["per_class"][name] = _scores(result.logits, truth, data.classes)
            tables["C"][name] = result.C
            numbers |= {f"probe_{name}{SUFFIX[metric]}": v for metric, v in by_metric.items() if metric in SUFFIX}
            context |= {metric: by_metric[metric] for metric in CONTEXT if metric in by_metric}
            notes += [f"{name.replace('_', ' ')}: {note}" for note in result.notes]
        return Scores(numbers | context, tables, notes)

    protocol = "quick probe: logistic regression on standardised features, C chosen on a tenth of the training images"
    return evaluation.run("quick_probe", f"{protocol}, centre crop", score)


def _scores(logits: Tensor, truth: Tensor, classes: Sequence[str]) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Numbers, and one row a class."""
    if truth.ndim == 1:
        matrix = confusion(logits.argmax(1), truth, len(classes))
        return scores(logits, truth), class_rows(per_class(matrix), classes)
    numbers, precisions = multilabel(logits, truth)
    columns = {"average_precision": torch.tensor(precisions, dtype=torch.double), "support": truth.sum(0)}
    return numbers, class_rows(columns, classes)

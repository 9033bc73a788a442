"""Accuracies of a trained encoder, and the time its training took: what `maskery compare` compares."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..data.dataset import ImageData, spread
from ..nn.vit import ViT
from ..runs.metrics import read_rows, seconds_of_lines
from .eval_pass import InferenceOptions
from .features import features
from .knn import knn_accuracies, labelled_token
from .linear_probe import probe_accuracy

BANK, QUERIES = 10_000, 5_000  # images at most: training images that vote and train the probe, held-out ones


@dataclass(frozen=True)
class ProbeImages:
    """Images that encoders are measured on, the same for all."""

    bank: np.ndarray  # training images with labels
    queries: np.ndarray  # held-out images with labels

    @classmethod
    def of(cls, data: ImageData) -> "ProbeImages | str":
        """Choose the images; a sentence when there are none."""
        if data.labels is None:
            return "the images have no labels"
        bank, queries = (x[data.labels[x] >= 0] for x in (data.train, data.held_out))
        if not len(queries):
            return "no image with a label is held out (--images.holdout)"
        if len(bank) < 2:
            return "the training images have no labels"
        return cls(spread(bank, BANK), spread(queries, QUERIES))


def encoder_metrics(encoder: ViT, data: ImageData, images: ProbeImages, options: InferenceOptions) -> dict[str, float]:
    """Accuracies on held-out images: kNN and linear probe, on the mean patch token and on the class token."""
    assert data.labels is not None
    bank, queries = (features(encoder, data.images, part, options) for part in (images.bank, images.queries))
    numbers = knn_accuracies(bank, queries, data.labels, len(data.classes))
    device = encoder.mean.device
    for name in ("mean_patch", "class_token"):
        (x, y), (q, truth) = (labelled_token(part, name, data.labels) for part in (bank, queries))
        trained, tested = (x.to(device), y.to(device)), (q.to(device), truth.to(device))
        numbers[f"linear_{name}"] = probe_accuracy(*trained, *tested, len(data.classes))
    return numbers


def training_curve(run: Path, batch_size: int) -> dict[str, Any]:
    """Steps, seconds and images per second of a run's training, and its periodic evaluations ("looks") over time.

    The seconds are of training alone: images per second in the log exclude evaluations and checkpoints.
    """
    entries = read_rows(run / "metrics.jsonl")
    logged = [e for e in entries if "loss" in e]
    steps = [0, *(e["step"] for e in logged)]
    rates = [e["images_per_second"] for e in logged]
    seconds = np.cumsum([0.0, *seconds_of_lines(steps[1:], rates, batch_size)]).tolist()
    looks = [e | {"seconds": float(np.interp(e["step"], steps, seconds))} for e in entries if "loss" not in e]
    return {
        "steps": steps[-1],
        "training_seconds": seconds[-1],
        "images_per_second": steps[-1] * batch_size / seconds[-1] if seconds[-1] else 0.0,
        "looks": looks,
    }


def seconds_per_step(run: Path, batch_size: int) -> float:
    """Mean over a short run without its first third, in which memory and compiler warm up."""
    entries = [entry for entry in read_rows(run / "metrics.jsonl") if "loss" in entry]
    start = max((e["step"] for e in entries if e["t"] <= 1 / 3 + 1e-9), default=0)
    steps, rates = zip(*((e["step"], e["images_per_second"]) for e in entries if e["step"] > start), strict=True)
    return float(seconds_of_lines(steps, rates, batch_size, start).sum()) / (steps[-1] - start)

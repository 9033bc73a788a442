"""Accuracies of a trained encoder, and the time its training took: what `maskery compare` compares."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..data.dataset import ImageData, spread
from ..nn.vit import ViT
from ..runs.metrics import read_rows
from .features import features
from .inference_options import InferenceOptions
from .knn import knn_accuracies
from .linear_probe import probe_accuracy

BANK, QUERIES = 10_000, 5_000  # images at most: training images that vote and train the probe, held-out ones
LEAST_RATE = 0.05  # images per second are logged rounded to a tenth


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
    y, truth = (torch.from_numpy(data.labels[x.indices]).to(device) for x in (bank, queries))
    for name in ("mean_patch", "class_token"):
        x, queries_x = getattr(bank, name).to(device), getattr(queries, name).to(device)
        numbers[f"linear_{name}"] = probe_accuracy(x, y, queries_x, truth, len(data.classes))
    return numbers


def training_curve(run: Path, batch_size: int) -> dict[str, Any]:
    """Steps, seconds and images per second of a run's training, and its periodic evaluations ("looks") over time.

    The seconds are of training alone: images per second in the log exclude evaluations and checkpoints.
    """
    entries = read_rows(run / "metrics.jsonl")
    steps, seconds = [0], [0.0]
    for entry in (e for e in entries if "loss" in e):
        seconds.append(seconds[-1] + _seconds(entry, steps[-1], batch_size))
        steps.append(entry["step"])
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
    start = step = max((e["step"] for e in entries if e["t"] <= 1 / 3 + 1e-9), default=0)
    seconds = 0.0
    for entry in (e for e in entries if e["t"] > 1 / 3 + 1e-9):
        seconds += _seconds(entry, step, batch_size)
        step = entry["step"]
    return seconds / (step - start)


def _seconds(entry: dict[str, Any], step: int, batch_size: int) -> float:
    """From `step` to a log entry."""
    return (entry["step"] - step) * batch_size / max(entry["images_per_second"], LEAST_RATE)

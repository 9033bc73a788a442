"""What a trained encoder is worth, and what its training took: the numbers that `maskery compare` puts side by side."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..data.dataset import ImageData, spread
from ..nn.vit import ViT
from ..runs.metrics import complete_lines
from .features import features
from .knn import knn_of_features
from .linear_probe import linear_probe

BANK, QUERIES = 10_000, 5_000  # images at most: training images that vote and train the probe, held-out ones


@dataclass(frozen=True)
class Questions:
    """Which images an encoder is asked about, the same for all encoders."""

    bank: np.ndarray  # training images with labels
    queries: np.ndarray  # held-out images with labels

    @classmethod
    def of(cls, data: ImageData) -> "Questions | str":
        """The questions, or why there are none."""
        if data.labels is None:
            return "the images have no labels"
        bank, queries = (x[data.labels[x] >= 0] for x in (data.train, data.held_out))
        if not len(queries):
            return "no image with a label is held out (--images.holdout)"
        if len(bank) < 2:
            return "the training images have no labels"
        return cls(spread(bank, BANK), spread(queries, QUERIES))


def standing(
    encoder: ViT, data: ImageData, asked: Questions, workers: int, progress: Callable[[int, int], None] | None = None
) -> dict[str, float]:
    """Accuracies on held-out images: kNN and linear probe, on the mean patch token and on the class token."""
    assert data.labels is not None
    bank, queries = (
        features(encoder, data.images, which, workers=workers, progress=progress)
        for which in (asked.bank, asked.queries)
    )
    numbers = knn_of_features(bank, queries, data.labels, len(data.classes))
    device = encoder.mean.device
    y, truth = (torch.from_numpy(data.labels[x.indices]).to(device) for x in (bank, queries))
    for name in ("mean_patch", "class_token"):
        x, asked_of = getattr(bank, name).to(device), getattr(queries, name).to(device)
        numbers[f"linear_{name}"] = linear_probe(x, y, asked_of, truth, len(data.classes))
    return numbers


def course(run: Path, batch_size: int) -> dict[str, Any]:
    """What a run's metrics.jsonl says: steps, training seconds, images per second, and `looks` with their seconds.

    Seconds of training alone: looks and checkpoints are not in the log's images per second.
    """
    facts = [json.loads(line) for line in complete_lines(run / "metrics.jsonl")]
    steps, seconds = [0], [0.0]
    for line in (f for f in facts if "loss" in f):
        rate = max(line["images_per_second"], 0.05)  # it is rounded to a tenth
        seconds.append(seconds[-1] + (line["step"] - steps[-1]) * batch_size / rate)
        steps.append(line["step"])
    looks = [f | {"seconds": float(np.interp(f["step"], steps, seconds))} for f in facts if "loss" not in f]
    return {
        "steps": steps[-1],
        "training_seconds": seconds[-1],
        "images_per_second": steps[-1] * batch_size / seconds[-1] if seconds[-1] else 0.0,
        "looks": looks,
    }


def seconds_per_step(run: Path, batch_size: int) -> float:
    """Of a short run: its first third, when memory and compiler warm up, does not count."""
    lines = [json.loads(line) for line in complete_lines(run / "metrics.jsonl")]
    late = [f for f in lines if "loss" in f and f["t"] > 1 / 3 + 1e-9]
    early = max((f["step"] for f in lines if "loss" in f and f["t"] <= 1 / 3 + 1e-9), default=0)
    taken, before = 0.0, early
    for line in late:
        taken += (line["step"] - before) * batch_size / max(line["images_per_second"], 0.05)
        before = line["step"]
    return taken / (before - early)

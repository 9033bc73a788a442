"""Learning curves of a run (extra: report)."""

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ACCURACIES = {  # of periodic evaluations -> their label
    "knn_mean_patch": "20-NN, mean patch",
    "knn_class_token": "20-NN, class token",
    "top1": "held out",
    "map": "held out",
    "tune_top1": "to choose by",
    "tune_map": "to choose by",
    "miou": "held out",
    "accuracy": "held out",
    "tune_accuracy": "to choose by",
    "tune_miou": "to choose by",
}


def learning_curves(rows: Sequence[Mapping[str, Any]], path: Path) -> Path | None:
    """Draw the rows of metrics.jsonl: losses, learning rate, accuracy with labels. None without matplotlib."""
    if importlib.util.find_spec("matplotlib") is None:
        return None
    from matplotlib.figure import Figure

    steps = [row for row in rows if "loss" in row]
    evaluations = [row for row in rows if "loss" not in row]
    accuracies = [name for name in ACCURACIES if any(name in row for row in evaluations)]
    figure = Figure(figsize=(5 * (3 if accuracies else 2), 3.4), layout="constrained")
    axes = figure.subplots(1, 3 if accuracies else 2)

    def draw(axis: Any, rows: Sequence[Mapping[str, Any]], name: str, label: str, style: str = "-") -> None:
        points = [(row["epoch"], row[name]) for row in rows if name in row]
        if points:
            axis.plot(*zip(*points, strict=True), style, label=label)

    draw(axes[0], steps, "loss", "training")
    draw(axes[0], evaluations, "held_out_loss", "held out", "o-")
    axes[0].set(title="loss", xlabel="epoch")
    axes[0].legend()
    draw(axes[1], steps, "lr", "lr")
    axes[1].set(title="learning rate", xlabel="epoch")
    if accuracies:
        for name in accuracies:
            draw(axes[2], evaluations, name, ACCURACIES[name], "o-")
        metric = {"map": "mean average precision", "miou": "mean IoU"}.get(accuracies[0], "accuracy")
        axes[2].set(title=f"{metric} on held-out images", xlabel="epoch", ylim=(0, None))
        axes[2].legend()
    for axis in axes:
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
    return path

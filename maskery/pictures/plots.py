"""Plots made with matplotlib (extra: report): learning curves, confusion matrices.

M classes; matrices are [M, M], rows the true class, columns the predicted one
"""

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ..outputs import partial_path
from ..text import needs_extra

MAX_CLASSES = 50  # in a picture: with more, labels cannot be read
HELD_OUT = ("top1", "map", "miou", "accuracy")
ACCURACIES = {"knn_mean_patch": "20-NN, mean patch", "knn_class_token": "20-NN, class token"}  # name -> label
ACCURACIES |= dict.fromkeys(HELD_OUT, "held out") | {f"tune_{name}": "to choose by" for name in HELD_OUT}


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
    axes[0].legend()
    draw(axes[1], steps, "lr", "lr")
    titles = ["loss", "learning rate"]
    if accuracies:
        for name in accuracies:
            draw(axes[2], evaluations, name, ACCURACIES[name], "o-")
        metric = {"map": "mean average precision", "miou": "mean IoU"}.get(accuracies[0], "accuracy")
        titles.append(f"{metric} on held-out images")
        axes[2].set(ylim=(0, None))
        axes[2].legend()
    for axis, title in zip(axes, titles, strict=True):
        axis.set(title=title, xlabel="epoch")
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
    return path


def most_confused(matrix: Tensor, classes: Sequence[str]) -> list[dict[str, Any]]:
    """The 20 pairs with the most errors: {"class", "taken_for", "images", "share"} (of the class's images)."""
    wrong = matrix.clone()
    wrong.fill_diagonal_(0)
    rows = []
    for i in wrong.flatten().argsort(descending=True, stable=True)[:20].tolist():
        true, predicted = divmod(i, len(classes))
        if images := int(wrong[true, predicted]):
            row = {"class": classes[true], "taken_for": classes[predicted], "images": images}
            rows.append(row | {"share": images / int(matrix[true].sum())})
    return rows


def confusion_picture(matrix: Tensor, classes: Sequence[str], path: Path) -> str | None:
    """Draw the matrix, each row as fractions of its class. Returns the reason when there is no picture, else None."""
    if len(classes) > MAX_CLASSES:
        return f"no confusion picture: the labels of {len(classes)} classes (more than {MAX_CLASSES}) cannot be read"
    if importlib.util.find_spec("matplotlib") is None:
        return f"no confusion picture: {needs_extra('it', 'matplotlib', 'report')}"
    from matplotlib.figure import Figure

    counts = matrix.cpu().numpy()
    support = counts.sum(1, keepdims=True)
    fractions = np.divide(counts, support, out=np.zeros(counts.shape), where=support > 0)
    height = 2.6 + 0.32 * len(classes)
    figure = Figure(figsize=(height + 0.8, height), layout="constrained")
    axis = figure.subplots()
    image = axis.imshow(fractions, vmin=0, vmax=1, cmap="Blues")
    short = (name if len(name) <= 24 else name[:23] + "…" for name in classes)
    names = [name.replace("$", r"\$") for name in short]  # a dollar sign would start a formula
    axis.set_xticks(range(len(names)), names, rotation=90)
    axis.set_yticks(range(len(names)), [f"{n} ({s:,})" for n, s in zip(names, support[:, 0], strict=True)])
    axis.tick_params(labelsize=8)
    axis.set(xlabel="predicted", ylabel="class (images)")
    if len(classes) <= 20:
        for row, column in zip(*counts.nonzero(), strict=True):
            ink = "white" if fractions[row, column] > 0.5 else "black"
            axis.text(column, row, f"{counts[row, column]:,}", ha="center", va="center", fontsize=7, color=ink)
    figure.colorbar(image, ax=axis, shrink=0.7, label="share of the class")
    with partial_path(path) as partial:
        figure.savefig(partial, format="png", dpi=130)
    return None

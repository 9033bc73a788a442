"""Confusion matrices as a picture (extra: report), and the most confused pairs of classes.

M classes; matrices are [M, M], rows the true class, columns the predicted one
"""

import importlib.util
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ..outputs import write_file
from ..text import needs_extra

MAX_CLASSES = 50  # in a picture: with more, labels cannot be read


def most_confused(matrix: Tensor, classes: Sequence[str], limit: int = 20) -> list[dict[str, Any]]:
    """Pairs with the most errors: {"class", "taken_for", "images", "share"} (of the class's images)."""
    wrong = matrix.clone()
    wrong.fill_diagonal_(0)
    order = wrong.flatten().argsort(descending=True, stable=True)[:limit].tolist()
    rows = []
    for i in order:
        true, predicted = divmod(i, len(classes))
        images = int(wrong[true, predicted])
        if images:
            row = {"class": classes[true], "taken_for": classes[predicted], "images": images}
            rows.append(row | {"share": images / int(matrix[true].sum())})
    return rows


def lines(matrix: Tensor, classes: Sequence[str], limit: int = 20) -> list[str]:
    """Format `most_confused` for a console."""
    rows = most_confused(matrix, classes, limit)
    if not rows:
        return ["no image was taken for another class"]
    width = max(len(row["class"]) for row in rows)
    return [
        f"{row['class']:{width}}  taken for {row['taken_for']}: {row['images']} images, {row['share']:.0%} of the class"
        for row in rows
    ]


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
    names = [_short(name) for name in classes]
    axis.set_xticks(range(len(names)), names, rotation=90)
    axis.set_yticks(range(len(names)), [f"{n} ({s:,})" for n, s in zip(names, support[:, 0], strict=True)])
    axis.tick_params(labelsize=8)
    axis.set(xlabel="predicted", ylabel="class (images)")
    if len(classes) <= 20:
        for row, column in zip(*counts.nonzero(), strict=True):
            ink = "white" if fractions[row, column] > 0.5 else "black"
            axis.text(column, row, f"{counts[row, column]:,}", ha="center", va="center", fontsize=7, color=ink)
    figure.colorbar(image, ax=axis, shrink=0.7, label="share of the class")
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=130)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, data.getvalue())
    return None


def _short(name: str) -> str:
    """Cut a name to 24 characters and escape dollar signs, which would start a formula."""
    name = name if len(name) <= 24 else name[:23] + "…"
    return name.replace("$", r"\$")

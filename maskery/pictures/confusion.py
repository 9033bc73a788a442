"""Which classes are taken for which: a picture (extra: report) and a table of the worst pairs.

M classes; matrices are [M, M], rows the truth, columns what was predicted
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

DRAWN = 50  # classes at most: beyond that no label can be read


def most_confused(matrix: Tensor, classes: Sequence[str], most: int = 20) -> list[dict[str, Any]]:
    """The pairs with the most mistakes: {"class", "taken_for", "images", "share"} (of the class's images)."""
    wrong = matrix.clone()
    wrong.fill_diagonal_(0)
    order = wrong.flatten().argsort(descending=True, stable=True)[:most].tolist()
    rows = []
    for at in order:
        true, taken = divmod(at, len(classes))
        images = int(wrong[true, taken])
        if images:
            share = images / int(matrix[true].sum())
            rows.append({"class": classes[true], "taken_for": classes[taken], "images": images, "share": share})
    return rows


def lines(matrix: Tensor, classes: Sequence[str], most: int = 20) -> list[str]:
    """`most_confused` for a console."""
    rows = most_confused(matrix, classes, most)
    if not rows:
        return ["no image was taken for another class"]
    width = max(len(row["class"]) for row in rows)
    return [
        f"{row['class']:{width}}  taken for {row['taken_for']}: {row['images']} images, {row['share']:.0%} of the class"
        for row in rows
    ]


def confusion_picture(matrix: Tensor, classes: Sequence[str], path: Path) -> str | None:
    """Write the matrix as a picture, each row in shares of its class; why there is none, or None when there is one."""
    if len(classes) > DRAWN:
        return (
            f"no confusion picture: of {len(classes)} classes (more than {DRAWN}) no label can be read; see the pairs"
        )
    if importlib.util.find_spec("matplotlib") is None:
        return f"no confusion picture: {needs_extra('it', 'matplotlib', 'report')}"
    from matplotlib.figure import Figure

    counts = matrix.cpu().numpy()
    support = counts.sum(1, keepdims=True)
    shares = np.divide(counts, support, out=np.zeros(counts.shape), where=support > 0)
    side = 2.6 + 0.32 * len(classes)
    figure = Figure(figsize=(side + 0.8, side), layout="constrained")
    axis = figure.subplots()
    image = axis.imshow(shares, vmin=0, vmax=1, cmap="Blues")
    names = [_short(name) for name in classes]
    axis.set_xticks(range(len(names)), names, rotation=90)
    axis.set_yticks(range(len(names)), [f"{n} ({s:,})" for n, s in zip(names, support[:, 0], strict=True)])
    axis.tick_params(labelsize=8)
    axis.set(xlabel="predicted", ylabel="class (images)")
    if len(classes) <= 20:
        for row, column in zip(*counts.nonzero(), strict=True):
            ink = "white" if shares[row, column] > 0.5 else "black"
            axis.text(column, row, f"{counts[row, column]:,}", ha="center", va="center", fontsize=7, color=ink)
    figure.colorbar(image, ax=axis, shrink=0.7, label="share of the class")
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=130)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, data.getvalue())
    return None


def _short(name: str) -> str:
    """At most 24 letters, and no formula should there be dollars in it."""
    name = name if len(name) <= 24 else name[:23] + "…"
    return name.replace("$", r"\$")

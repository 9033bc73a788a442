"""What the numbers of a run mean, in words, and the curves that show them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..html.charts import Chart, Curve, chart
from ..runs.metrics import Metrics

LOOP = ("step", "epoch", "t", "loss", "lr", "grad_norm", "images_per_second", "data_wait", "memory", "gpu_use")

MEANING = {
    "reconstruction": ("Reconstruction", "how far predicted pixels are from the true ones: MAE's loss"),
    "consistency": ("Consistency", "how far the student's predictions are from its teacher's"),
    "teacher_distance": ("Distance to the teacher", "the same as a share of how large predictions are"),
    "homologous": ("Homologous contrast", "how badly patches tell their own image from the others they are mixed with"),
    "homologous_share": ("Own patches attended to", "share of the keys a patch chooses that are of its own image"),
    "alignment": ("Alignment", "2 - 2 cos between the student's features and the teacher's of the strong view"),
    "target_spread": ("Spread of the teacher's targets", "0: all targets are one, the teacher has collapsed"),
    "loss_teacher": ("Distance to the frozen teacher", "2 - 2 cos of features: 0 equal, 2 unrelated"),
    "loss_student": ("Distance to the momentum student", "2 - 2 cos of features: 0 equal, 2 unrelated"),
    "entropy_teacher": ("Evenness of the teacher's attention", "1: every patch alike, masks are random; 0: one patch"),
    "entropy_student": ("Evenness of the student's attention", "1: every patch alike, masks are random; 0: one patch"),
    "agreement": ("Agreement of both attentions", "1: teacher and student look at the same patches"),
    "alpha": ("The teacher's share", "of masks and loss: alpha"),
}
ACCURACIES = {
    "knn_mean_patch": "mean of the patch tokens",
    "knn_class_token": "class token",
    "top1": "top-1",
    "map": "mean average precision",
    "miou": "mean IoU",
}


def curve(metrics: Metrics, name: str, label: str) -> list[Curve]:
    """A number of the log, with its band where buckets hold several lines."""
    if name not in metrics.columns:
        return []
    c = metrics.columns[name]
    several = metrics.lines > metrics.buckets
    return [Curve(label, metrics["step"], c.mean, c.low if several else None, c.high if several else None)]


def looked(metrics: Metrics, name: str, label: str) -> list[Curve]:
    rows = [(look["step"], look[name]) for look in metrics.looks if isinstance(look.get(name), int | float)]
    if len(rows) < 2:
        return []
    steps, values = np.array(rows, float).T
    return [Curve(label, steps, values, dots=len(rows) <= 60)]


def losses(metrics: Metrics, baselines: Mapping[str, Any]) -> Chart | None:
    """The loss that guesses can be compared with, in training and held out, with the guesses as lines."""
    name, by = next(iter(baselines.get("guesses", {}).items()), ("loss", {}))
    name = name if name in metrics.columns else "loss"
    title = {"loss": "Loss"}.get(name) or MEANING.get(name, (name,))[0]
    note = (
        "What was trained on (under other crops and masks every time), and held-out images under always the same masks."
    )
    note += " Dotted: what simple guesses would give on these very images." if by else ""
    return chart(
        title,
        [*curve(metrics, name, "training"), *looked(metrics, f"held_out_{name}", "held out")],
        note=note,
        guides=[(f"guess: {words}, {value:.2f}", value) for words, value in by.items()],
        settle=0.04,
    )


def learning(metrics: Metrics) -> list[Chart]:
    """Whether features gain: neighbours where there are labels, directions and spread."""
    votes = [c for name, label in ACCURACIES.items() for c in looked(metrics, name, label)]
    made = [
        chart(
            "Accuracy on held-out images",
            votes,
            percent=True,
            zero=True,
            note="20 nearest neighbours among training images vote, without any training.",
        ),
        chart(
            "Directions that features use",
            looked(metrics, "effective_rank", "effective rank"),
            zero=True,
            note="Effective rank of held-out features: a fall to 1 is collapse.",
        ),
        chart(
            "How much images differ",
            looked(metrics, "feature_spread", "spread"),
            zero=True,
            note="Spread of held-out features: 0 says that all images look alike to the network.",
        ),
    ]
    return [c for c in made if c]


def running(metrics: Metrics) -> list[Chart]:
    made = [
        chart("Learning rate", curve(metrics, "lr", "learning rate"), zero=True),
        chart("Gradient norm", curve(metrics, "grad_norm", "norm"), log=True, note="On a logarithmic scale."),
        chart("Images per second", curve(metrics, "images_per_second", "images/s"), zero=True),
        chart("Waiting for images", curve(metrics, "data_wait", "share of the time"), percent=True, zero=True),
        chart("GPU in use", curve(metrics, "gpu_use", "share of the time"), percent=True, zero=True),
        chart("Memory", curve(metrics, "memory", "GB"), zero=True, note="The most this process has used, in GB."),
    ]
    return [c for c in made if c]


def of_method(metrics: Metrics, shown: Sequence[str] = ()) -> list[Chart]:
    """One chart for every number that the method itself logs, but for those already shown."""
    names = [name for name in metrics.columns if name not in (*LOOP, *shown)]
    made = []
    for name in [*(n for n in MEANING if n in names), *sorted(n for n in names if n not in MEANING)]:
        title, note = MEANING.get(name, (name.replace("_", " "), ""))
        both = [*curve(metrics, name, "training"), *looked(metrics, f"held_out_{name}", "held out")]
        made.append(chart(title, both, note=note))
    return [c for c in made if c]

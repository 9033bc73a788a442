"""Charts of a run's metrics, with the meaning of each metric in words."""

import numpy as np

from ..health.checks import RunRecord
from ..html.charts import LINEAR, Chart, Curve, Scale, chart
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
ZERO, FRACTION = Scale(zero=True), Scale(percent=True, zero=True)


def training_curve(metrics: Metrics, name: str, label: str = "training") -> list[Curve]:
    """A metric of the log lines, with a band where a bucket holds several lines."""
    if name not in metrics.columns:
        return []
    c = metrics.columns[name]
    has_band = metrics.lines > metrics.buckets
    return [Curve(label, metrics["step"], c.mean, c.low if has_band else None, c.high if has_band else None)]


def evaluation_curve(metrics: Metrics, name: str, label: str = "held out") -> list[Curve]:
    """A metric of the periodic evaluations."""
    rows = [(row["step"], row[name]) for row in metrics.looks if isinstance(row.get(name), int | float)]
    return [Curve(label, *np.array(rows, float).T, dots=len(rows) <= 60)] if len(rows) > 1 else []


def loss_chart(record: RunRecord) -> Chart | None:
    """The loss that trivial baselines exist for, in training and held out, with the baselines as dotted lines."""
    metrics, (name, values) = record.metrics, record.baseline_losses
    name = name if name in metrics.columns else "loss"
    title = "Loss" if name == "loss" else MEANING.get(name, (name,))[0]
    note = "Training images under new crops and masks every time, and held-out images under always the same masks."
    note += " Dotted: what simple guesses would give on these very images." if values else ""
    curves = [*training_curve(metrics, name), *evaluation_curve(metrics, f"held_out_{name}")]
    guides = [(f"guess: {words}, {value:.2f}", value) for words, value in values.items()]
    return chart(title, curves, Scale(settle=0.04), note=note, guides=guides)


def feature_charts(metrics: Metrics) -> list[Chart]:
    """Whether features become better: kNN accuracy where there are labels, effective rank and spread."""
    accuracies = [c for name, label in ACCURACIES.items() for c in evaluation_curve(metrics, name, label)]
    rank = evaluation_curve(metrics, "effective_rank", "effective rank")
    spread = evaluation_curve(metrics, "feature_spread", "spread")
    votes = "20 nearest neighbours among training images vote, without any training."
    collapse = "Effective rank of held-out features: a fall to 1 is collapse."
    alike = "Spread of held-out features: 0 says that all images look alike to the network."
    return _charts(
        ("Accuracy on held-out images", accuracies, FRACTION, votes),
        ("Directions that features use", rank, ZERO, collapse),
        ("How much images differ", spread, ZERO, alike),
    )


def training_charts(metrics: Metrics) -> list[Chart]:
    """Learning rate, gradient norm, speed and memory."""
    rows = (
        ("Learning rate", "lr", "learning rate", ZERO, ""),
        ("Gradient norm", "grad_norm", "norm", Scale(log=True), "On a logarithmic scale."),
        ("Images per second", "images_per_second", "images/s", ZERO, ""),
        ("Waiting for images", "data_wait", "fraction of the time", FRACTION, ""),
        ("GPU in use", "gpu_use", "fraction of the time", FRACTION, ""),
        ("Memory", "memory", "GB", ZERO, "The most this process has used, in GB."),
    )
    return _charts(*((title, training_curve(metrics, name, label), *how) for title, name, label, *how in rows))


def method_charts(metrics: Metrics, shown: str) -> list[Chart]:
    """A chart for every metric that the method itself logs, except for the one already shown."""
    names = [name for name in metrics.columns if name not in (*LOOP, shown)]
    rows = []
    for name in [*(n for n in MEANING if n in names), *sorted(n for n in names if n not in MEANING)]:
        title, note = MEANING.get(name, (name.replace("_", " "), ""))
        curves = [*training_curve(metrics, name), *evaluation_curve(metrics, f"held_out_{name}")]
        rows.append((title, curves, LINEAR, note))
    return _charts(*rows)


def _charts(*rows: tuple[str, list[Curve], Scale, str]) -> list[Chart]:
    """Those charts of (title, curves, scale, note) that there are numbers for."""
    made = (chart(title, curves, scale, note=note) for title, curves, scale, note in rows)
    return [one for one in made if one]

"""Judge the optimiser: gradient norm and learning rate."""

import math

import numpy as np

from .verdict import RunRecord, Verdict

ADAM_HOT, ADAM_WARM = 2e-2, 8e-3  # Adam moves each weight by up to lr a step, and weights of a ViT are about 0.02-0.1
SPIKES = 30.0  # times the median gradient norm, after warm-up


def gradients(record: RunRecord) -> Verdict | None:
    warm = record.option("optim.warmup", 0.05)
    if "grad_norm" not in record.metrics.columns:
        return None
    column, t = record.metrics.columns["grad_norm"], record.metrics["t"]
    late = np.isfinite(column.mean) & (t > warm + 0.02)
    if late.sum() < 4:
        return Verdict("gradients", "good", "Too early to say.")
    usual, most = np.median(column.mean[late]), column.high[late].max()
    now = np.median(record.metrics.late("grad_norm"))
    sentence = f"The gradient's norm is {now:.3g} now, {usual:.3g} usually, at most {most:.3g} after warm-up"
    if usual == 0 or not math.isfinite(most):
        return Verdict("gradients", "act", f"{sentence}: nothing can be learned from it.", "Is everything frozen?")
    if most > SPIKES * usual:
        return Verdict(
            "gradients", "watch", f"{sentence}: it has spikes.", "--optim.clip-grad 1 keeps them from doing harm."
        )
    return Verdict("gradients", "good", f"{sentence}.")


def learning_rate(record: RunRecord) -> Verdict | None:
    lrs = record.metrics["lr"][np.isfinite(record.metrics["lr"])]
    if not len(lrs):
        return None
    base, batch = record.option("optim.base_lr", 0.0), record.option("batch_size", 0)
    peak = max(lrs.max(), base * batch / 256)
    sentence = f"The highest learning rate is {peak:.2g} (base lr {base:g} x batch {batch} / 256)"
    adam = record.option("optim.name", "adamw") == "adamw"
    if adam and peak > ADAM_HOT:
        return Verdict(
            "learning rate",
            "act",
            f"{sentence}: Adam moves every weight by about as much as it is large.",
            f"Try --optim.base-lr {base * 2.5e-3 / peak:.1g}.",
        )
    if adam and peak > ADAM_WARM:
        return Verdict(
            "learning rate",
            "watch",
            f"{sentence}: more than networks usually bear.",
            f"If the loss jumps, try --optim.base-lr {base * 2.5e-3 / peak:.1g}.",
        )
    if peak < 1e-7:
        return Verdict("learning rate", "watch", f"{sentence}: nothing will move.", "Raise --optim.base-lr.")
    return Verdict("learning rate", "good", f"{sentence}.")

"""How the optimiser moves: the gradient's norm and the learning rate."""

import math

import numpy as np

from .verdict import Facts, Verdict

ADAM_HOT, ADAM_WARM = 2e-2, 8e-3  # Adam moves each weight by up to lr a step, and weights of a ViT are about 0.02-0.1
SPIKES = 30.0  # times the median gradient norm, after warm-up


def gradients(f: Facts) -> Verdict | None:
    warm = f.option("optim.warmup", 0.05)
    if "grad_norm" not in f.metrics.columns:
        return None
    column, t = f.metrics.columns["grad_norm"], f.metrics["t"]
    late = np.isfinite(column.mean) & (t > warm + 0.02)
    if late.sum() < 4:
        return Verdict("gradients", "good", "Too early to say.")
    usual, most, now = np.median(column.mean[late]), column.high[late].max(), np.median(f.metrics.late("grad_norm"))
    says = f"The gradient's norm is {now:.3g} now, {usual:.3g} usually, at most {most:.3g} after warm-up"
    if usual == 0 or not math.isfinite(most):
        return Verdict("gradients", "act", f"{says}: nothing can be learned from it.", "Is everything frozen?")
    if most > SPIKES * usual:
        return Verdict(
            "gradients", "watch", f"{says}: it has spikes.", "--optim.clip-grad 1 keeps them from doing harm."
        )
    return Verdict("gradients", "good", f"{says}.")


def learning_rate(f: Facts) -> Verdict | None:
    lrs = f.metrics["lr"][np.isfinite(f.metrics["lr"])]
    if not len(lrs):
        return None
    base, batch = f.option("optim.base_lr", 0.0), f.option("batch_size", 0)
    peak = max(lrs.max(), base * batch / 256)
    says = f"The highest learning rate is {peak:.2g} (base lr {base:g} x batch {batch} / 256)"
    adam = f.option("optim.name", "adamw") == "adamw"
    if adam and peak > ADAM_HOT:
        return Verdict(
            "learning rate",
            "act",
            f"{says}: Adam moves every weight by about as much as it is large.",
            f"Try --optim.base-lr {base * 2.5e-3 / peak:.1g}.",
        )
    if adam and peak > ADAM_WARM:
        return Verdict(
            "learning rate",
            "watch",
            f"{says}: more than networks usually bear.",
            f"If the loss jumps, try --optim.base-lr {base * 2.5e-3 / peak:.1g}.",
        )
    if peak < 1e-7:
        return Verdict("learning rate", "watch", f"{says}: nothing will move.", "Raise --optim.base-lr.")
    return Verdict("learning rate", "good", f"{says}.")

"""Judge learning: the held-out loss against trivial baselines, its trend, and kNN accuracy."""

import math

import numpy as np

from ..nn.baselines import NEIGHBOURS
from .verdict import EARLY, RunRecord, Verdict

NO_BETTER = 0.99  # of the best blind baseline, which is accurate to 0.01: a network that uses visible patches is below
ON_ITS_WAY = 0.01  # relative fall since the evaluation before: above it, a run that is no better yet is only slow
RISEN = 1.08  # times the best so far: held-out losses under fixed masks repeat to about 0.01
FLAT_FALL = 0.004  # relative fall between two evaluations below which training longer gains nothing
STILL_FALLING = 0.02  # relative fall over the last quarter above which more epochs would help
TELLING = 500  # held-out images with labels from which 4 points are more than chance


def loss(record: RunRecord) -> Verdict | None:
    name, baselines = record.baseline_losses
    values = record.evaluations(f"held_out_{name}")
    if not values or not baselines:
        return None
    blind = min((g for g in baselines if g != NEIGHBOURS), key=lambda g: baselines[g])  # uses no visible patch
    now, words = values[-1][1], {"reconstruction": "reconstruction loss"}.get(name, "loss")
    between = ", ".join(f"{v:.2f} by {g}" for g, v in baselines.items())
    sentence = f"Held-out {words} {now:.3f}; guessing on these images and masks gives {between}."
    if baselines[blind] < 1e-3:
        return None  # nothing to predict: `images` says so
    if record.t < EARLY:
        return Verdict("expected loss", "good", f"{sentence} Too early to say more.")
    fall = (values[-2][1] - now) / max(values[-2][1], 1e-12) if len(values) > 1 else 0.0
    if now > NO_BETTER * baselines[blind] and fall > ON_ITS_WAY:
        return Verdict("expected loss", "good", f"{sentence} It is above that and falls.")
    if now > NO_BETTER * baselines[blind]:
        return Verdict(
            "expected loss",
            "act" if record.t >= 2 * EARLY else "watch",
            f"{sentence} So far the network predicts no better than a guess that ignores the visible patches.",
            "Do targets belong to their images? Is the learning rate usable, and does the encoder learn?",
        )
    if NEIGHBOURS in baselines and baselines[blind] > baselines[NEIGHBOURS]:
        fraction = (baselines[blind] - now) / (baselines[blind] - baselines[NEIGHBOURS])
        more = fraction > 1
        sentence += (
            " It predicts more than neighbours give away." if more else f" It is {fraction:.0%} of the way there."
        )
    return Verdict("expected loss", "good", sentence)


def trend(record: RunRecord) -> Verdict | None:
    name, baselines = record.baseline_losses
    values = record.evaluations(f"held_out_{name}")
    if len(values) < 3:
        return Verdict("trend", "good", "Too early to see a trend: fewer than three evaluations.") if values else None
    now, before, best = values[-1][1], values[-2][1], min(v for _, v in values)
    fall = (before - now) / max(abs(before), 1e-12)
    moving_targets = not baselines and record.option("method", "mae").startswith("cmt")  # they may make a loss rise
    if not moving_targets and now > RISEN * best and record.t > EARLY:
        training = record.metrics.late(name)
        over = len(training) > 1 and training[-1] < best
        why = "while the training loss falls: it learns these images by heart" if over else "the run gets worse"
        advice = "More images or fewer epochs." if over else "Lower --optim.base-lr, or --optim.clip-grad 1."
        return Verdict(
            "trend",
            "watch" if over else "act",
            f"The held-out loss has risen from {best:.3f} to {now:.3f}, {why}.",
            advice,
        )
    lr, peak = record.metrics.last.get("lr", 0.0), np.nanmax(record.metrics["lr"], initial=0.0)
    if abs(fall) < FLAT_FALL and record.t >= 2 * EARLY and lr > 0.3 * peak:
        sentence = f"The held-out loss stands still ({before:.4f}, then {now:.4f}) with much of the learning rate left."
        return Verdict("trend", "watch", sentence, "It may as well stop, or go on from its weights at another size.")
    since = [v for s, v in values if s <= 0.75 * values[-1][0]][-1]
    quarter = (since - now) / max(abs(since), 1e-12)
    sentence = f"The held-out loss fell by {quarter:.1%} in the last quarter."
    if record.t >= 1 and quarter > STILL_FALLING:
        sentence += " It was still falling: more epochs would go on."
    return Verdict("trend", "good", sentence)


def neighbours(record: RunRecord) -> Verdict | None:
    tokens = {n: record.evaluations(n) for n in ("knn_mean_patch", "knn_class_token")}
    tokens = {n: values for n, values in tokens.items() if len(values) > 1 and values[0][0] == 0}
    if not tokens:
        return None
    changes = {n: (values[0][1], values[-1][1]) for n, values in tokens.items()}
    name = max(changes, key=lambda n: changes[n][1] - changes[n][0])
    first, now = changes[name]
    n = min(record.option("watch.knn_queries", 2000), record.baselines.get("held_out", 2000))
    noise = 2 * math.sqrt(2 * max(now * (1 - now), 0.01) / max(n, 1))
    sentence = f"Nearest neighbours are right for {now:.1%} of the held-out images ({name[4:].replace('_', ' ')}), "
    sentence += f"{first:.1%} before the first step."
    if record.t < EARLY:
        return Verdict("neighbours", "good", f"{sentence} Too early to say more.")
    advice = "A loss can fall while features do not gain: compare with `maskery eval probe RUN --beside random`."
    if now < first - noise and record.t >= 2 * EARLY:
        return Verdict("neighbours", "watch", f"{sentence} That is worse, by more than chance.", advice)
    if now < first + noise:
        if record.t >= 0.9 and n >= TELLING:
            return Verdict("neighbours", "watch", f"{sentence} Pretraining has not helped them.", advice)
        sentence += f" Of {n:,} images a difference below {noise:.1%} is chance."
    return Verdict("neighbours", "good", sentence)

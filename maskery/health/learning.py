"""Does it learn? The held-out loss against guesses, where it is going, and whether neighbours become alike."""

import math

import numpy as np

from ..nn.baselines import NEIGHBOURS
from .verdict import EARLY, Facts, Verdict

NO_BETTER = 0.99  # of the best blind guess: who looks at visible patches is below it, and the guess is good to 0.01
ON_ITS_WAY = 0.01  # relative fall since the look before: above it a run that is no better yet is only slow
RISEN = 1.08  # times the best so far: held-out losses under fixed masks repeat to about 0.01
FLAT_FALL = 0.004  # relative fall between two looks below which more of the same buys nothing
STILL_FALLING = 0.02  # relative fall over the last quarter that more epochs would go on with
TELLING = 500  # held-out images with labels from which 4 points are more than chance


def loss(f: Facts) -> Verdict | None:
    name, by = f.pixels
    seen = f.looked(f"held_out_{name}")
    if not seen or not by:
        return None
    blind = min((g for g in by if g != NEIGHBOURS), key=lambda g: by[g])  # without looking at what is visible
    now, words = seen[-1][1], {"reconstruction": "reconstruction loss"}.get(name, "loss")
    between = ", ".join(f"{v:.2f} by {g}" for g, v in by.items())
    says = f"Held-out {words} {now:.3f}; guessing on these images and masks gives {between}."
    if by[blind] < 1e-3:
        return None  # nothing to predict: `images` says so
    if f.t < EARLY:
        return Verdict("expected loss", "good", f"{says} Too early to say more.")
    fall = (seen[-2][1] - now) / max(seen[-2][1], 1e-12) if len(seen) > 1 else 0.0
    if now > NO_BETTER * by[blind] and fall > ON_ITS_WAY:
        return Verdict("expected loss", "good", f"{says} It is above that and falls.")
    if now > NO_BETTER * by[blind]:
        return Verdict(
            "expected loss",
            "act" if f.t >= 2 * EARLY else "watch",
            f"{says} So far the run knows no more than who has not looked at the visible patches.",
            "Do targets belong to their images? Is the learning rate usable, and does the encoder learn?",
        )
    if NEIGHBOURS in by and by[blind] > by[NEIGHBOURS]:
        share = (by[blind] - now) / (by[blind] - by[NEIGHBOURS])
        says += " It predicts more than neighbours give away." if share > 1 else f" It is {share:.0%} of the way there."
    return Verdict("expected loss", "good", says)


def trend(f: Facts) -> Verdict | None:
    name, by = f.pixels
    seen = f.looked(f"held_out_{name}")
    if len(seen) < 3:
        return Verdict("trend", "good", "Too early to see a trend: fewer than three looks.") if seen else None
    now, before, best = seen[-1][1], seen[-2][1], min(v for _, v in seen)
    fall = (before - now) / max(abs(before), 1e-12)
    fixed = bool(by) or not f.option("method", "mae").startswith("cmt")  # targets that move may make a loss rise
    if fixed and now > RISEN * best and f.t > EARLY:
        training = f.metrics.late(name)
        over = len(training) > 1 and training[-1] < best
        why = "while the training loss falls: it learns these images by heart" if over else "the run gets worse"
        advice = "More images or fewer epochs." if over else "Lower --optim.base-lr, or --optim.clip-grad 1."
        return Verdict(
            "trend",
            "watch" if over else "act",
            f"The held-out loss has risen from {best:.3f} to {now:.3f}, {why}.",
            advice,
        )
    lr, peak = f.metrics.last.get("lr", 0.0), np.nanmax(f.metrics["lr"], initial=0.0)
    if abs(fall) < FLAT_FALL and f.t >= 2 * EARLY and lr > 0.3 * peak:
        says = f"The held-out loss stands still ({before:.4f}, then {now:.4f}) with much of the learning rate left."
        return Verdict("trend", "watch", says, "It may as well stop, or go on from its weights at another size.")
    since = [v for s, v in seen if s <= 0.75 * seen[-1][0]][-1]
    quarter = (since - now) / max(abs(since), 1e-12)
    says = f"The held-out loss fell by {quarter:.1%} in the last quarter."
    if f.t >= 1 and quarter > STILL_FALLING:
        says += " It was still falling: more epochs would go on."
    return Verdict("trend", "good", says)


def neighbours(f: Facts) -> Verdict | None:
    tokens = {n: f.looked(n) for n in ("knn_mean_patch", "knn_class_token")}
    tokens = {n: seen for n, seen in tokens.items() if len(seen) > 1 and seen[0][0] == 0}
    if not tokens:
        return None
    changes = {n: (seen[0][1], seen[-1][1]) for n, seen in tokens.items()}
    name = max(changes, key=lambda n: changes[n][1] - changes[n][0])
    first, now = changes[name]
    n = min(f.option("watch.knn_queries", 2000), f.baselines.get("held_out", 2000))
    noise = 2 * math.sqrt(2 * max(now * (1 - now), 0.01) / max(n, 1))
    says = f"Nearest neighbours are right for {now:.1%} of the held-out images ({name[4:].replace('_', ' ')}), "
    says += f"{first:.1%} before the first step."
    if f.t < EARLY:
        return Verdict("neighbours", "good", f"{says} Too early to say more.")
    advice = "A loss can fall while features do not gain: compare with `maskery eval probe RUN --beside random`."
    if now < first - noise and f.t >= 2 * EARLY:
        return Verdict("neighbours", "watch", f"{says} That is worse, by more than chance.", advice)
    if now < first + noise:
        if f.t >= 0.9 and n >= TELLING:
            return Verdict("neighbours", "watch", f"{says} Pretraining has not helped them.", advice)
        says += f" Of {n:,} images a difference below {noise:.1%} is chance."
    return Verdict("neighbours", "good", says)

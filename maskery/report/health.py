"""Is this run healthy? Sentences with a verdict (good, watch, act) and what to do, from what a run has written.

A pure function of the metrics, the configuration and what guesses would lose on these images. Every threshold has its
reason beside it; what they were tuned on is in docs/health.md.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from .baselines import NEIGHBOURS
from .metrics import Metrics, Row

Level = Literal["good", "watch", "act"]

EARLY = 0.25  # of a run: before, warm-up and the first fall of the loss say nothing about where it ends
SHORT = 50  # steps before which nothing can be expected of a loss or of features
NO_BETTER = 0.99  # of the best blind guess: who looks at visible patches is below it, and the guess is good to 0.01
ON_ITS_WAY = 0.01  # relative fall since the look before: above it a run that is no better yet is only slow
RISEN = 1.08  # times the best so far: held-out losses under fixed masks repeat to about 0.01
FLAT_FALL = 0.004  # relative fall between two looks below which more of the same buys nothing
STILL_FALLING = 0.02  # relative fall over the last quarter that more epochs would go on with
COLLAPSED = 0.005  # feature spread: healthy runs have been seen from 0.06 to 0.8, one answer for all images is 0
ONE_LINE = 1.5  # effective rank: all images on one line
RANK_LOST = 0.2  # of the highest rank so far
UNMOVED = 1e-5  # relative: any optimiser step at a usable learning rate moves rank and spread by more
ADAM_HOT, ADAM_WARM = 2e-2, 8e-3  # Adam moves each weight by up to lr a step, and weights of a ViT are about 0.02-0.1
SPIKES = 30.0  # times the median gradient norm, after warm-up
TOO_FLAT, TOO_ALIKE = 0.9, 0.02  # share of patches that show nothing; std between images, in stds of the data
TARGETS_ONE = 0.05  # spread of a teacher's standardised targets: 1 is the most there is, 0: all are one
FOLLOWS = 3.0  # times its memory, 1 / (1 - momentum), that a run has to last for the teacher to forget its random start
RECOGNISES = 500_000  # images seen from which patches should know those of their own image; before, nothing is said
PEAKED = 0.1  # entropy of attention, by that of even attention: nearly all is on one patch
TELLING = 500  # held-out images with labels from which 4 points are more than chance


@dataclass(frozen=True)
class Verdict:
    name: str
    level: Level
    sentence: str
    advice: str = ""


@dataclass(frozen=True)
class Facts:
    metrics: Metrics
    config: Mapping[str, Any] = field(default_factory=dict)  # the tree of config.yaml
    baselines: Mapping[str, Any] = field(default_factory=dict)  # baselines.json

    @property
    def t(self) -> float:
        """Progress at the last look: what is looked at can be no newer. 0 for a run too short to judge."""
        steps, looks = self.metrics.steps, self.metrics.looks
        return looks[-1]["step"] / steps if steps and looks and looks[-1]["step"] >= SHORT else 0.0

    @property
    def pixels(self) -> tuple[str, Mapping[str, float]]:
        """The loss that guesses can be compared with, and what they would lose."""
        for name, by in self.baselines.get("guesses", {}).items():
            return name, by
        return "loss", {}

    def option(self, path: str, default: Any) -> Any:
        """A leaf of the configuration, by its dotted name."""
        value: Any = self.config
        for part in path.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        return default if value is None else value

    def looked(self, name: str) -> list[tuple[float, float]]:
        """(step, value) of one number at every look that has a finite one."""
        return [(look["step"], look[name]) for look in self.metrics.looks if _finite(look, name)]


def images(f: Facts) -> Verdict | None:
    b = f.baselines
    if "flat_patches" not in b:
        return None
    if b["flat_patches"] > TOO_FLAT:
        says = f"{b['flat_patches']:.0%} of the held-out patches show nothing: there is nothing to predict in them."
        return Verdict("images", "act", says, "Look at samples/ and at what --images.bits and --images.mean are.")
    if b["images_differ"] < TOO_ALIKE:
        says = "The held-out images are all the same picture: what hides behind a mask can be learned by heart."
        return Verdict("images", "act", says, "Look at samples/: is one file there many times, or one frame of a film?")
    return Verdict("images", "good", f"Images differ, and {1 - b['flat_patches']:.0%} of their patches show something.")


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


def features(f: Facts) -> Verdict | None:
    ranks, spreads = f.looked("effective_rank"), f.looked("feature_spread")
    if not ranks or not spreads:
        return None
    rank, spread = ranks[-1][1], spreads[-1][1]
    says = f"Held-out features use {rank:.1f} directions and spread {spread:.3f}"
    dead = f.baselines.get("flat_patches", 0) > TOO_FLAT or f.baselines.get("images_differ", 1) < TOO_ALIKE
    if (spread < COLLAPSED or rank < ONE_LINE) and not dead:
        return Verdict(
            "features",
            "act",
            f"{says}: they have collapsed, all images look alike to the network.",
            "Lower --optim.base-lr; with a teacher, raise its momentum.",
        )
    still = [
        abs(seen[-1][1] - seen[-2][1]) <= UNMOVED * abs(seen[-2][1]) and seen[-1][0] > seen[-2][0]
        for seen in (ranks, spreads)
        if len(seen) > 1
    ]
    if still and all(still) and len(still) == 2 and not dead:
        return Verdict(
            "encoder",
            "act",
            f"{says}, exactly as at the look before: the encoder does not learn.",
            "Is it frozen, its learning rate 0, or its teacher's momentum 1?",
        )
    best = max(v for step, v in ranks if step or len(ranks) == 1)  # a random network's has nothing to be lost
    if rank < RANK_LOST * best and f.t >= EARLY:
        return Verdict(
            "features",
            "watch",
            f"{says}; they used {best:.1f} directions before: dimensions are collapsing.",
            "Lower --optim.base-lr; more or more varied images.",
        )
    return Verdict("features", "good", f"{says}: no collapse.")


def teacher(f: Facts) -> Verdict | None:
    spread = f.looked("held_out_target_spread")
    if spread and spread[-1][1] < TARGETS_ONE:
        return Verdict(
            "teacher",
            "act",
            f"The teacher's targets are all one (spread {spread[-1][1]:.3f}, 1 is the most): it has collapsed.",
            "Raise --settings.momentum, lower --optim.base-lr, or lower the weight of the alignment.",
        )
    for who in ("teacher", "student"):
        seen = f.looked(f"held_out_entropy_{who}")
        if seen and seen[-1][1] < PEAKED:
            return Verdict(
                "teacher",
                "watch",
                f"The {who}'s attention is on single patches (entropy {seen[-1][1]:.2f} of 1): "
                "masks follow these alone.",
                "--settings.alpha nearer to the other one, or --settings.direction random to compare.",
            )
    share, group = f.looked("held_out_homologous_share"), f.option("settings.group", 4)
    seen = f.metrics.last.get("step", 0) * f.option("batch_size", 0)
    if share and seen >= RECOGNISES and share[-1][1] < 1.02 / group:
        return Verdict(
            "teacher",
            "watch",
            f"Patches recognise their own image no better than chance (1 in {group}).",
            "A longer run, or --settings.lam above 0.1.",
        )
    momentum, steps = f.option("settings.momentum", 0.0), f.metrics.steps
    if steps and 1 - momentum < FOLLOWS / steps:
        return Verdict(
            "teacher",
            "watch",
            f"The teacher averages over {1 / max(1 - momentum, 1e-9):,.0f} steps, and the run has {steps:,}: it stays "
            "near its random start.",
            f"--settings.momentum {max(0.0, 1 - 10 / steps):.3g}, or a longer run.",
        )
    if spread:
        return Verdict("teacher", "good", f"The teacher's targets differ (spread {spread[-1][1]:.2f} of 1).")
    return None


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


def _finite(row: Row, name: str) -> bool:
    return isinstance(row.get(name), int | float) and math.isfinite(row[name])


CHECKS: tuple[Callable[[Facts], Verdict | None], ...] = (
    loss,
    trend,
    neighbours,
    features,
    teacher,
    images,
    gradients,
    learning_rate,
)


def verdicts(f: Facts) -> tuple[Verdict, ...]:
    """What can be said so far, one verdict a question; what there are no numbers for is left out."""
    from .pace import PACE

    return tuple(found for check in (*CHECKS, *PACE) if (found := check(f)) is not None)

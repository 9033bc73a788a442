"""Judge a run's health: verdicts (good, watch or act) with a sentence and advice, from the files of a run.

Pure functions of the metrics, the configuration and the losses of trivial baselines on the same images. The comment
at each threshold gives its reason; docs/health.md says which runs they were tuned on.
"""

import json
import math
from dataclasses import asdict
from pathlib import Path

import numpy as np

from ..config import Run
from ..nn.baselines import NEIGHBOURS
from ..runs.metrics import read_metrics
from ..text import duration
from .verdict import EARLY, RunRecord, Verdict

NO_BETTER = 0.99  # of the best blind baseline, which is accurate to 0.01: a network that uses visible patches is below
ON_ITS_WAY = 0.01  # relative fall since the evaluation before: above it, a run that is no better yet is only slow
RISEN = 1.08  # times the best so far: held-out losses under fixed masks repeat to about 0.01
FLAT_FALL = 0.004  # relative fall between two evaluations below which training longer gains nothing
STILL_FALLING = 0.02  # relative fall over the last quarter above which more epochs would help
TELLING = 500  # held-out images with labels from which 4 points are more than chance

COLLAPSED = 0.005  # feature spread: 0.06 to 0.8 in healthy runs, 0 when all images have the same features
ONE_LINE = 1.5  # effective rank: below it, features lie on one line
RANK_LOST = 0.2  # of the highest rank so far
UNMOVED = 1e-5  # relative: any optimiser step at a usable learning rate moves rank and spread by more
TOO_FLAT, TOO_ALIKE = 0.9, 0.02  # fraction of flat patches; std between images, in stds of the data
TARGETS_EQUAL = 0.05  # spread of a teacher's standardised targets: at most 1, 0 when all are equal
MEMORIES = 3.0  # a run must last so many times 1 / (1 - momentum) steps for the teacher to forget its random start
RECOGNISES = 500_000  # training images after which patches should recognise those of their own image
PEAKED = 0.1  # entropy of attention, relative to even attention: below it, nearly all is on one patch

ADAM_HOT, ADAM_WARM = 2e-2, 8e-3  # Adam moves each weight by up to lr a step, and weights of a ViT are about 0.02-0.1
SPIKES = 30.0  # times the median gradient norm, after warm-up

STARVED, HUNGRY = 0.5, 0.25  # fraction of a step spent on waiting for images: half the machine is idle; worth a check
IDLE = 0.5  # use of a GPU by its own counter: below, something other than the GPU limits the speed
SLOWED = 0.6  # of the usual images per second
ENOUGH = 3  # log lines: the first has the compiler, the loaders' start and cold caches in it


# --- learning ---------------------------------------------------------------------------------------------------------


def loss(record: RunRecord) -> Verdict | None:
    name, baselines = record.baseline_losses
    values = [value for _, value in record.evaluations(f"held_out_{name}")]
    if not values or not baselines:
        return None
    blind = min(value for guess, value in baselines.items() if guess != NEIGHBOURS)  # uses no visible patch
    if blind < 1e-3:
        return None  # nothing to predict: `images` says so
    now, words = values[-1], {"reconstruction": "reconstruction loss"}.get(name, "loss")
    between = ", ".join(f"{value:.2f} by {guess}" for guess, value in baselines.items())
    sentence = f"Held-out {words} {now:.3f}; guessing on these images and masks gives {between}."
    if record.t < EARLY:
        return Verdict("expected loss", "good", f"{sentence} Too early to say more.")
    if now > NO_BETTER * blind:
        if len(values) > 1 and values[-2] - now > ON_ITS_WAY * max(values[-2], 1e-12):
            return Verdict("expected loss", "good", f"{sentence} It is above that and falls.")
        sentence += " So far the network predicts no better than a guess that ignores the visible patches."
        advice = "Do targets belong to their images? Is the learning rate usable, and does the encoder learn?"
        return Verdict("expected loss", "act" if record.t >= 2 * EARLY else "watch", sentence, advice)
    if blind > baselines.get(NEIGHBOURS, math.inf):
        way = (blind - now) / (blind - baselines[NEIGHBOURS])
        sentence += " It predicts more than neighbours give away." if way > 1 else f" It is {way:.0%} of the way there."
    return Verdict("expected loss", "good", sentence)


def trend(record: RunRecord) -> Verdict | None:
    name, baselines = record.baseline_losses
    values = record.evaluations(f"held_out_{name}")
    if len(values) < 3:
        return Verdict("trend", "good", "Too early to see a trend: fewer than three evaluations.") if values else None
    now, before, best = values[-1][1], values[-2][1], min(v for _, v in values)
    moving_targets = not baselines and record.option("method", "mae").startswith("cmt")  # they may make a loss rise
    if not moving_targets and now > RISEN * best and record.t > EARLY:
        training, sentence = record.metrics.late(name), f"The held-out loss has risen from {best:.3f} to {now:.3f}, "
        if len(training) > 1 and training[-1] < best:
            sentence += "while the training loss falls: it learns these images by heart."
            return Verdict("trend", "watch", sentence, "More images or fewer epochs.")
        advice = "Lower --optim.base-lr, or --optim.clip-grad 1."
        return Verdict("trend", "act", f"{sentence}the run gets worse.", advice)
    lr, peak = record.metrics.last.get("lr", 0.0), np.nanmax(record.metrics["lr"], initial=0.0)
    if abs(before - now) < FLAT_FALL * max(abs(before), 1e-12) and record.t >= 2 * EARLY and lr > 0.3 * peak:
        sentence = f"The held-out loss stands still ({before:.4f}, then {now:.4f}) with much of the learning rate left."
        return Verdict("trend", "watch", sentence, "It may as well stop, or go on from its weights at another size.")
    since = [v for s, v in values if s <= 0.75 * values[-1][0]][-1]
    quarter = (since - now) / max(abs(since), 1e-12)
    more = " It was still falling: more epochs would go on." if record.t >= 1 and quarter > STILL_FALLING else ""
    return Verdict("trend", "good", f"The held-out loss fell by {quarter:.1%} in the last quarter.{more}")


def neighbours(record: RunRecord) -> Verdict | None:
    tokens = {n: record.evaluations(n) for n in ("knn_mean_patch", "knn_class_token")}
    changes = {n: (v[0][1], v[-1][1]) for n, v in tokens.items() if len(v) > 1 and v[0][0] == 0}
    if not changes:
        return None
    name, (first, now) = max(changes.items(), key=lambda item: item[1][1] - item[1][0])
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


# --- collapse ---------------------------------------------------------------------------------------------------------


def features(record: RunRecord) -> Verdict | None:
    ranks, spreads = record.evaluations("effective_rank"), record.evaluations("feature_spread")
    if not ranks or not spreads:
        return None
    rank, spread = ranks[-1][1], spreads[-1][1]
    sentence = f"Held-out features use {rank:.1f} directions and spread {spread:.3f}"
    dead = record.baselines.get("flat_patches", 0) > TOO_FLAT or record.baselines.get("images_differ", 1) < TOO_ALIKE
    if (spread < COLLAPSED or rank < ONE_LINE) and not dead:
        sentence += ": they have collapsed, all images look alike to the network."
        return Verdict("features", "act", sentence, "Lower --optim.base-lr; with a teacher, raise its momentum.")
    still = (
        len(v) > 1 and v[-1][0] > v[-2][0] and abs(v[-1][1] - v[-2][1]) <= UNMOVED * abs(v[-2][1])
        for v in (ranks, spreads)
    )
    if not dead and all(still):
        sentence += ", exactly as at the evaluation before: the encoder does not learn."
        return Verdict("encoder", "act", sentence, "Is it frozen, its learning rate 0, or its teacher's momentum 1?")
    best = max(v for step, v in ranks if step or len(ranks) == 1)  # not a random network's: it cannot be lost
    if rank < RANK_LOST * best and record.t >= EARLY:
        sentence += f"; they used {best:.1f} directions before: dimensions are collapsing."
        return Verdict("features", "watch", sentence, "Lower --optim.base-lr; more or more varied images.")
    return Verdict("features", "good", f"{sentence}: no collapse.")


def teacher(record: RunRecord) -> Verdict | None:
    spread = record.evaluations("held_out_target_spread")
    if spread and spread[-1][1] < TARGETS_EQUAL:
        sentence = f"The teacher's targets are all equal (spread {spread[-1][1]:.3f}, 1 is the most): it has collapsed."
        advice = "Raise --settings.momentum, lower --optim.base-lr, or lower the weight of the alignment."
        return Verdict("teacher", "act", sentence, advice)
    for network in ("teacher", "student"):
        entropies = record.evaluations(f"held_out_entropy_{network}")
        if entropies and entropies[-1][1] < PEAKED:
            sentence = f"The {network}'s attention is on single patches (entropy {entropies[-1][1]:.2f} of 1): "
            advice = "--settings.alpha nearer to the other one, or --settings.direction random to compare."
            return Verdict("teacher", "watch", f"{sentence}masks follow these alone.", advice)
    fractions, group = record.evaluations("held_out_homologous_share"), record.option("settings.group", 4)
    images_seen = record.metrics.last.get("step", 0) * record.option("batch_size", 0)
    if fractions and images_seen >= RECOGNISES and fractions[-1][1] < 1.02 / group:
        sentence = f"Patches recognise their own image no better than chance (1 in {group})."
        return Verdict("teacher", "watch", sentence, "A longer run, or --settings.lam above 0.1.")
    momentum, steps = record.option("settings.momentum", 0.0), record.metrics.steps
    if steps and 1 - momentum < MEMORIES / steps:
        memory, usable = 1 / max(1 - momentum, 1e-9), max(0.0, 1 - 10 / steps)
        sentence = (
            f"The teacher averages over {memory:,.0f} steps, and the run has {steps:,}: it stays near its random "
        )
        return Verdict("teacher", "watch", f"{sentence}start.", f"--settings.momentum {usable:.3g}, or a longer run.")
    if spread:
        return Verdict("teacher", "good", f"The teacher's targets differ (spread {spread[-1][1]:.2f} of 1).")
    return None


def images(record: RunRecord) -> Verdict | None:
    facts = record.baselines
    if "flat_patches" not in facts:
        return None
    flat = facts["flat_patches"]
    if flat > TOO_FLAT:
        sentence = f"{flat:.0%} of the held-out patches show nothing: there is nothing to predict in them."
        return Verdict("images", "act", sentence, "Look at samples/ and at what --images.bits and --images.mean are.")
    if facts["images_differ"] < TOO_ALIKE:
        sentence = "The held-out images are all the same picture: what hides behind a mask can be learned by heart."
        advice = "Look at samples/: is one file there many times, or one frame of a film?"
        return Verdict("images", "act", sentence, advice)
    return Verdict("images", "good", f"Images differ, and {1 - flat:.0%} of their patches show something.")


# --- optimiser --------------------------------------------------------------------------------------------------------


def gradients(record: RunRecord) -> Verdict | None:
    if "grad_norm" not in record.metrics.columns:
        return None
    column = record.metrics.columns["grad_norm"]
    late = np.isfinite(column.mean) & (record.metrics["t"] > record.option("optim.warmup", 0.05) + 0.02)
    if late.sum() < 4:
        return Verdict("gradients", "good", "Too early to say.")
    usual, most = np.median(column.mean[late]), column.high[late].max()
    now = np.median(record.metrics.late("grad_norm"))
    sentence = f"The gradient's norm is {now:.3g} now, {usual:.3g} usually, at most {most:.3g} after warm-up"
    if usual == 0 or not math.isfinite(most):
        return Verdict("gradients", "act", f"{sentence}: nothing can be learned from it.", "Is everything frozen?")
    if most > SPIKES * usual:
        advice = "--optim.clip-grad 1 keeps them from doing harm."
        return Verdict("gradients", "watch", f"{sentence}: it has spikes.", advice)
    return Verdict("gradients", "good", f"{sentence}.")


def learning_rate(record: RunRecord) -> Verdict | None:
    lrs = record.metrics.late("lr", 1)
    if not len(lrs):
        return None
    base, batch = record.option("optim.base_lr", 0.0), record.option("batch_size", 0)
    peak = max(lrs.max(), base * batch / 256)
    sentence = f"The highest learning rate is {peak:.2g} (base lr {base:g} x batch {batch} / 256)"
    if record.option("optim.name", "adamw") == "adamw" and peak > ADAM_WARM:
        usable = f"--optim.base-lr {base * 2.5e-3 / peak:.1g}."
        if peak > ADAM_HOT:
            sentence += ": Adam moves every weight by about as much as it is large."
            return Verdict("learning rate", "act", sentence, f"Try {usable}")
        sentence += ": more than networks usually bear."
        return Verdict("learning rate", "watch", sentence, f"If the loss jumps, try {usable}")
    if peak < 1e-7:
        return Verdict("learning rate", "watch", f"{sentence}: nothing will move.", "Raise --optim.base-lr.")
    return Verdict("learning rate", "good", f"{sentence}.")


# --- throughput -------------------------------------------------------------------------------------------------------


def data_wait(record: RunRecord) -> Verdict | None:
    if record.metrics.lines < ENOUGH:
        return None
    fraction = float(np.mean(record.metrics.late("data_wait", 0.5)))
    sentence = f"{fraction:.0%} of the time is waiting for images"
    advice = "`maskery profile RUN` says what to change: more --images.workers, or `maskery pack`."
    if fraction > STARVED:
        return Verdict("data wait", "act", f"{sentence}: the machine is idle meanwhile.", advice)
    if fraction > HUNGRY:
        return Verdict("data wait", "watch", f"{sentence}.", advice)
    return Verdict("data wait", "good", f"{sentence}.")


def device(record: RunRecord) -> Verdict | None:
    used = record.metrics.late("gpu_use", 0.5)
    if not len(used):
        return None
    sentence = f"The GPU is busy {np.mean(used):.0%} of the time"
    if np.mean(used) < IDLE and np.mean(record.metrics.late("data_wait", 0.5)) < HUNGRY:
        advice = "A larger --batch-size or --micro-batch; `maskery profile RUN` says where the time goes."
        return Verdict("device", "watch", f"{sentence}, and it does not wait for images.", advice)
    return Verdict("device", "good", f"{sentence}.")


def speed(record: RunRecord) -> Verdict | None:
    rates = record.metrics.late("images_per_second", 1)
    if len(rates) < 8:
        return None
    usual, now = np.median(rates), np.median(record.metrics.late("images_per_second", 0.1))
    if now < SLOWED * usual:
        sentence = f"{now:,.0f} images/s now, {usual:,.0f} usually: the machine has become slower."
        return Verdict("speed", "watch", sentence, "Is something else running on it, or is it too hot?")
    return Verdict("speed", "good", f"{now:,.0f} images/s.")


def time_left(record: RunRecord) -> Verdict | None:
    steps, lines = record.metrics.steps, record.metrics.lines
    rate = float(np.median(record.metrics.late("images_per_second"))) if lines else 0.0
    if not steps or not rate:
        return None
    left = steps - record.metrics.last["step"]
    if left <= 0:
        return Verdict("time left", "good", f"All {steps:,} steps are done.")
    seconds = left * record.option("batch_size", 0) / rate
    return Verdict("time left", "good", f"About {duration(seconds)} left: {left:,.0f} of {steps:,} steps.")


CHECKS = (
    loss,
    trend,
    neighbours,
    features,
    teacher,
    images,
    gradients,
    learning_rate,
    data_wait,
    device,
    speed,
    time_left,
)


def verdicts(record: RunRecord) -> tuple[Verdict, ...]:
    """One verdict for each check that the run has numbers for."""
    return tuple(verdict for check in CHECKS if (verdict := check(record)) is not None)


class HealthMonitor:
    """Compares the verdicts of one periodic evaluation of a run with those of the one before."""

    def __init__(self, out: Path, run: Run):
        self.out, self.run = out, run
        self.levels: dict[str, str] = {}  # check -> good, watch or act

    def changes(self) -> list[str]:
        """A message for each verdict whose level has changed, from the files in the run directory."""
        path = self.out / "baselines.json"
        baselines = json.loads(path.read_text()) if path.exists() else {}
        messages = []
        for verdict in verdicts(RunRecord(read_metrics(self.out / "metrics.jsonl"), asdict(self.run), baselines)):
            before = self.levels.get(verdict.name, "good")
            self.levels[verdict.name] = verdict.level
            if verdict.level != before:
                level = "good again: " if verdict.level == "good" else f"{verdict.level}: "
                messages.append(f"health, {verdict.name}: {level}{verdict.sentence} {verdict.advice}".rstrip())
        return messages

"""How fast a run is: waiting for data, use of the device, changes of speed, time left."""

import numpy as np

from ..text import duration
from .verdict import Facts, Verdict

STARVED, HUNGRY = 0.5, 0.25  # share of a step that waits for images: half the machine is idle; worth a look
IDLE = 0.5  # use of a GPU by its own counter: below, something else than the GPU decides the speed
SLOWED = 0.6  # of the usual images per second
ENOUGH = 3  # log lines: the first has the compiler, the loaders' start and cold caches in it


def data_wait(f: Facts) -> Verdict | None:
    if f.metrics.lines < ENOUGH:
        return None
    share = float(np.mean(f.metrics.late("data_wait", 0.5)))
    says = f"{share:.0%} of the time is waiting for images"
    advice = "`maskery profile RUN` says what to change: more --images.workers, or `maskery pack`."
    if share > STARVED:
        return Verdict("data wait", "act", f"{says}: the machine is idle meanwhile.", advice)
    if share > HUNGRY:
        return Verdict("data wait", "watch", f"{says}.", advice)
    return Verdict("data wait", "good", f"{says}.")


def device(f: Facts) -> Verdict | None:
    used = f.metrics.late("gpu_use", 0.5)
    if not len(used):
        return None
    share, waits = float(np.mean(used)), float(np.mean(f.metrics.late("data_wait", 0.5)))
    if share < IDLE and waits < HUNGRY:
        return Verdict(
            "device",
            "watch",
            f"The GPU is busy {share:.0%} of the time, and it does not wait for images.",
            "A larger --batch-size or --micro-batch; `maskery profile RUN` says where the time goes.",
        )
    return Verdict("device", "good", f"The GPU is busy {share:.0%} of the time.")


def speed(f: Facts) -> Verdict | None:
    rates = f.metrics["images_per_second"][np.isfinite(f.metrics["images_per_second"])]
    if len(rates) < 8:
        return None
    usual, now = float(np.median(rates)), float(np.median(f.metrics.late("images_per_second", 0.1)))
    if now < SLOWED * usual:
        return Verdict(
            "speed",
            "watch",
            f"{now:,.0f} images/s now, {usual:,.0f} usually: the machine has become slower.",
            "Is something else running on it, or is it too hot?",
        )
    return Verdict("speed", "good", f"{now:,.0f} images/s.")


def time_left(f: Facts) -> Verdict | None:
    last, steps = f.metrics.last, f.metrics.steps
    rate = float(np.median(f.metrics.late("images_per_second"))) if f.metrics.lines else 0.0
    if not steps or not rate:
        return None
    left = steps - last["step"]
    if left <= 0:
        return Verdict("time left", "good", f"All {steps:,} steps are done.")
    seconds = left * f.option("batch_size", 0) / rate
    return Verdict("time left", "good", f"About {duration(seconds)} left: {left:,.0f} of {steps:,} steps.")

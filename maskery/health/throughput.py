"""Judge throughput: waiting for data, use of the device, changes of speed, time left."""

import numpy as np

from ..text import duration
from .verdict import RunRecord, Verdict

STARVED, HUNGRY = 0.5, 0.25  # fraction of a step spent on waiting for images: half the machine is idle; worth a check
IDLE = 0.5  # use of a GPU by its own counter: below, something other than the GPU limits the speed
SLOWED = 0.6  # of the usual images per second
ENOUGH = 3  # log lines: the first has the compiler, the loaders' start and cold caches in it


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
    fraction, waits = float(np.mean(used)), float(np.mean(record.metrics.late("data_wait", 0.5)))
    if fraction < IDLE and waits < HUNGRY:
        return Verdict(
            "device",
            "watch",
            f"The GPU is busy {fraction:.0%} of the time, and it does not wait for images.",
            "A larger --batch-size or --micro-batch; `maskery profile RUN` says where the time goes.",
        )
    return Verdict("device", "good", f"The GPU is busy {fraction:.0%} of the time.")


def speed(record: RunRecord) -> Verdict | None:
    rates = record.metrics["images_per_second"][np.isfinite(record.metrics["images_per_second"])]
    if len(rates) < 8:
        return None
    usual, now = float(np.median(rates)), float(np.median(record.metrics.late("images_per_second", 0.1)))
    if now < SLOWED * usual:
        return Verdict(
            "speed",
            "watch",
            f"{now:,.0f} images/s now, {usual:,.0f} usually: the machine has become slower.",
            "Is something else running on it, or is it too hot?",
        )
    return Verdict("speed", "good", f"{now:,.0f} images/s.")


def time_left(record: RunRecord) -> Verdict | None:
    last, steps = record.metrics.last, record.metrics.steps
    rate = float(np.median(record.metrics.late("images_per_second"))) if record.metrics.lines else 0.0
    if not steps or not rate:
        return None
    left = steps - last["step"]
    if left <= 0:
        return Verdict("time left", "good", f"All {steps:,} steps are done.")
    seconds = left * record.option("batch_size", 0) / rate
    return Verdict("time left", "good", f"About {duration(seconds)} left: {left:,.0f} of {steps:,} steps.")

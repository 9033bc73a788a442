"""Schedules: pure functions of training progress t in [0, 1]. Nothing here holds state."""

from math import cos, pi


def cosine(start: float, end: float, t: float) -> float:
    """Half a cosine from `start` at t = 0 to `end` at t = 1."""
    return end + (start - end) * 0.5 * (1 + cos(pi * min(max(t, 0.0), 1.0)))


def warmup_cosine(peak: float, end: float, warmup: float, t: float) -> float:
    """From 0 to `peak` linearly over the fraction `warmup` of the run, then half a cosine to `end` (MAE, per step)."""
    if t < warmup:
        return peak * t / warmup
    return cosine(peak, end, (t - warmup) / (1 - warmup)) if warmup < 1 else peak

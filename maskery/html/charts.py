"""Curves as shapes in a square of 1000 x 1000 that the page stretches: text stays text, lines keep their width."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

EDGE = 8  # of 1000: room for a dot at the first and the last place
POINTS = 360  # a curve has at most: more than it has pixels on a telephone, half of what it has on a desk


@dataclass(frozen=True)
class Curve:
    """Values over x; with `low` and `high` a band is drawn behind them."""

    label: str
    x: np.ndarray
    y: np.ndarray
    low: np.ndarray | None = None
    high: np.ndarray | None = None
    dots: bool = False  # few values, each of which matters
    colour: int | None = None  # None: as its place among the curves


@dataclass(frozen=True)
class Line:
    """A curve as the page draws it: paths of SVG."""

    label: str
    colour: int
    path: str
    band: str
    dots: str


@dataclass(frozen=True)
class Chart:
    title: str
    note: str
    alt: str
    lines: tuple[Line, ...]
    guides: tuple[tuple[str, float], ...]  # (words, height)
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    values: str  # json of what the pointer shows
    unit: str  # of x, as people write it below


def chart(
    title: str,
    curves: Sequence[Curve],
    *,
    unit: str = "step",
    note: str = "",
    guides: Sequence[tuple[str, float]] = (),
    percent: bool = False,
    zero: bool = False,
    log: bool = False,
    settle: float = 0.0,
) -> Chart | None:
    """None when no curve has two points. `settle`: share of x whose values may leave the picture (a first fall)."""
    curves = [thinned(known(c)) for c in curves]
    curves = [c for c in curves if len(c.x) > 1]
    if not curves:
        return None
    log = log and any((c.y > 0).any() for c in curves)
    left, right = min(c.x[0] for c in curves), max(c.x[-1] for c in curves)
    right = right if right > left else left + 1
    bounds = _bounds(curves, [y for _, y in guides], left + settle * (right - left), zero, log)
    low, high = bounds

    def across(x: np.ndarray) -> np.ndarray:
        return EDGE + (1000 - 2 * EDGE) * (x - left) / (right - left)

    def down(y: np.ndarray) -> np.ndarray:
        y = np.log10(np.maximum(y, 1e-30)) if log else y
        return np.clip(1000 * (high - y) / (high - low), -4000, 5000)

    lines = []
    for i, c in enumerate(curves):
        xs, ys, band, dots = across(c.x), down(c.y), "", ""
        if c.low is not None and c.high is not None:
            up, under = down(c.high), down(c.low)
            band = "M" + _points(np.concatenate([xs, xs[::-1]]), np.concatenate([up, under[::-1]])) + "Z"
        if c.dots:
            dots = "".join(f"M{x:.1f} {y:.1f}h0" for x, y in zip(xs, ys, strict=True))
        lines.append(Line(c.label, (i if c.colour is None else c.colour) % 10, "M" + _points(xs, ys), band, dots))
    y_ticks = tuple((float(down(np.array([v]))[0]), _words(v, percent)) for v in _ticks(low, high, log))
    x_ticks = tuple((float(across(np.array([v]))[0]), f"{v:,.5g}") for v in _ticks(left, right))
    return Chart(
        title,
        note,
        _alt(title, curves, unit, percent),
        tuple(lines),
        tuple((words, float(down(np.array([y]))[0])) for words, y in guides if _inside(y, low, high, log)),
        x_ticks,
        y_ticks,
        _values(curves, left, right, unit, percent),
        unit if unit.endswith("s") or " " in unit else f"{unit}s",
    )


def known(c: Curve) -> Curve:
    """Without the places where there is no number."""
    at = np.isfinite(c.x) & np.isfinite(c.y)
    part = {n: None if v is None else v[at] for n, v in (("low", c.low), ("high", c.high))}
    return Curve(c.label, c.x[at], c.y[at], part["low"], part["high"], c.dots, c.colour)


def thinned(c: Curve, most: int = POINTS) -> Curve:
    """At most so many points: means of neighbours, and the lowest and highest of them as the band."""
    if len(c.x) <= most:
        return c
    starts = np.linspace(0, len(c.x), most, endpoint=False).astype(int)
    n = np.diff(np.append(starts, len(c.x)))
    low = np.fmin.reduceat(c.y if c.low is None else c.low, starts)
    high = np.fmax.reduceat(c.y if c.high is None else c.high, starts)
    x = c.x[np.append(starts[1:], len(c.x)) - 1]
    return Curve(c.label, x, np.add.reduceat(c.y, starts) / n, low, high, False, c.colour)


def _bounds(
    curves: Sequence[Curve], guides: Sequence[float], after: float, zero: bool, log: bool
) -> tuple[float, float]:
    values = [guides] if guides else []
    for c in curves:
        at = c.x >= min(after, c.x[-1])
        values += [y[at] for y in (c.y, c.low, c.high) if y is not None]
    every = np.concatenate([np.asarray(v, float) for v in values])
    every = every[np.isfinite(every)]
    if log:
        every = np.log10(every[every > 0]) if (every > 0).any() else np.zeros(1)
    low, high = float(every.min()), float(every.max())
    if zero and not log:
        low = min(low, 0.0)
    margin = 0.06 * (high - low) or abs(high) * 0.1 or 1.0
    return (low if zero and low == 0 else low - margin), high + margin


def _ticks(low: float, high: float, log: bool = False) -> list[float]:
    """Round numbers between, about five."""
    if log:
        found = [10.0**k for k in range(math.ceil(low), math.floor(high) + 1)]
        return found[:: max(1, len(found) // 5)] or [10**low, 10**high]
    rough = (high - low) / 5
    base = 10 ** math.floor(math.log10(rough))
    step = next(base * m for m in (1, 2, 5, 10) if base * m >= rough)
    return [round(k * step, 12) for k in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _inside(y: float, low: float, high: float, log: bool) -> bool:
    return low <= (math.log10(max(y, 1e-30)) if log else y) <= high


def _points(xs: np.ndarray, ys: np.ndarray) -> str:
    return "L".join(f"{x:.1f} {y:.1f}" for x, y in zip(xs, ys, strict=True))


def _words(value: float, percent: bool) -> str:
    return f"{100 * value:.4g} %" if percent else f"{value:.4g}"


def _alt(title: str, curves: Sequence[Curve], unit: str, percent: bool) -> str:
    said = [f"{c.label} from {_words(float(c.y[0]), percent)} to {_words(float(c.y[-1]), percent)}" for c in curves]
    return f"{title} by {unit}: {'; '.join(said)}. Arrow keys read single values."


def _values(curves: Sequence[Curve], left: float, right: float, unit: str, percent: bool) -> str:
    """What stands under the pointer: the places of the longest curve, and each curve's nearest value not after them."""
    xs = max((c.x for c in curves), key=len)
    lines = []
    for c in curves:
        at = np.searchsorted(c.x, xs, side="right") - 1
        lines.append({"label": c.label, "y": [_words(float(c.y[i]), percent) if i >= 0 else None for i in at]})
    at = [round(float((EDGE + (1000 - 2 * EDGE) * (x - left) / (right - left)) / 1000), 4) for x in xs]
    return json.dumps({"unit": unit, "x": [f"{x:,.5g}" for x in xs], "at": at, "lines": lines})

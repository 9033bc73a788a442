"""Curves as shapes in a square of 1000 x 1000 that the page stretches: text stays text, lines keep their width."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

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


@dataclass(frozen=True)
class Scale:
    """How values are drawn and written."""

    percent: bool = False
    zero: bool = False  # the axis begins at 0
    log: bool = False
    settle: float = 0.0  # fraction of x whose values may leave the picture: a first fall


LINEAR = Scale()


@dataclass(frozen=True)
class Frame:
    """Maps data to the square: x from `left` to `right`, y from `low` to `high` (their logarithms on a log scale)."""

    left: float
    right: float
    low: float
    high: float
    log: bool

    def across(self, x: np.ndarray) -> np.ndarray:
        return EDGE + (1000 - 2 * EDGE) * (x - self.left) / (self.right - self.left)

    def down(self, y: np.ndarray) -> np.ndarray:
        y = np.log10(np.maximum(y, 1e-30)) if self.log else y
        return np.clip(1000 * (self.high - y) / (self.high - self.low), -4000, 5000)


def chart(
    title: str,
    curves: Sequence[Curve],
    scale: Scale = LINEAR,
    *,
    unit: str = "step",
    note: str = "",
    guides: Sequence[tuple[str, float]] = (),
) -> Chart | None:
    """Draw curves over `unit`; None when no curve has two points. `guides` are (words, y) of dotted lines."""
    curves = [thinned(finite(c)) for c in curves]
    curves = [c for c in curves if len(c.x) > 1]
    if not curves:
        return None
    scale = replace(scale, log=scale.log and any((c.y > 0).any() for c in curves))
    left, right = min(c.x[0] for c in curves), max(c.x[-1] for c in curves)
    right = right if right > left else left + 1
    bounds = _bounds(curves, [y for _, y in guides], left + scale.settle * (right - left), scale)
    frame = Frame(left, right, *bounds, scale.log)
    xs, ys = _ticks(left, right), _ticks(frame.low, frame.high, scale.log)
    ends = ((c.label, *(_words(float(y), scale.percent) for y in c.y[[0, -1]])) for c in curves)
    ranges = "; ".join(f"{label} from {first} to {last}" for label, first, last in ends)
    return Chart(
        title,
        note,
        f"{title} by {unit}: {ranges}. Arrow keys read single values.",
        tuple(_line(c, i if c.colour is None else c.colour, frame) for i, c in enumerate(curves)),
        tuple((words, top) for words, y in guides if -1 < (top := float(frame.down(np.array(y)))) < 1001),
        tuple(zip(frame.across(np.array(xs)).tolist(), (f"{x:,.5g}" for x in xs), strict=True)),
        tuple(zip(frame.down(np.array(ys)).tolist(), (_words(y, scale.percent) for y in ys), strict=True)),
        _values(curves, frame, unit, scale.percent),
        unit if unit.endswith("s") or " " in unit else f"{unit}s",
    )


def _line(c: Curve, colour: int, frame: Frame) -> Line:
    xs, ys, band, dots = frame.across(c.x), frame.down(c.y), "", ""
    if c.low is not None and c.high is not None:
        band = f"M{_points(xs, frame.down(c.high))}L{_points(xs[::-1], frame.down(c.low)[::-1])}Z"
    if c.dots:
        dots = "".join(f"M{x:.1f} {y:.1f}h0" for x, y in zip(xs, ys, strict=True))
    return Line(c.label, colour % 10, "M" + _points(xs, ys), band, dots)


def finite(c: Curve) -> Curve:
    """Leave out points that are not finite."""
    at = np.isfinite(c.x) & np.isfinite(c.y)
    return replace(c, **{n: v[at] for n in ("x", "y", "low", "high") if (v := getattr(c, n)) is not None})


def thinned(c: Curve) -> Curve:
    """Average neighbours to at most POINTS points, with their lowest and highest values as the band."""
    if len(c.x) <= POINTS:
        return c
    starts = np.linspace(0, len(c.x), POINTS, endpoint=False).astype(int)
    ends = np.append(starts[1:], len(c.x))
    low = np.fmin.reduceat(c.y if c.low is None else c.low, starts)
    high = np.fmax.reduceat(c.y if c.high is None else c.high, starts)
    mean = np.add.reduceat(c.y, starts) / (ends - starts)
    return Curve(c.label, c.x[ends - 1], mean, low, high, False, c.colour)


def _bounds(curves: Sequence[Curve], guides: Sequence[float], after: float, scale: Scale) -> tuple[float, float]:
    """The lowest and highest y with a margin, of values from x = `after` on."""
    parts = [y[c.x >= min(after, c.x[-1])] for c in curves for y in (c.y, c.low, c.high) if y is not None]
    every = np.concatenate([guides, *parts])
    every = every[np.isfinite(every)]
    if scale.log:
        every = np.log10(every[every > 0]) if (every > 0).any() else np.zeros(1)
    low, high = float(every.min()), float(every.max())
    if scale.zero and not scale.log:
        low = min(low, 0.0)
    margin = 0.06 * (high - low) or abs(high) * 0.1 or 1.0
    return (low if scale.zero and low == 0 else low - margin), high + margin


def _ticks(low: float, high: float, log: bool = False) -> list[float]:
    """About five round numbers between."""
    if log:
        powers = [10.0**k for k in range(math.ceil(low), math.floor(high) + 1)]
        return powers[:: max(1, len(powers) // 5)] or [10**low, 10**high]
    rough = (high - low) / 5
    base = 10 ** math.floor(math.log10(rough))
    step = next(base * m for m in (1, 2, 5, 10) if base * m >= rough)
    return [round(k * step, 12) for k in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _points(xs: np.ndarray, ys: np.ndarray) -> str:
    return "L".join(f"{x:.1f} {y:.1f}" for x, y in zip(xs, ys, strict=True))


def _words(value: float, percent: bool) -> str:
    return f"{100 * value:.4g} %" if percent else f"{value:.4g}"


def _values(curves: Sequence[Curve], frame: Frame, unit: str, percent: bool) -> str:
    """What the pointer shows: the x of the longest curve, and each curve's last value up to there."""
    xs = max((c.x for c in curves), key=len)
    lines = []
    for c in curves:
        at = np.searchsorted(c.x, xs, side="right") - 1
        lines.append({"label": c.label, "y": [_words(float(c.y[i]), percent) if i >= 0 else None for i in at]})
    at = [round(float(x / 1000), 4) for x in frame.across(xs)]
    return json.dumps({"unit": unit, "x": [f"{x:,.5g}" for x in xs], "at": at, "lines": lines})

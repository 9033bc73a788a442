"""Two-tone textures [H, W] for the built-in scenes, H = W = size in pixels: families told apart by their structure."""

from functools import cache
from math import cos, pi, sin, sqrt

import numpy as np


def pattern(rng: np.random.Generator, family: str, layout: list[float], x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """How much of the second background colour, [H, W] in 0..1.

    Each family's field is cut at one of its own quantiles, so that the share of the two colours tells no family.
    """
    low, high, tilt = layout
    cycles, angle, warp = rng.uniform(low, high), rng.uniform(-tilt, tilt), np.float32(rng.uniform(0, 0.3))
    c, s = np.float32(cycles * cos(angle)), np.float32(cycles * sin(angle))
    u = c * x + s * y + np.float32(rng.uniform(0, 8)) + warp * noise(rng, len(x), 3)  # in periods
    v = c * y - s * x + np.float32(rng.uniform(0, 8)) + warp * noise(rng, len(x), 3)
    field = _field(rng, family, u, v, cycles)
    rank, softness = int(rng.uniform(0.35, 0.6) * field.size), np.float32(rng.uniform(0.7, 2.0))
    level = np.partition(field, rank, axis=None)[rank]
    return np.clip(0.5 + (field - level) / (softness * field.std()), 0, 1)


def _field(rng: np.random.Generator, family: str, u: np.ndarray, v: np.ndarray, cycles: float) -> np.ndarray:
    """A texture's real-valued field [H, W] at the coordinates u, v [H, W] in periods."""
    tau = np.float32(2 * pi)
    match family:
        case "stripes":
            return np.cos(tau * u)
        case "checks":
            return np.cos(tau * u / 2) * np.cos(tau * v / 2)
        case "dots":  # hexagonal
            tilt = np.float32(sqrt(0.75)) * v
            return np.cos(tau * u) + np.cos(tau * (u / 2 + tilt)) + np.cos(tau * (u / 2 - tilt))
        case "clouds":
            knots = round(cycles)
            return noise(rng, len(u), knots) + 0.4 * noise(rng, len(u), 2 * knots)
        case "grain":  # long year rings
            x, y = rng.uniform(0, 8, 2).astype(np.float32)
            return np.cos(tau * (np.hypot(u - x, (v - y) / 3) + 0.35 * noise(rng, len(u), 4)))
        case "bricks":  # distance from the joints; bricks twice as long as high
            u = (u + np.floor(v) % 2) / 2
            return np.minimum(1 - abs(2 * (u % 1) - 1), 0.5 - abs(v % 1 - 0.5))
        case "zigzag":
            return np.cos(tau * (v + abs(u % 2 - 1)))
        case "cells":
            return _cells(rng, u, v)
        case "scales":  # discs of radius 1/2 in rows 1/2 apart, each row lying on the one before
            u, v = u / 1.4, v / 1.4
            row = np.floor(2 * v)
            near = np.hypot((u + (row + 1) / 2) % 1 - 0.5, v - (row + 1) / 2)
            return np.where(near < 0.5, near, np.hypot((u + row / 2) % 1 - 0.5, v - row / 2))
        case _:  # weave: squares of stripes, in turns along and across
            return np.cos(tau * np.where((np.floor(u / 2) + np.floor(v / 2)) % 2 == 1, u, v))


def _cells(rng: np.random.Generator, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """How much nearer the nearest of P scattered points is than the next, [H, W]: 0 on the edges between cells."""
    corners = np.mgrid[u.min() - 1 : u.max() + 1, v.min() - 1 : v.max() + 1].reshape(2, -1)
    points = (corners + rng.uniform(0, 0.8, corners.shape)).T.astype(np.float32)  # [P, 2]
    pixels = np.stack([u.ravel(), v.ravel()])  # [2, H * W]
    squares = (points**2).sum(1)[:, None] - 2 * points @ pixels + (pixels**2).sum(0)  # [P, H * W]
    nearest = squares.argmin(0)[None]
    first = np.take_along_axis(squares, nearest, 0)[0]
    np.put_along_axis(squares, nearest, np.inf, 0)
    return (np.sqrt(np.maximum(squares.min(0), 0)) - np.sqrt(np.maximum(first, 0))).reshape(u.shape)


def noise(rng: np.random.Generator, size: int, knots: int) -> np.ndarray:
    """Smooth noise [H, W] of about unit variance with `knots` bumps along a side."""
    spline = _spline(size, knots)
    return 2 * spline @ rng.standard_normal((knots + 3, knots + 3), np.float32) @ spline.T


@cache
def _spline(size: int, knots: int) -> np.ndarray:
    """Cubic B-spline weights [size, knots + 3]."""
    d = abs(((np.arange(size) + 0.5) / size * knots)[:, None] - np.arange(-1, knots + 2))
    return np.where(d < 1, 2 / 3 - d**2 + d**3 / 2, np.clip(2 - d, 0, None) ** 3 / 6).astype(np.float32)

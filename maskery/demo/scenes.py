"""Built-in images: small textured scenes with objects, for `maskery demo` and for the tests.

A scene's class is a texture family behind a main kind of object (`striped-stars`, `checked-rings`, ...). Colours,
light, contrast, phase, warp, blur, noise and the objects' number, place, size and turn are drawn independently of the
class, and up to half of the objects are of other kinds: colour says next to nothing about the class, structure does.

Every draw comes from `default_rng([seed, index, ...])`: `scene(seed, index, size)` is a pure function. Lengths are
fractions of the side, so one (seed, index) is the same scene at every size up to noise and rounding.

Legend: H = W = size in pixels, K objects in sight. Pictures in the making are planar, [3, H, W] float32 in 0..1.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import combinations
from math import cos, hypot, pi, sin, sqrt
from pathlib import Path

import numpy as np
from PIL import Image

from ..outputs import partial_directory
from ..terminal import Tick, no_progress
from .textures import pattern

SHAPES: tuple[str, ...] = ("disc", "square", "triangle", "ring", "star", "cross", "moon")
# class -> texture family, main shape, fewest and most periods along a side, largest turn to either side in radians
_RECIPES: dict[str, tuple[str, str, float, float, float]] = {
    "striped-stars": ("stripes", "star", 4.5, 7.5, pi),
    "checked-rings": ("checks", "ring", 3.5, 5.5, pi),
    "dotted-triangles": ("dots", "triangle", 5, 7.5, pi),
    "cloudy-squares": ("clouds", "square", 3.5, 5, pi),
    "grained-discs": ("grain", "disc", 3, 5.5, 1),
    "bricked-crosses": ("bricks", "cross", 4.5, 6.5, 1),
    "zigzag-moons": ("zigzag", "moon", 3.5, 5.5, 1),
    "cracked-rings": ("cells", "ring", 4, 6, pi),
    "scaled-stars": ("scales", "star", 4.5, 6.5, 1),
    "woven-discs": ("weave", "disc", 4, 6, 1),
}
CLASSES: tuple[str, ...] = tuple(_RECIPES)
# fmt: off
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (218, 58, 58), "orange": (242, 140, 50), "yellow": (245, 210, 75), "green": (75, 165, 85),
    "teal": (60, 185, 185), "blue": (60, 105, 210), "purple": (135, 80, 190), "pink": (245, 145, 185),
}
# fmt: on
_TINTS = np.array(list(COLOURS.values()), np.float32) / 255  # [8, 3]
_MIN_SIZE = 16
_MIN_VISIBLE = 0.3  # an object of which less would be in sight is left out of the picture
_LABEL_STREAM, _QUESTION_STREAM = 1, 2  # keeps these draws apart from those that make the picture


@dataclass(frozen=True)
class Scene:
    """A picture with all its labels, which describe what is visible."""

    image: np.ndarray  # [H, W, 3] uint8
    label: int  # index into CLASSES
    mask: np.ndarray  # [H, W] uint8, 0 = background, 1 + index into SHAPES
    boxes: np.ndarray  # [K, 4] float32, left, top, right, bottom in pixels; right and bottom are exclusive
    kinds: np.ndarray  # [K] int64, index into SHAPES
    instances: np.ndarray  # [H, W] uint8, 0 = background, 1..K
    questions: tuple[tuple[str, str], ...]  # (question, answer)


def scene(seed: int, index: int, size: int = 64) -> Scene:
    """Scene number `index` of the endless series `seed`, `size` pixels square. ValueError: a bad number."""
    _check(seed, index, size)
    image, instances, kinds, tints = _picture(seed, index, size)
    mask = np.append(0, 1 + kinds).astype(np.uint8)[instances]
    boxes = np.array([Image.fromarray(instances == k + 1).getbbox() for k in range(len(kinds))], np.float32)
    rng = np.random.default_rng([seed, index, _QUESTION_STREAM])
    seen = [np.median(image[instances == k + 1], axis=0) / 255 for k in range(len(kinds))]  # K of [3]
    # a colour is asked for only where light and shadow have left it nearest to its own name
    names = [tuple(COLOURS)[t] if t == _apart(c).argmin() else "" for t, c in zip(tints, seen, strict=True)]
    return Scene(image, _label(seed, index), mask, boxes, kinds, instances, _questions(rng, boxes / size, kinds, names))


def write_folder(
    root: Path, n: int, size: int = 64, seed: int = 0, holdout: float = 0.2, progress: Tick = no_progress
) -> Path:
    """Write scenes 0..n-1 as `root/train/<class>/scene-000012.png` and `root/val/<class>/...`; returns `root`.

    The last `holdout` of each class goes to `val` (at least one where a class has two or more and `holdout` > 0).
    The folder appears whole or not at all. ValueError: a bad number, or `root` exists and is not an empty folder.
    """
    _check(seed, 0, size, n)
    if not 0 <= holdout < 1:
        raise ValueError(f"holdout is {holdout}; it must be at least 0 and less than 1")
    labels = np.array([_label(seed, i) for i in range(n)])
    with new_folder(root) as folder:
        for i, split in enumerate(_splits(labels, holdout)):
            save(_picture(seed, i, size)[0], folder / split / CLASSES[labels[i]] / f"scene-{i:06d}.png")
            progress(i + 1, n)
    return Path(root)


def write_masks(root: Path, n: int, size: int = 64, seed: int = 0, holdout: float = 0.2, shapes: bool = True) -> Path:
    """Write scenes 0..n-1 as `root/images/<split>/scene-000012.png` with `root/masks/<split>/...`; returns `root`.

    Masks have a palette; 0 is background, then SHAPES, or with `shapes` False 1 for any object. `root/classes.txt` has
    their names. The last `holdout` of the scenes goes to `val`. ValueError: a bad number, or `root` is not empty.
    """
    _check(seed, 0, size, n)
    colours = [0, 0, 0, *(value for colour in COLOURS.values() for value in colour)]
    palette = colours + [255] * (768 - len(colours))  # all 256 entries: there is room for a void of 255
    names = ("background", *SHAPES) if shapes else ("background", "object")
    with new_folder(root) as folder:
        for split, indices in splits_of(n, holdout).items():
            for i in indices:
                example, place = scene(seed, i, size), f"{split}/scene-{i:06d}.png"
                save(example.image, folder / "images" / place)
                save(example.mask if shapes else (example.mask > 0).astype(np.uint8), folder / "masks" / place, palette)
        (folder / "classes.txt").write_text("\n".join(names) + "\n")
    return Path(root)


@contextmanager
def new_folder(root: Path) -> Iterator[Path]:
    """A folder to write to, renamed to `root` at the end. ValueError: `root` exists and is not an empty folder."""
    root = Path(root)
    if root.exists() and not (root.is_dir() and not any(root.iterdir())):
        raise ValueError(f"{root} exists and is not an empty folder")
    with partial_directory(root) as partial:
        yield partial


def splits_of(n: int, holdout: float) -> dict[str, range]:
    """Split -> its scenes: the last `holdout` of n goes to "val"."""
    first = n - round(holdout * n)
    return {"train": range(first), "val": range(first, n)}


def save(array: np.ndarray, path: Path, palette: list[int] | None = None) -> None:
    """Write an array as a picture, or with a `palette` as its indices; make the folder where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(array)
    if palette:
        image.putpalette(palette)
    image.save(path)


def _check(seed: int, index: int, size: int, n: int = 1) -> None:
    if size < _MIN_SIZE:
        raise ValueError(f"size is {size}; it must be at least {_MIN_SIZE} pixels")
    if n < 1:
        raise ValueError(f"n is {n}; it must be at least 1")
    if seed < 0 or index < 0:
        raise ValueError(f"seed and index are {seed} and {index}; they must not be negative")


def _label(seed: int, index: int) -> int:
    block, place = divmod(index, len(CLASSES))
    return int(np.random.default_rng([seed, block, _LABEL_STREAM]).permutation(len(CLASSES))[place])


def _splits(labels: np.ndarray, holdout: float) -> list[str]:
    splits = np.full(len(labels), "train")
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        held = min(max(round(holdout * len(members)), holdout > 0), len(members) - 1)  # one stays to train on
        splits[members[len(members) - held :]] = "val"
    return splits.tolist()


# --- the picture ------------------------------------------------------------------------------------------------------


def _picture(seed: int, index: int, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Image [H, W, 3] uint8, instances [H, W] uint8, kinds [K] int64, tints [K] int64 (index into COLOURS)."""
    rng = np.random.default_rng([seed, index])
    family, shape, *layout = _RECIPES[CLASSES[_label(seed, index)]]
    line = ((np.arange(size) + 0.5) / size - 0.5).astype(np.float32)
    x, y = np.meshgrid(line, line)  # [H, W] each
    ground, figure = _palette(rng)
    canvas = ground + pattern(rng, family, layout, x, y) * (figure - ground)  # [3, H, W]
    turn, shadow = rng.uniform(0, 2 * pi), np.float32(rng.uniform(0.25, 0.6))
    light = np.float32(cos(turn)), np.float32(sin(turn))

    covered, instances = np.zeros((size, size), bool), np.zeros((size, size), np.uint8)
    drawn: list[tuple[int, int, np.ndarray, np.ndarray]] = []  # front to back: kind, tint, distance, shading
    for kind, cx, cy, radius, angle, tint in _objects(rng, SHAPES.index(shape), ground, figure):
        dx, dy = (x - cx) / radius, (y - cy) / radius
        c, s = np.float32(cos(angle)), np.float32(sin(angle))
        distance = _distance(SHAPES[kind], c * dx + s * dy, c * dy - s * dx) * np.float32(radius * size)  # pixels
        inside = distance <= 0
        visible = inside & ~covered
        if visible.sum() <= _MIN_VISIBLE * inside.sum():
            continue
        covered |= inside
        drawn.append((kind, tint, distance, 1 + np.float32(0.14) * (light[0] * dx + light[1] * dy)))
        instances[visible] = len(drawn)
    for _, tint, distance, shading in reversed(drawn):
        canvas *= 1 - shadow * np.clip(1 - distance / np.float32(0.08 * size), 0, 1) ** 2
        canvas += np.clip(0.5 - distance, 0, 1) * (_TINTS[tint][:, None, None] * shading - canvas)

    canvas *= 1 + np.float32(rng.uniform(0, 0.35)) * (light[0] * x + light[1] * y)
    soft = np.float32(rng.uniform(0, 0.15))
    for axis in (1, 2):  # blur: a little of both neighbours
        first, last = canvas.take([0], axis), canvas.take([-1], axis)
        canvas += soft * np.diff(canvas, 2, axis, prepend=first, append=last)
    canvas += np.float32(rng.uniform(0.004, 0.02)) * rng.standard_normal(canvas.shape, np.float32)
    image = np.ascontiguousarray((np.clip(canvas, 0, 1) * 255 + 0.5).astype(np.uint8).transpose(1, 2, 0))
    return image, instances, np.array([d[0] for d in drawn], np.int64), np.array([d[1] for d in drawn], np.int64)


def _palette(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Two muted colours [3, 1, 1] for the background: near or opposite hues, one lighter; either may be the ground."""
    hue, step = rng.uniform(), rng.choice([0.0, 0.06, -0.06, 0.5])
    middle, half = rng.uniform(0.5, 0.62), rng.uniform(0.15, 0.32)
    pair = [_hsv(hue, rng.uniform(0.1, 0.5), middle - half), _hsv(hue + step, rng.uniform(0.06, 0.35), middle + half)]
    first = int(rng.integers(2))
    return pair[first], pair[1 - first]


def _hsv(hue: float, saturation: float, value: float) -> np.ndarray:
    k = (np.array([5.0, 3.0, 1.0]) + 6 * hue) % 6
    return (value - value * saturation * np.clip(np.minimum(k, 4 - k), 0, 1)).astype(np.float32)[:, None, None]


def _apart(colour: np.ndarray) -> np.ndarray:
    """Squared distances [8] of a colour of three numbers in 0..1 from COLOURS."""
    return ((_TINTS - colour.ravel()) ** 2).sum(1)


def _objects(
    rng: np.random.Generator, main: int, ground: np.ndarray, figure: np.ndarray
) -> list[tuple[int, float, float, float, float, int]]:
    """One to four objects, front to back: kind, centre x and y (-0.5..0.5), radius (of the side), angle, tint.

    The front one is of the main kind, at most half are others. Their tints are among the five that stand out most. Of
    three places for each the one farthest from the others is taken: they overlap sometimes, not always.
    """
    count = int(rng.integers(1, 5))
    others = np.delete(np.arange(len(SHAPES)), main)
    strays = rng.choice(others, int(rng.integers(0, count // 2 + 1))).tolist()
    rest = rng.permutation([main] * (count - 1 - len(strays)) + strays).astype(int).tolist()
    usable = np.argsort(np.minimum(_apart(ground), _apart(figure)))[-5:]
    objects: list[tuple[int, float, float, float, float, int]] = []
    for kind in [main, *rest]:
        places = rng.uniform(-0.38, 0.38, (3, 2)).tolist()
        cx, cy = max(places, key=lambda p: min((hypot(p[0] - o[1], p[1] - o[2]) for o in objects), default=0.0))
        objects.append((kind, cx, cy, rng.uniform(0.11, 0.21), rng.uniform(0, 2 * pi), int(rng.choice(usable))))
    return objects


def _distance(shape: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Signed distance [H, W] to a shape of radius 1 around the origin, negative inside; exact near the edge."""
    match shape:
        case "disc":
            return np.hypot(x, y) - 0.9
        case "square":
            return np.maximum(abs(x), abs(y)) - 0.78
        case "triangle":
            return np.maximum(y, np.float32(sqrt(0.75)) * abs(x) - 0.5 * y) - 0.55
        case "ring":
            return abs(np.hypot(x, y) - 0.7) - 0.25
        case "star":  # all ten edges are folded onto one, from the tip (1, 0) to a notch at radius 0.48
            fold = np.arctan2(y, x) * np.float32(5 / (2 * pi))
            angle = abs(fold - np.rint(fold)) * np.float32(2 * pi / 5)
            a, b = 0.48 * sin(pi / 5), 1 - 0.48 * cos(pi / 5)
            return (np.hypot(x, y) * (a * np.cos(angle) + b * np.sin(angle)) - a) / hypot(a, b)
        case "cross":
            x, y = abs(x), abs(y)
            return np.maximum(np.minimum(x, y) - 0.32, np.maximum(x, y) - 0.95)
        case _:  # moon
            return np.maximum(np.hypot(x, y) - 0.95, 0.78 - np.hypot(x - 0.55, y))


# --- labels -----------------------------------------------------------------------------------------------------------


def _questions(
    rng: np.random.Generator, boxes: np.ndarray, kinds: np.ndarray, names: list[str]
) -> tuple[tuple[str, str], ...]:
    """Questions about the visible objects: boxes [K, 4] in fractions of the side, kinds [K], K colour names or ""."""
    counts = np.bincount(kinds, minlength=len(SHAPES))
    present, absent = np.flatnonzero(counts), np.flatnonzero(counts == 0)
    questions = [("how many objects are there?", str(len(kinds)))]
    for kind in [*present, rng.choice(absent)]:
        plural = SHAPES[kind] + ("es" if SHAPES[kind].endswith("s") else "s")
        questions.append((f"how many {plural} are there?", str(counts[kind])))
    questions += [
        (f"is there a {SHAPES[rng.choice(some)]}?", a) for some, a in ((present, "yes"), (absent, "no")) if len(some)
    ]

    single = [k for k, kind in enumerate(kinds) if counts[kind] == 1]  # "the star" must name one object
    questions += [(f"what colour is the {SHAPES[kinds[k]]}?", names[k]) for k in single if names[k]]
    middle = (boxes[:, 0] + boxes[:, 2]) / 2
    for a, b in combinations(single, 2):
        if abs(middle[a] - middle[b]) > 0.1:  # beyond doubt
            left = bool(rng.integers(2))
            question = f"is the {SHAPES[kinds[a]]} {'left' if left else 'right'} of the {SHAPES[kinds[b]]}?"
            questions.append((question, "yes" if (middle[a] < middle[b]) == left else "no"))
    return tuple(questions)

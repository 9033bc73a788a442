"""Images that are easy to tell apart, images that cannot be, and images with several labels."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

RED, BLUE, GREY = (200, 60, 60), (60, 60, 200), (128, 128, 128)
COLOURS = {"blue": BLUE, "red": RED}


def save(file: Path, image: np.ndarray, seed: int) -> None:
    """With a little noise, so that no two are the same."""
    file.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(-20, 21, image.shape)
    Image.fromarray((image + noise).clip(0, 255).astype(np.uint8)).save(file)


def two_colours(folder: Path, counts: dict[str, int], wrong: Sequence[str] = ()) -> Path:
    """folder/<split>/blue and red, `counts` images of each; in the splits `wrong` each has the other one's name."""
    for s, (split, count) in enumerate(counts.items()):
        for c, (name, colour) in enumerate(COLOURS.items()):
            label = ("red", "blue")[c] if split in wrong else name
            for i in range(count):
                plain = np.full((32, 32, 3), colour)
                save(folder / split / label / f"{i:03d}.png", plain, seed=10_000 * s + 1000 * c + i)
    return folder


def noise(folder: Path, counts: dict[str, int]) -> Path:
    """folder/<split>/heads and tails, `counts` images of each, which nothing tells apart."""
    rng = np.random.default_rng(0)
    for split, count in counts.items():
        for label in ("heads", "tails"):
            (folder / split / label).mkdir(parents=True)
            for i in range(count):
                image = Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8))
                image.save(folder / split / label / f"{i:03d}.png")
    return folder


def several(folder: Path, train: int = 48, val: int = 24) -> Path:
    """A list: red on the left, blue on the right, both or neither; the first row of each split says nothing."""
    rows = ["path,label,split"]
    for i in range(train + val):
        red, blue = bool(i & 1), bool(i & 2)
        image = np.full((32, 32, 3), GREY)
        image[:, :16] = RED if red else GREY
        image[:, 16:] = BLUE if blue else GREY
        save(folder / f"{i:03d}.png", image, i)
        said = "|".join(name for name, there in (("red", red), ("blue", blue)) if there)
        rows.append(f"{i:03d}.png,{'' if i in (0, train) else said or '|'},{'train' if i < train else 'val'}")
    (folder / "list.csv").write_text("\n".join(rows) + "\n")
    return folder / "list.csv"

"""Files of the built-in data sets: folders that appear whole or not at all, splits, pictures."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from ..outputs import partial_directory


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

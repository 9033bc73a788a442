"""Questions about a square that only the image answers."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from maskery.demo.vqa import write_files
from maskery.tasks.vqa.objective import Vqa, VqaConfig

from .runs import opened


def write_squares(root: Path, train: int, val: int) -> Path:
    """A red or blue square on the left or right of grey: what colour, which side, is it red - each is asked of all."""
    rng = np.random.default_rng(0)
    for split, n in (("train", train), ("val", val)):
        (root / split).mkdir(parents=True)
        asked: list[tuple[int, str, list[str]]] = []
        for i in range(n):
            red, left = bool(i & 1), bool(i & 2)
            image = np.full((32, 32, 3), 128) + rng.integers(-20, 21, (32, 32, 3))
            side = slice(0, 16) if left else slice(16, 32)
            image[8:24, side] = ((200, 40, 40) if red else (40, 40, 200)) + rng.integers(-20, 21, (16, 16, 3))
            Image.fromarray(image.astype(np.uint8)).save(root / split / f"square_{split}_{i:012d}.png")
            asked.append((i, "what color is it?", ["red" if red else "blue"] * 10))
            asked.append((i, "where is the square?", ["left" if left else "right"] * 9 + ["there"]))
            asked.append((i, f"is it {'red' if i & 4 else 'blue'}?", ["yes" if red == bool(i & 4) else "no"] * 10))
        write_files(root, split, asked)
    return root


def prepared(root: Path, **settings: Any) -> tuple[VqaConfig, Any]:
    data = opened(root, questions=True)
    return Vqa.prepare(VqaConfig(**settings), data)

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from maskery.pictures.plots import confusion_picture, most_confused

MATRIX = torch.tensor([[8, 2, 0], [0, 5, 0], [3, 0, 1]])
CLASSES = ("ant", "bee", "cat")


def test_the_worst_pairs_come_first() -> None:
    assert most_confused(MATRIX, CLASSES) == [
        {"class": "cat", "taken_for": "ant", "images": 3, "share": 0.75},
        {"class": "ant", "taken_for": "bee", "images": 2, "share": 0.2},
    ]
    assert most_confused(torch.eye(3, dtype=torch.long), CLASSES) == []
    assert len(most_confused(torch.ones(6, 6, dtype=torch.long), "abcdef")) == 20
    assert MATRIX[0, 0] == 8  # nobody wrote into it


@pytest.mark.parametrize("classes", [1, 3, 50])
def test_the_picture_is_dark_where_images_are(tmp_path: Path, classes: int) -> None:
    matrix = torch.eye(classes, dtype=torch.long) * 9
    path, names = tmp_path / "deep" / "confusion.png", ["class $_1 with a name that is far too long"] * classes
    assert confusion_picture(matrix, names, path) is None
    pixels = np.asarray(Image.open(path).convert("L"))
    assert min(pixels.shape) > 200
    assert pixels.min() < 90
    assert [p.name for p in path.parent.iterdir()] == ["confusion.png"]


def test_a_class_without_images_is_a_white_row(tmp_path: Path) -> None:
    assert confusion_picture(torch.tensor([[3, 0], [0, 0]]), ("a", "b"), tmp_path / "c.png") is None


def test_more_classes_than_can_be_read(tmp_path: Path) -> None:
    said = confusion_picture(torch.eye(51, dtype=torch.long), [str(i) for i in range(51)], tmp_path / "c.png")
    assert said
    assert "of 51 classes (more than 50)" in said
    assert not list(tmp_path.iterdir())

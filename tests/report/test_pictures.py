"""Strips show what they are given."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from maskery.report.pictures import GAP, displayable, strip


def test_pixels_arrive_where_they_belong(tmp_path: Path) -> None:
    red, blue = torch.zeros(2, 3, 8, 8), torch.zeros(2, 3, 8, 8)
    red[:, 0], blue[:, 2] = 1, 1
    path = strip({"original": red, "masked": blue}, tmp_path / "a.png", "step 3", tile=80)
    picture = np.asarray(Image.open(path))
    assert picture.shape[1] == GAP + 2 * (80 + GAP)
    assert tuple(picture[-GAP - 40, GAP + 40]) == (255, 0, 0)
    assert tuple(picture[-GAP - 40, GAP + 80 + GAP + 40]) == (0, 0, 255)
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_any_number_of_channels_can_be_seen(channels: int) -> None:
    narrow = 0.01 + 0.02 * torch.rand(2, channels, 8, 8)  # as 12 of 16 bits look
    shown = displayable({"original": narrow})["original"]
    assert shown.shape == (2, 3, 8, 8)
    assert shown.dtype == torch.uint8
    if channels != 3:
        assert shown.max() > 240

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from maskery.pictures.strip import GAP, TILE, displayable, padded, scaled, strip


def test_pixels_arrive_where_they_belong(tmp_path: Path) -> None:
    red, blue = torch.zeros(2, 3, 8, 8), torch.zeros(2, 3, 8, 8)
    red[:, 0], blue[:, 2] = 1, 1
    path = strip({"original": red, "masked": blue}, tmp_path / "a.png", "step 3")
    picture = np.asarray(Image.open(path))
    assert picture.shape[1] == GAP + 2 * (TILE + GAP)
    assert tuple(picture[-GAP - 40, GAP + 40]) == (255, 0, 0)
    assert tuple(picture[-GAP - 40, GAP + TILE + GAP + 40]) == (0, 0, 255)
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_a_legend_names_every_colour(tmp_path: Path) -> None:
    legend = {"sky": "#0000ff", "a class with a long name that needs a line of its own": "#00ff00", "road": "#ff0000"}
    plain = Image.open(strip({"image": torch.zeros(1, 3, 8, 8)}, tmp_path / "plain.png")).size
    picture = Image.open(strip({"image": torch.zeros(1, 3, 8, 8)}, tmp_path / "a.png", colours=legend))
    assert picture.size == (plain[0], plain[1] + 3 * 18)
    below = np.asarray(picture)[plain[1] :].reshape(-1, 3)
    for colour in legend.values():
        assert (below == list(bytes.fromhex(colour[1:]))).all(1).sum() == 12 * 12
    beside = {"a": torch.zeros(1, 3, 8, 8), "b": torch.zeros(1, 3, 8, 8)}
    one = Image.open(strip(beside, tmp_path / "b.png", colours={"sky": "#0000ff", "road": "#ff0000"}))
    assert one.height == plain[1] + 18  # as many on a line as there is room for


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_any_number_of_channels_can_be_seen(channels: int) -> None:
    narrow = 0.01 + 0.02 * torch.rand(2, channels, 8, 8)  # as 12 of 16 bits look
    shown = displayable({"original": narrow})["original"]
    assert shown.shape == (2, 3, 8, 8)
    assert shown.dtype == torch.uint8
    if channels != 3:
        assert shown.max() > 240


def test_images_of_different_sizes_are_centred_on_white() -> None:
    tall, wide = scaled(torch.zeros(1, 3, 20, 10)), scaled(torch.zeros(1, 3, 5, 10))
    both = padded([tall, wide])
    assert both.shape == (2, 3, 320, 320)
    assert both[0, 0].sum(0).tolist() == [320.0] * 80 + [0.0] * 160 + [320.0] * 80
    assert both[1, 0].sum(1).tolist() == [320.0] * 80 + [0.0] * 160 + [320.0] * 80

"""Crops: torchvision's distribution, Pillow's pixels."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from maskery.data.views import UNIFORMS, Crop, centre, cut, to_float


@given(
    h=st.integers(1, 300), w=st.integers(1, 300), view=st.sampled_from([(32, 32), (16, 64)]), seed=st.integers(0, 999)
)
def test_boxes_lie_inside(h: int, w: int, view: tuple[int, int], seed: int) -> None:
    u = np.random.default_rng(seed).random(UNIFORMS)
    for left, top, right, bottom in (Crop().draw(h, w, view, u)[0], centre(h, w, view)):
        assert 0 <= left < right <= w + 1e-6
        assert 0 <= top < bottom <= h + 1e-6


def test_areas_ratios_and_flips_are_as_asked() -> None:
    crop = Crop(scale=(0.2, 1.0))
    draws = [crop.draw(1000, 1000, (64, 64), u) for u in np.random.default_rng(0).random((3000, UNIFORMS))]
    areas = np.array([(r - x) * (b - y) / 1e6 for (x, y, r, b), _ in draws])
    ratios = np.array([(r - x) / (b - y) for (x, y, r, b), _ in draws])
    assert 0.195 < areas.min() < 0.21
    assert areas.max() > 0.95
    assert ratios.min() > 0.74
    assert ratios.max() < 1.35
    assert abs(np.mean([flip for _, flip in draws]) - 0.5) < 0.04


def test_a_view_that_is_not_square_is_not_distorted_more() -> None:
    u = np.random.default_rng(0).random((200, UNIFORMS))
    boxes = [Crop(ratio=(1.0, 1.0)).draw(1000, 1000, (32, 64), v)[0] for v in u]
    assert np.allclose([(r - x) / (b - y) for x, y, r, b in boxes], 2.0, atol=0.02)
    assert centre(100, 400, (32, 64)) == (100.0, 0.0, 300.0, 100.0)


@pytest.mark.parametrize("box", [(0, 0, 90, 60), (11, 7, 80, 55), (30, 20, 45, 29)])
def test_pixels_are_pillows(box: tuple[int, int, int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    image = np.array(Image.fromarray(image).resize((90, 60), Image.Resampling.BICUBIC))
    ours = cut(image, box, False, (32, 32)).permute(1, 2, 0).numpy()
    theirs = np.array(Image.fromarray(image).crop(box).resize((32, 32), Image.Resampling.BICUBIC))
    assert np.abs(ours.astype(int) - theirs).max() <= 1
    mirrored = cut(image, box, True, (32, 32)).permute(1, 2, 0).numpy()
    assert (mirrored == ours[:, ::-1]).all()


def test_sixteen_bits_stay_sixteen_bits() -> None:
    ramp = np.linspace(1000, 1255, 64 * 64).astype(np.uint16).reshape(64, 64, 1)
    view = cut(ramp, (0, 0, 64, 64), False, (32, 32))
    assert view.dtype == torch.uint16
    values = to_float(view[None], torch.device("cpu")) * 65535
    assert len(values.unique()) > 100  # eight bits would leave one
    assert float(values.mean()) == pytest.approx(ramp.mean(), abs=1)


@pytest.mark.parametrize(
    "settings", [{"scale": (0.0, 1.0)}, {"scale": (0.8, 0.2)}, {"ratio": (2.0, 1.0)}, {"flip": 1.5}]
)
def test_settings_that_make_no_sense(settings: dict) -> None:
    with pytest.raises(ValueError, match=f"crop {next(iter(settings))} is"):
        Crop(**settings)

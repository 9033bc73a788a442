"""Crops: torchvision's distribution; what the loader hands out becomes floats."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskery.data.crops import TRIES, UNIFORMS, Crop, ViewBox, box_within, center_box


@given(
    h=st.integers(1, 300), w=st.integers(1, 300), view=st.sampled_from([(32, 32), (16, 64)]), seed=st.integers(0, 999)
)
def test_boxes_lie_inside(h: int, w: int, view: tuple[int, int], seed: int) -> None:
    u = np.random.default_rng(seed).random(UNIFORMS)
    for left, top, right, bottom in (Crop().sample(h, w, view, u).box, center_box(h, w, view)):
        assert 0 <= left < right <= w + 1e-6
        assert 0 <= top < bottom <= h + 1e-6


def test_areas_ratios_and_flips_are_as_asked() -> None:
    crop = Crop(scale=(0.2, 1.0))
    views = [crop.sample(1000, 1000, (64, 64), u) for u in np.random.default_rng(0).random((3000, UNIFORMS))]
    areas = np.array([(r - x) * (b - y) / 1e6 for x, y, r, b in (view.box for view in views)])
    ratios = np.array([(r - x) / (b - y) for x, y, r, b in (view.box for view in views)])
    assert 0.195 < areas.min() < 0.21
    assert areas.max() > 0.95
    assert ratios.min() > 0.74
    assert ratios.max() < 1.35
    assert abs(np.mean([view.flip for view in views]) - 0.5) < 0.04


def test_a_view_that_is_not_square_is_not_distorted_more() -> None:
    u = np.random.default_rng(0).random((200, UNIFORMS))
    boxes = [Crop(ratio=(1.0, 1.0)).sample(1000, 1000, (32, 64), v).box for v in u]
    assert np.allclose([(r - x) / (b - y) for x, y, r, b in boxes], 2.0, atol=0.02)
    assert center_box(100, 400, (32, 64)) == (100.0, 0.0, 300.0, 100.0)


@pytest.mark.parametrize(("height", "width", "view"), [(375, 500, (224, 224)), (61, 40, (32, 64)), (7, 300, (16, 16))])
def test_boxes_are_those_of_the_formula_on_arrays(height: int, width: int, view: tuple[int, int]) -> None:
    """Torchvision's rule, all tries at once: the first that fits."""
    crop = Crop(scale=(0.1, 1.0), ratio=(0.5, 2.0))
    for u in np.random.default_rng(0).random((300, UNIFORMS)):
        areas = height * width * (0.1 + u[:TRIES] * 0.9)
        ratios = np.exp(np.log(0.5) + u[TRIES : 2 * TRIES] * np.log(4.0)) * view[1] / view[0]
        w, h = np.rint(np.sqrt(areas * ratios)), np.rint(np.sqrt(areas / ratios))
        fits = (w <= width) & (h <= height)
        crop_box = crop.sample(height, width, view, u)
        box = crop_box.box
        assert crop_box.flip == (u[2 * TRIES + 2] < 0.5)
        if fits.any():
            assert (box[2] - box[0], box[3] - box[1]) == (w[fits][0], h[fits][0])
        else:
            assert box == center_box(height, width, view, crop.ratio)


def test_central_boxes_are_whole_pixels() -> None:
    assert center_box(375, 500, (224, 224)) == (62, 0, 438, 375)
    assert center_box(3, 1, (16, 16)) == (0, 1, 1, 2)


def test_a_box_within_another() -> None:
    box = (0, 40, 30, 60)
    assert box_within(box, box, (0.3, 0, 7, 9)) == (0.3, 0, 7, 9)
    assert box_within((10, 20, 20, 30), (0, 0, 40, 40), (0, 0, 20, 10)) == (5, 5, 10, 7.5)
    assert ViewBox(box, (10, 15)).detail == 0.5


@pytest.mark.parametrize(
    "settings", [{"scale": (0.0, 1.0)}, {"scale": (0.8, 0.2)}, {"ratio": (2.0, 1.0)}, {"flip": 1.5}]
)
def test_settings_that_make_no_sense(settings: dict) -> None:
    with pytest.raises(ValueError, match=f"crop {next(iter(settings))} is"):
        Crop(**settings)

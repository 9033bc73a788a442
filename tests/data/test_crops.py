"""Crops: torchvision's distribution; what the loader hands out becomes floats."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from maskery.data.crops import TRIES, UNIFORMS, Crop, centre, to_float
from maskery.data.resample import Packing, Stack

CPU = torch.device("cpu")


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


@pytest.mark.parametrize(("height", "width", "view"), [(375, 500, (224, 224)), (61, 40, (32, 64)), (7, 300, (16, 16))])
def test_boxes_are_those_of_the_formula_on_arrays(height: int, width: int, view: tuple[int, int]) -> None:
    """Torchvision's rule, all tries at once: the first that fits."""
    crop = Crop(scale=(0.1, 1.0), ratio=(0.5, 2.0))
    for u in np.random.default_rng(0).random((300, UNIFORMS)):
        areas = height * width * (0.1 + u[:TRIES] * 0.9)
        ratios = np.exp(np.log(0.5) + u[TRIES : 2 * TRIES] * np.log(4.0)) * view[1] / view[0]
        w, h = np.rint(np.sqrt(areas * ratios)), np.rint(np.sqrt(areas / ratios))
        fits = (w <= width) & (h <= height)
        box, flip = crop.draw(height, width, view, u)
        assert flip == (u[2 * TRIES + 2] < 0.5)
        if fits.any():
            assert (box[2] - box[0], box[3] - box[1]) == (w[fits][0], h[fits][0])
        else:
            assert box == centre(height, width, view, crop.ratio)


def test_central_boxes_are_whole_pixels() -> None:
    assert centre(375, 500, (224, 224)) == (62, 0, 438, 375)
    assert centre(3, 1, (16, 16)) == (0, 1, 1, 2)


@pytest.mark.parametrize("bits", [8, 16])
def test_floats_are_the_same_from_either_path(bits: int) -> None:
    dtype = np.uint8 if bits == 8 else np.uint16
    region = np.random.default_rng(0).integers(0, 2**bits, (50, 70, 3), dtype)
    stack, packing = (kind(1, (16, 24), 3, bits, share=False) for kind in (Stack, Packing))
    for batch in (stack, packing):
        batch.add(region, (0, 0, 70, 50), True)
    views, regions = to_float(stack.done(), CPU), to_float(packing.done(), CPU)
    torch.testing.assert_close(regions, views, atol=1.01 / (2**bits - 1), rtol=0)
    assert (views.min(), views.max()) >= (0, 0.5)
    assert torch.equal(to_float([packing.done()] * 2, CPU), torch.cat([regions, regions]))


@pytest.mark.parametrize(
    "settings", [{"scale": (0.0, 1.0)}, {"scale": (0.8, 0.2)}, {"ratio": (2.0, 1.0)}, {"flip": 1.5}]
)
def test_settings_that_make_no_sense(settings: dict) -> None:
    with pytest.raises(ValueError, match=f"crop {next(iter(settings))} is"):
        Crop(**settings)

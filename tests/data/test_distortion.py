"""Photometric distortion: each part for half of the images, values in range, nothing but the generator decides."""

import colorsys

import torch

from maskery.data.distortion import distorted


def test_the_same_draw_for_the_same_seed_and_values_in_range() -> None:
    x = torch.rand(64, 3, 4, 4)
    found = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        found.append(distorted(x))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
    assert float(found[0].min()) >= 0
    assert float(found[0].max()) <= 1


def test_each_part_happens_to_half_of_the_images() -> None:
    """A red in the middle of everything: hue, saturation and value tell which part it was."""
    torch.manual_seed(0)
    red = torch.tensor([0.6, 0.24, 0.24]).view(1, 3, 1, 1)
    found = [colorsys.rgb_to_hsv(*pixel) for pixel in distorted(red.expand(4000, -1, -1, -1))[:, :, 0, 0].tolist()]
    hue, saturation, value = (torch.tensor(column, dtype=torch.float64) for column in zip(*found, strict=True))
    away = (hue + 0.5) % 1 - 0.5
    assert 0.45 < (away.abs() > 1e-4).double().mean() < 0.55
    assert 0.049 < away.abs()[value < 0.999].max() <= 0.0501  # 18 degrees, where nothing was cut off at white
    same = (value - 0.6).abs() < 1e-4
    assert 0.22 < same.double().mean() < 0.28  # neither brightness nor contrast
    kept = ((saturation - 0.6).abs() < 1e-3) & same
    assert 0.45 < kept.double().sum() / same.double().sum() < 0.55
    assert saturation[same].min() > 0.29  # half of 0.6
    assert saturation[same].max() < 0.91
    assert abs(float(value.median()) - 0.6) < 0.02


def test_other_images_than_colour_ones() -> None:
    torch.manual_seed(0)
    x = torch.rand(64, 5, 4, 4)
    found = distorted(x)
    assert found.shape == x.shape
    assert 0 < (found == x).flatten(1).all(1).sum() < 32  # a quarter

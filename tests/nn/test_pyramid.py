"""The simple feature pyramid: strides, norm."""

import math

import pytest
import torch

from maskery.nn.pyramid import LEVELS, STRIDES, ChannelNorm, SimplePyramid


def shapes(grid: tuple[int, int]) -> list[tuple[int, int]]:
    """(height, width) of every level over a grid of patches."""
    return [(math.ceil(grid[0] / stride), math.ceil(grid[1] / stride)) for stride in STRIDES]


@pytest.mark.parametrize("grid", [(64, 64), (8, 6), (5, 3)])
def test_levels_have_the_strides_of_vitdet(grid: tuple[int, int]) -> None:
    levels = SimplePyramid(16, 8)(torch.randn(2, 16, *grid))
    assert tuple(levels) == LEVELS
    assert [tuple(x.shape) for x in levels.values()] == [(2, 8, *shape) for shape in shapes(grid)]
    if grid == (64, 64):  # 1024 pixels in patches of 16: strides 4 to 64
        assert [x.shape[2] for x in levels.values()] == [256, 128, 64, 32, 16]


def test_the_norm_is_over_channels() -> None:
    x = torch.randn(2, 8, 3, 5)
    y = ChannelNorm(8)(x)
    torch.testing.assert_close(y.mean(1), torch.zeros(2, 3, 5), atol=1e-5, rtol=0)
    torch.testing.assert_close(y.var(1, unbiased=False), torch.ones(2, 3, 5), atol=1e-3, rtol=0)

"""Positions as (rows, columns) grids."""

import math

import pytest
import torch

from maskery.nn import positions


def test_the_first_half_encodes_the_column() -> None:
    table = positions.sincos(16, (3, 5))
    assert table.shape == (1, 16, 16)
    assert not table[0, 0].any()  # the class token's
    row_0_column_1 = table[0, 1 + 1]
    assert row_0_column_1[0] == pytest.approx(math.sin(1))
    assert row_0_column_1[4] == pytest.approx(math.cos(1))
    row_1_column_0 = table[0, 1 + 5]
    assert row_1_column_0[8] == pytest.approx(math.sin(1))
    assert row_1_column_0[1 + 8] == pytest.approx(math.sin(10_000**-0.25))
    assert row_1_column_0[:4].abs().max() == 0


def test_resizing_keeps_rows_and_columns_apart() -> None:
    ramp = torch.arange(4.0).view(4, 1).expand(4, 6)  # grows with the row only
    table = torch.cat([torch.full((1, 1, 1), 9.0), ramp.reshape(1, 24, 1)], 1)
    resized = positions.resize(table, (4, 6), (8, 3))
    assert resized[0, 0, 0] == 9
    grid = resized[0, 1:, 0].view(8, 3)
    assert (grid.std(1) < 1e-5).all()
    assert (grid.diff(dim=0) > 0).all()
    torch.testing.assert_close(positions.resize(table, (4, 6), (4, 6)), table)


def test_what_cannot_be() -> None:
    with pytest.raises(ValueError, match=r"50 x 64 is not divisible by patch size 16; the nearest that is: 48 x 64"):
        positions.grid_of((50, 64), 16)
    with pytest.raises(ValueError, match="divisible by 4, not 10"):
        positions.sincos(10, (2, 2))

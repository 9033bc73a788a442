"""Batches of views: the same pixels on either path to float."""

import numpy as np
import pytest
import torch

from maskery.data.crops import ViewBox
from maskery.data.resample import ViewFormat
from maskery.data.views import CPU, RegionBuffer, ViewStack, to_float


@pytest.mark.parametrize("bits", [8, 16])
def test_floats_are_the_same_from_either_path(bits: int) -> None:
    dtype = np.uint8 if bits == 8 else np.uint16
    region = np.random.default_rng(0).integers(0, 2**bits, (50, 70, 3), dtype)
    stack, packed = (kind(ViewFormat((16, 24), 3, bits), 1) for kind in (ViewStack, RegionBuffer))
    for batch in (stack, packed):
        batch.add(region, (0, 0, 70, 50), ViewBox((0, 0, 70, 50), (16, 24), True))
    views, regions = to_float(stack.done(), CPU), to_float(packed.done(), CPU)
    torch.testing.assert_close(regions, views, atol=1.01 / (2**bits - 1), rtol=0)
    assert (views.min(), views.max()) >= (0, 0.5)
    assert torch.equal(to_float([packed.done()] * 2, CPU), torch.cat([regions, regions]))


def test_what_an_image_does_not_fill_has_the_fill_colour() -> None:
    stack = ViewStack(ViewFormat((4, 6), 1, 16), 3, torch.tensor([7], dtype=torch.uint16)[:, None, None])
    stack.add(np.full((2, 3, 1), 900, np.uint16), (0, 0, 3, 2), ViewBox((0, 0, 3, 2), (2, 3)))
    (view,) = stack.done()
    assert view[0].tolist() == [[900] * 3 + [7] * 3] * 2 + [[7] * 6] * 2

"""Masks as colours over images."""

import pytest
import torch

from maskery.data.masks import VOID
from maskery.pictures.segments import colours, painted


def test_overlays() -> None:
    image, mask = torch.full((1, 3, 2, 2), 0.5), torch.tensor([[[0, 1], [2, VOID]]])
    found, palette = painted(image, mask, 3), colours(3)
    assert torch.allclose(found[0, :, 0, 1], 0.2 + 0.6 * palette[1])
    assert found[0, :, 1, 1].tolist() == pytest.approx([0.2] * 3)
    assert painted(torch.rand(2, 5, 4, 4), torch.zeros(2, 4, 4, dtype=torch.long), 3).shape == (2, 3, 4, 4)
    assert len(set(map(tuple, colours(150).tolist()))) == 150
